// Operations on single bytes in plain loops, which the compiler turns into vectors where the flags
// of the including file allow: all are exact in any order.
#ifndef LCNN_SRC_KERNELS_U8_MAP_BODY_H_
#define LCNN_SRC_KERNELS_U8_MAP_BODY_H_

#include "kernels/bf16_bits.h"
#include "kernels/channel_blocks.h"
#include "kernels/u8_map.h"

namespace {

// Adding 1.5 * 2^23 leaves no bit for a fraction: a value below 2^22 is rounded to the nearest
// integer.
inline int32_t Rounded(float v) {
  constexpr float kNoFraction = 0x1.8p23f;
  return static_cast<int32_t>((v + kNoFraction) - kNoFraction);
}

// NaN becomes `low`.
inline float Limited(float v, float low, float high) {
  v = v > low ? v : low;
  return v < high ? v : high;
}

void Add(const lcnn::AddBytesTask& task) {
  const lcnn::AddBytesTask t = task;
  for (int64_t i = 0; i < t.count; ++i) {
    const float a = static_cast<float>(t.a[i] - t.a_zero) * t.a_scale;
    const float v = __builtin_fmaf(static_cast<float>(t.b[i] - t.b_zero), t.b_scale, a);
    t.y[i] = static_cast<uint8_t>(Rounded(Limited(v, t.low, t.high)) + t.zero);
  }
}

void Quantize(const lcnn::QuantizeTask& task) {
  const lcnn::QuantizeTask t = task;
  const auto low = static_cast<float>(-t.zero), high = static_cast<float>(255 - t.zero);
  uint8_t tile[kChannels<uint8_t>][kPixels] = {};
  for (int64_t begin = 0; begin < t.pixels; begin += kPixels) {
    const int64_t count = t.pixels - begin < kPixels ? t.pixels - begin : kPixels;
    for (int64_t c = 0; c < t.channels; c = NextBlock<uint8_t>(c, t.channels)) {
      for (int64_t k = 0; k < kChannels<uint8_t> && c + k < t.channels; ++k) {
        const float* const x = t.x + (c + k) * t.x_pitch + begin;
        uint8_t* const bytes = tile[k];
        for (int64_t i = 0; i < count; ++i) {
          bytes[i] = static_cast<uint8_t>(Rounded(Limited(x[i] / t.scale, low, high)) + t.zero);
        }
      }
      JoinChannels(tile, count, t.channels, t.pixels - begin, t.y + begin * t.channels + c);
    }
  }
}

void QuantizeHalves(const lcnn::QuantizeHalvesTask& task) {
  const lcnn::QuantizeHalvesTask t = task;
  const auto low = static_cast<float>(-t.zero), high = static_cast<float>(255 - t.zero);
  for (int64_t i = 0; i < t.count; ++i) {
    const float v = FromBfloat16(t.x[i]) / t.scale;
    t.y[i] = static_cast<uint8_t>(Rounded(Limited(v, low, high)) + t.zero);
  }
}

void Dequantize(const lcnn::DequantizeTask& task) {
  const lcnn::DequantizeTask t = task;
  uint8_t tile[kChannels<uint8_t>][kPixels] = {};
  for (int64_t begin = 0; begin < t.pixels; begin += kPixels) {
    const int64_t count = t.pixels - begin < kPixels ? t.pixels - begin : kPixels;
    for (int64_t c = 0; c < t.channels; c = NextBlock<uint8_t>(c, t.channels)) {
      const uint8_t* const x = t.x + begin * t.channels + c;
      SplitChannels(x, count, t.channels, tile);
      for (int64_t k = 0; k < kChannels<uint8_t> && c + k < t.channels; ++k) {
        float* const y = t.y + (c + k) * t.y_pitch + begin;
        const uint8_t* const bytes = tile[k];
        for (int64_t i = 0; i < count; ++i) {
          y[i] = static_cast<float>(bytes[i] - t.zero) * t.scale;
        }
      }
    }
  }
}

void DequantizeHalves(const lcnn::DequantizeHalvesTask& task) {
  const lcnn::DequantizeHalvesTask t = task;
  for (int64_t i = 0; i < t.count; ++i) {
    t.y[i] = ToBfloat16(static_cast<float>(t.x[i] - t.zero) * t.scale);
  }
}

void Max(const lcnn::MaxBytesTask& task) {
  const lcnn::MaxBytesTask t = task;
  for (int64_t i = 0; i < t.count; ++i) t.y[i] = t.y[i] < t.x[i] ? t.x[i] : t.y[i];
}

void SumUp(const lcnn::SumBytesTask& task) {
  const lcnn::SumBytesTask t = task;
  for (int64_t i = 0; i < t.count; ++i) t.sums[i] += t.x[i];
}

constexpr lcnn::ByteMapKernels kMaps = {Add, Quantize, QuantizeHalves, Dequantize, DequantizeHalves,
                                        Max, SumUp};

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_MAP_BODY_H_
