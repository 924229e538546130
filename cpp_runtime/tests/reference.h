// The operator as plain loops in double precision: what every kernel is compared with.
#ifndef LCNN_TESTS_REFERENCE_H_
#define LCNN_TESTS_REFERENCE_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "lcnn/lookup_conv.h"

// One output before the activation, and the sum of the magnitudes of its terms, which bounds the
// rounding error.
struct ReferenceValue {
  double value;
  double magnitude;
};

// Clipping has a slope of at most 1: the error bound holds after it. HardSwish has one of at most
// 1.5, and its own roundings are below 1.25 eps |value|: twice the bound of three terms or more
// holds. A NaN stays, and minus infinity becomes one.
inline double Activated(float clip_min, float clip_max, bool hard_swish, double value) {
  if (hard_swish) return value * (value < -3 ? 0 : value > 3 ? 1 : value / 6 + 0.5);
  return value < clip_min ? clip_min : value > clip_max ? clip_max : value;
}
inline double Activated(const lcnn::LookupConvShape& shape, double value) {
  return Activated(shape.clip_min, shape.clip_max, shape.hard_swish, value);
}

// `kernel` is P, dense, indexed ((o * kH + r) * kW + c) * k + j.
inline ReferenceValue Reference(const lcnn::LookupConvShape& shape, const float* d,
                                const std::vector<float>& kernel, const float* bias, const float* x,
                                int64_t height, int64_t width, int64_t n, int64_t o, int64_t oy,
                                int64_t ox) {
  const int64_t m = shape.channels / shape.group, k = shape.dictionary_size;
  const int64_t g = o / (shape.out_channels / shape.group);
  ReferenceValue y = {bias[o], std::fabs(bias[o])};
  for (int64_t r = 0; r < shape.height.kernel; ++r) {
    for (int64_t c = 0; c < shape.width.kernel; ++c) {
      const int64_t iy =
          oy * shape.height.stride + r * shape.height.dilation - shape.height.pad_begin;
      const int64_t ix = ox * shape.width.stride + c * shape.width.dilation - shape.width.pad_begin;
      if (iy < 0 || iy >= height || ix < 0 || ix >= width) continue;
      for (int64_t j = 0; j < k; ++j) {
        const double p = kernel[static_cast<size_t>(
            ((o * shape.height.kernel + r) * shape.width.kernel + c) * k + j)];
        if (p == 0) continue;
        for (int64_t i = 0; i < m; ++i) {
          const double pixel = x[((n * shape.channels + g * m + i) * height + iy) * width + ix];
          const double term = p * d[(g * k + j) * m + i] * pixel;
          y.value += term;
          y.magnitude += std::fabs(term);
        }
      }
    }
  }
  return y;
}

#endif  // LCNN_TESTS_REFERENCE_H_
