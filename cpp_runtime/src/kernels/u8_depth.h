// Depthwise convolution of unsigned bytes with signed ones: a filter for each channel.
#ifndef LCNN_SRC_KERNELS_U8_DEPTH_H_
#define LCNN_SRC_KERNELS_U8_DEPTH_H_

#include "kernels/u8_dot.h"

namespace lcnn {

// Taps come in fours. A kernel works on `channels` channels at a time, 16 for each 128 bits of its
// registers, in the order in which registers are interleaved: DepthChannel tells which channel is
// at place i of that order.
constexpr int64_t kTapGroup = 4;
constexpr int64_t DepthChannel(int64_t channels, int64_t i) {
  const int64_t lanes = channels / 16, quarter = i / (lanes * 4), in_quarter = i % (lanes * 4);
  return in_quarter / 4 * 16 + quarter * 4 + in_quarter % 4;
}

// Where a tap lies: row * row_bytes + column bytes behind the pixel's place.
struct DepthTap {
  int32_t row;
  int32_t column;
};

// As DotTask, with filter = channel: the sum is over taps t of x[tap + c] * weights, which lie for
// each `channels` channels, for each four taps, in the order of channels, four each. start, scale
// and bias are in that order as well, and complete. Up to `channels` - 1 bytes behind the last one
// of X are read.
struct DepthTask {
  const uint8_t* x;
  const int64_t* x_offsets;
  int64_t row_bytes;
  int64_t pixels;
  const DepthTap* taps;
  int64_t n_taps;  // a multiple of kTapGroup
  const int8_t* weights;
  int64_t filters;
  const int32_t* start;
  const float* scale;
  const float* bias;
  float low;
  float high;
  int32_t zero;
  const uint8_t* residual;
  float residual_scale;
  int32_t residual_zero;
  void* y;
  const int64_t* y_offsets;
};

struct DepthKernels {
  int64_t channels;
  void (*to_narrow)(const DepthTask&);
  void (*to_floats)(const DepthTask&);
};

#define LCNN_KERNELS(needs, suffix) extern const DepthKernels kDepth##suffix;
#include "kernels/u8_depth.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_U8_DEPTH_H_
