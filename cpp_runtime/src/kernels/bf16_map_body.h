// Operations on single numbers of bfloat16 in plain loops, which the compiler turns into vectors
// where the flags of the including file allow: all are exact in any order.
#ifndef LCNN_SRC_KERNELS_BF16_MAP_BODY_H_
#define LCNN_SRC_KERNELS_BF16_MAP_BODY_H_

#include "kernels/bf16_bits.h"
#include "kernels/bf16_map.h"
#include "kernels/channel_blocks.h"

namespace {

void ToHalves(const lcnn::CastHalvesTask& task, const float* x, uint16_t* y) {
  const lcnn::CastHalvesTask t = task;
  uint16_t tile[kChannels<uint16_t>][kPixels] = {};
  for (int64_t begin = 0; begin < t.pixels; begin += kPixels) {
    const int64_t count = t.pixels - begin < kPixels ? t.pixels - begin : kPixels;
    for (int64_t c = 0; c < t.channels; c = NextBlock<uint16_t>(c, t.channels)) {
      for (int64_t k = 0; k < kChannels<uint16_t> && c + k < t.channels; ++k) {
        const float* const from = x + (c + k) * t.pitch + begin;
        uint16_t* const halves = tile[k];
        for (int64_t i = 0; i < count; ++i) halves[i] = ToBfloat16(from[i]);
      }
      JoinChannels(tile, count, t.channels, t.pixels - begin, y + begin * t.channels + c);
    }
  }
}

void ToFloats(const lcnn::CastHalvesTask& task, const uint16_t* x, float* y) {
  const lcnn::CastHalvesTask t = task;
  uint16_t tile[kChannels<uint16_t>][kPixels] = {};
  for (int64_t begin = 0; begin < t.pixels; begin += kPixels) {
    const int64_t count = t.pixels - begin < kPixels ? t.pixels - begin : kPixels;
    for (int64_t c = 0; c < t.channels; c = NextBlock<uint16_t>(c, t.channels)) {
      const uint16_t* const from = x + begin * t.channels + c;
      SplitChannels(from, count, t.channels, tile);
      for (int64_t k = 0; k < kChannels<uint16_t> && c + k < t.channels; ++k) {
        float* const to = y + (c + k) * t.pitch + begin;
        const uint16_t* const halves = tile[k];
        for (int64_t i = 0; i < count; ++i) to[i] = FromBfloat16(halves[i]);
      }
    }
  }
}

void Max(const lcnn::MaxHalvesTask& task) {
  const lcnn::MaxHalvesTask t = task;
  for (int64_t i = 0; i < t.count; ++i) {
    t.y[i] = FromBfloat16(t.y[i]) < FromBfloat16(t.x[i]) ? t.x[i] : t.y[i];
  }
}

void Round(const float* x, int64_t count, uint16_t* y) {
  for (int64_t i = 0; i < count; ++i) y[i] = ToBfloat16(x[i]);
}

constexpr lcnn::Bfloat16MapKernels kMaps = {ToHalves, ToFloats, Max, Round};

}  // namespace

#endif  // LCNN_SRC_KERNELS_BF16_MAP_BODY_H_
