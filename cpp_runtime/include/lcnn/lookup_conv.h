// The lookup convolution without any inference framework: describe a layer once, run it on many
// inputs.
//
// The operator's definition is in cpp_runtime/README.md. Tensors are dense NCHW float32.
#ifndef LCNN_LOOKUP_CONV_H_
#define LCNN_LOOKUP_CONV_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "lcnn/types.h"

namespace lcnn {

struct LookupConvShape {
  int64_t channels = 0;         // C of X, over all groups
  int64_t out_channels = 0;     // O
  int64_t group = 1;            // divides channels and out_channels
  int64_t dictionary_size = 0;  // k, dictionary rows of one group
  Axis height;
  Axis width;
  float clip_min = 0;  // bounds of the result, clip_min <= clip_max
  float clip_max = 0;
  bool hard_swish = false;  // in place of the clip, whose bounds must be the limits of float then
  // Max pooling of the result, within the limits of MaxPoolShape: then no tensor is added to it.
  // Kernels and strides of 1 are no pooling.
  Axis pool_height = {};
  Axis pool_width = {};

  bool pools() const {
    return pool_height.kernel != 1 || pool_height.stride != 1 || pool_width.kernel != 1 ||
           pool_width.stride != 1;
  }
};

// The constants of a layer in the form of the operator's inputs. Copied at creation.
struct LookupConvConstants {
  const float* dictionary = nullptr;  // (group * k, channels / group)
  std::vector<uint32_t> gaps;         // between the flat positions ((o * kH + r) * kW + c) * k + j
  std::vector<float> coefficients;    // one per gap
  const float* bias = nullptr;        // (out_channels)
  // In place of `dictionary`, which is null then: the same as the bits of float16.
  const uint16_t* half_dictionary = nullptr;
  const int8_t* byte_dictionary = nullptr;  // likewise, as integers
};

// What is added before the activation: nothing, a tensor of Y's shape, or one number.
struct Residual {
  const float* tensor = nullptr;
  float constant = 0;
};

// Milliseconds of one Run, for the benchmark.
struct StageTimes {
  double project_ms = 0;
  double lookup_ms = 0;
};

struct Plan;
class PackedWeights;
struct LookupConvKernels;
template <class Plan>
class PlanCache;

// Immutable after construction but for an internal, locked cache of plans: one object may run in
// many threads at once.
class LookupConv {
 public:
  // Throws std::invalid_argument with the value seen and the rule, std::bad_alloc.
  LookupConv(const LookupConvShape& shape, const LookupConvConstants& constants, Isa isa);
  ~LookupConv();
  LookupConv(const LookupConv&) = delete;
  LookupConv& operator=(const LookupConv&) = delete;

  const LookupConvShape& shape() const;
  // Non-zero lookups of the whole layer.
  int64_t lookups() const;

  // The plan for inputs of (batch, channels, height, width) with a non-empty output. Throws
  // std::invalid_argument when the batch is not positive, and when the input is smaller than the
  // kernel or too large to address.
  std::shared_ptr<const Plan> PlanFor(int64_t batch, int64_t height, int64_t width) const;

  // Runs the layer. `scratch` holds ScratchBytes(plan) bytes of any alignment and any content; it,
  // X, Y and the residual do not overlap. Nothing outside the four buffers is read or written.
  void Run(const Plan& plan, const float* x, const Residual& residual, float* y, void* scratch,
           const ParallelFor& parallel_for, StageTimes* times = nullptr) const;

 private:
  std::unique_ptr<const PackedWeights> weights_;
  std::unique_ptr<PlanCache<Plan>> plans_;
  std::unique_ptr<const LookupConvKernels> kernels_;
};

// float16, as bits, or integers to float32.
std::vector<float> Widened(const uint16_t* halves, size_t count);
std::vector<float> Widened(const int8_t* bytes, size_t count);

size_t ScratchBytes(const Plan& plan);
// Multiply-adds that matter to the result: border positions and unused lanes are not counted.
int64_t ProjectMacs(const Plan& plan);
int64_t LookupMacs(const Plan& plan);

}  // namespace lcnn

#endif  // LCNN_LOOKUP_CONV_H_
