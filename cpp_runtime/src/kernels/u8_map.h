// Operations on single bytes and the numbers that they stand for.
#ifndef LCNN_SRC_KERNELS_U8_MAP_H_
#define LCNN_SRC_KERNELS_U8_MAP_H_

#include "kernels/lanes.h"

namespace lcnn {

// y[i] = round(clip(fma(float(b[i] - b_zero), b_scale, float(a[i] - a_zero) * a_scale))) + zero,
// with ties to even; the bounds low and high are within [-zero, 255 - zero].
struct AddBytesTask {
  const uint8_t* a;
  const uint8_t* b;
  int32_t a_zero;
  int32_t b_zero;
  float a_scale;
  float b_scale;
  float low;
  float high;
  int32_t zero;
  int64_t count;
  uint8_t* y;
};

// For each pixel i and channel c: y[i * channels + c] = round(x[c * x_pitch + i] / scale) + zero,
// ties to even, limited to [0, 255]. Of NaN, any byte.
struct QuantizeTask {
  const float* x;
  int64_t x_pitch;
  int64_t channels;
  int64_t pixels;
  float scale;
  int32_t zero;
  uint8_t* y;
};

// The same of numbers that follow each other, in bfloat16 as its bits.
struct QuantizeHalvesTask {
  const uint16_t* x;
  int64_t count;
  float scale;
  int32_t zero;
  uint8_t* y;
};

// For each pixel i and channel c: y[c * y_pitch + i] = float(x[i * channels + c] - zero) * scale.
struct DequantizeTask {
  const uint8_t* x;
  int64_t channels;
  int64_t pixels;
  float scale;
  int32_t zero;
  float* y;
  int64_t y_pitch;
};

// The same of numbers that follow each other, to bfloat16 as its bits, to nearest, ties to even.
struct DequantizeHalvesTask {
  const uint8_t* x;
  int64_t count;
  float scale;
  int32_t zero;
  uint16_t* y;
};

// y[i] = the larger of y[i] and x[i].
struct MaxBytesTask {
  const uint8_t* x;
  int64_t count;
  uint8_t* y;
};

// sums[i] += x[i].
struct SumBytesTask {
  const uint8_t* x;
  int64_t count;
  int32_t* sums;
};

struct ByteMapKernels {
  void (*add)(const AddBytesTask&);
  void (*quantize)(const QuantizeTask&);
  void (*quantize_halves)(const QuantizeHalvesTask&);
  void (*dequantize)(const DequantizeTask&);
  void (*dequantize_halves)(const DequantizeHalvesTask&);
  void (*max)(const MaxBytesTask&);
  void (*sum)(const SumBytesTask&);
};

#define LCNN_KERNELS(needs, suffix) extern const ByteMapKernels kByteMap##suffix;
#include "kernels/u8_map.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_U8_MAP_H_
