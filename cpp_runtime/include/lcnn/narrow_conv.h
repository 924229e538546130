// Convolutions and lookup convolutions of narrow numbers, bytes that stand for real numbers or
// bfloat16: describe a layer once, run it on many inputs.
//
// The operators' definition is in cpp_runtime/README.md. Inputs are dense NHWC; outputs are of the
// same type and layout, NCHW float32 or, of bytes, NHWC bfloat16.
#ifndef LCNN_NARROW_CONV_H_
#define LCNN_NARROW_CONV_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "lcnn/types.h"

namespace lcnn {

// The byte q stands for scale * (q - zero_point).
struct ByteScale {
  float scale = 1;
  uint8_t zero_point = 0;
};

struct NarrowConvShape {
  int64_t channels = 0;         // C of X, over all groups
  int64_t out_channels = 0;     // O
  int64_t group = 1;            // divides channels and out_channels
  bool lookup = false;          // W reads the responses of a dictionary, not X
  int64_t dictionary_size = 0;  // k, dictionary rows of one group, of a lookup
  Axis height;
  Axis width;
  float clip_min = 0;  // bounds of the real result, clip_min <= clip_max
  float clip_max = 0;
  bool to_narrow = false;    // else to float32
  bool to_bfloat16 = false;  // of bytes: in place of float32, which is rounded to nearest even

  // Numbers that a filter reads at one position: K of W.
  int64_t depth() const { return lookup ? dictionary_size : channels / group; }
};

// The constants of a layer in the form of the operators' inputs. Copied at creation.
struct ByteConvConstants {
  ByteScale x;
  const int8_t* dictionary = nullptr;       // (group * k, channels / group), of a lookup
  const float* dictionary_scale = nullptr;  // (group * k)
  const int8_t* weights = nullptr;          // (out_channels, kernel height, width, depth)
  const float* weight_scale = nullptr;      // (out_channels)
  const float* bias = nullptr;              // (out_channels)
  ByteScale y;                              // of bytes out, as is the next
  ByteScale residual;
};

// The same of a layer of bfloat16, as their bits.
struct Bfloat16ConvConstants {
  const uint16_t* dictionary = nullptr;  // (group * k, channels / group), of a lookup
  const uint16_t* weights = nullptr;     // (out_channels, kernel height, kernel width, depth)
  const float* bias = nullptr;           // (out_channels)
};

struct NarrowConvInput {
  int64_t batch;
  int64_t height;
  int64_t width;
  const void* x;         // (batch, height, width, channels)
  const void* residual;  // as Y, or null: nothing is added; of bytes out
};

class PackedConv;

// Immutable after construction: one object may run in many threads at once.
class NarrowConv {
 public:
  // Throws std::invalid_argument with the value seen and the rule, std::bad_alloc.
  NarrowConv(const NarrowConvShape& shape, const ByteConvConstants& constants, Isa isa);
  NarrowConv(const NarrowConvShape& shape, const Bfloat16ConvConstants& constants, Isa isa);
  ~NarrowConv();
  NarrowConv(const NarrowConv&) = delete;
  NarrowConv& operator=(const NarrowConv&) = delete;

  const NarrowConvShape& shape() const;

  // What Run needs for such an input. Throws std::invalid_argument when the input is smaller than
  // the kernel or too large to address.
  size_t ScratchBytes(int64_t batch, int64_t height, int64_t width) const;

  // Y: narrow numbers (batch, output height, output width, out_channels), or floats (batch,
  // out_channels, output height, output width). `scratch` holds ScratchBytes of any alignment and
  // content. Buffers do not overlap, and nothing outside them is read or written. Throws as
  // ScratchBytes.
  void Run(const NarrowConvInput& input, void* y, void* scratch,
           const ParallelFor& parallel_for) const;

 private:
  std::unique_ptr<const PackedConv> packed_;
};

}  // namespace lcnn

#endif  // LCNN_NARROW_CONV_H_
