// Operations on single numbers of bfloat16 in plain loops, which the compiler turns into vectors
// where the flags of the including file allow: all are exact in any order.
#ifndef LCNN_SRC_KERNELS_BF16_MAP_BODY_H_
#define LCNN_SRC_KERNELS_BF16_MAP_BODY_H_

#include "kernels/bf16_bits.h"
#include "kernels/bf16_map.h"

namespace {

// Pixels at a time, of which a row of each channel is in the first-level cache.
constexpr int64_t kPixels = 64;

void ToHalves(const lcnn::CastHalvesTask& task, const float* x, uint16_t* y) {
  const lcnn::CastHalvesTask t = task;
  for (int64_t begin = 0; begin < t.pixels; begin += kPixels) {
    const int64_t count = t.pixels - begin < kPixels ? t.pixels - begin : kPixels;
    for (int64_t c = 0; c < t.channels; ++c) {
      uint16_t halves[kPixels];
      const float* const from = x + c * t.pitch + begin;
      for (int64_t i = 0; i < count; ++i) halves[i] = ToBfloat16(from[i]);
      uint16_t* const to = y + begin * t.channels + c;
      for (int64_t i = 0; i < count; ++i) to[i * t.channels] = halves[i];
    }
  }
}

void ToFloats(const lcnn::CastHalvesTask& task, const uint16_t* x, float* y) {
  const lcnn::CastHalvesTask t = task;
  for (int64_t begin = 0; begin < t.pixels; begin += kPixels) {
    const int64_t count = t.pixels - begin < kPixels ? t.pixels - begin : kPixels;
    for (int64_t c = 0; c < t.channels; ++c) {
      const uint16_t* const from = x + begin * t.channels + c;
      float* const to = y + c * t.pitch + begin;
      for (int64_t i = 0; i < count; ++i) to[i] = FromBfloat16(from[i * t.channels]);
    }
  }
}

void Max(const lcnn::MaxHalvesTask& task) {
  const lcnn::MaxHalvesTask t = task;
  for (int64_t i = 0; i < t.count; ++i) {
    t.y[i] = FromBfloat16(t.y[i]) < FromBfloat16(t.x[i]) ? t.x[i] : t.y[i];
  }
}

constexpr lcnn::Bfloat16MapKernels kMaps = {ToHalves, ToFloats, Max};

}  // namespace

#endif  // LCNN_SRC_KERNELS_BF16_MAP_BODY_H_
