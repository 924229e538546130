// Operations on single numbers of bfloat16.
#ifndef LCNN_SRC_KERNELS_BF16_MAP_H_
#define LCNN_SRC_KERNELS_BF16_MAP_H_

#include "kernels/lanes.h"

namespace lcnn {

// Between planes of float32 and pixels of bfloat16, channel c of pixel i: x or y[c * pitch + i] of
// floats, and [i * channels + c] of bfloat16.
struct CastHalvesTask {
  int64_t pitch;
  int64_t channels;
  int64_t pixels;
};

// y[i] = the larger of y[i] and x[i]; of NaN and a number, either one.
struct MaxHalvesTask {
  const uint16_t* x;
  int64_t count;
  uint16_t* y;
};

struct Bfloat16MapKernels {
  void (*to_halves)(const CastHalvesTask&, const float* x,
                    uint16_t* y);  // to nearest, ties to even
  void (*to_floats)(const CastHalvesTask&, const uint16_t* x, float* y);
  void (*max)(const MaxHalvesTask&);
  // y[i] = x[i] to nearest, ties to even.
  void (*round)(const float* x, int64_t count, uint16_t* y);
};

#define LCNN_KERNELS(needs, suffix) extern const Bfloat16MapKernels kBfloat16Map##suffix;
#include "kernels/bf16_map.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_BF16_MAP_H_
