// What the operators share: instruction sets, axes, threads.
#ifndef LCNN_TYPES_H_
#define LCNN_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lcnn {

// Lowest first among those of one processor family.
enum class Isa { kScalar, kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kAmx, kNeon };

const char* IsaName(Isa isa);
// Every instruction set this library was built with, lowest first.
std::vector<Isa> BuiltIsas();
bool IsaSupported(Isa isa);  // `isa` is one of BuiltIsas()
// The best supported instruction set, lowered (never raised) by the environment variable LCNN_ISA.
// Throws std::invalid_argument when LCNN_ISA is not a name of BuiltIsas().
Isa ChooseIsa();

// One spatial axis of a window; `pad_end` is the bottom or right border.
struct Axis {
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad_begin = 0;
  int64_t pad_end = 0;
};

// Height or width of the output. Throws std::invalid_argument when the padded input is smaller than
// the kernel, or the input outside [0, 2^31).
int64_t OutputExtent(const Axis& axis, int64_t input, const char* axis_name);

// Calls task(argument, i) once for every i in [0, count), in any order, on any threads, and returns
// when all are done. A null `run` means: in the calling thread.
struct ParallelFor {
  void (*run)(void* context, size_t count, void (*task)(void* argument, size_t i),
              void* argument) = nullptr;
  void* context = nullptr;
};

}  // namespace lcnn

#endif  // LCNN_TYPES_H_
