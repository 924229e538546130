// Depthwise products of bytes in terms of Reg: included by one file per way to multiply, after
// u8_regs_*.h and its own AddProducts(sums, bytes, weights).
//
// Four taps of as many channels as a register has bytes are interleaved, in two steps by halves of
// the 128 bits, to four registers of quads; packing the sums by the same halves puts channels back
// in order.
#ifndef LCNN_SRC_KERNELS_U8_DEPTH_BODY_H_
#define LCNN_SRC_KERNELS_U8_DEPTH_BODY_H_

#include "kernels/u8_depth.h"
#include "kernels/unroll.h"

namespace {

constexpr int64_t kQuarter = kRegBytes / 4;

struct Four {
  Reg quarter[4];
};

// The channels of four registers of bytes next to each other.
inline __attribute__((always_inline)) Four Interleave(Reg a, Reg b, Reg c, Reg d) {
  const Reg ab_low = Low8(a, b), ab_high = High8(a, b);
  const Reg cd_low = Low8(c, d), cd_high = High8(c, d);
  return {{Low16(ab_low, cd_low), High16(ab_low, cd_low), Low16(ab_high, cd_high),
           High16(ab_high, cd_high)}};
}

inline __attribute__((always_inline)) Four Sums(const lcnn::DepthTask& t, const uint8_t* x,
                                                const int8_t* w, const int32_t* start) {
  Four sums;
  LCNN_UNROLL
  for (int q = 0; q < 4; ++q) sums.quarter[q] = Load(start + q * kQuarter);
  for (int64_t i = 0; i < t.n_taps; i += lcnn::kTapGroup) {
    Reg taps[4];
    LCNN_UNROLL
    for (int j = 0; j < 4; ++j) {
      taps[j] = Load(x + t.taps[i + j].row * t.row_bytes + t.taps[i + j].column);
    }
    const Four quads = Interleave(taps[0], taps[1], taps[2], taps[3]);
    LCNN_UNROLL
    for (int q = 0; q < 4; ++q) {
      sums.quarter[q] = AddProducts(sums.quarter[q], quads.quarter[q], Load(w));
      w += kRegBytes;
    }
  }
  return sums;
}

// Values of the quarters, before rounding.
struct FourValues {
  RegFloat quarter[4];
};

inline __attribute__((always_inline)) FourValues Values(const lcnn::DepthTask& t, const Four& sums,
                                                        int64_t channel, const uint8_t* residual) {
  FourValues values;
  Four added = {};
  if (residual != nullptr) added = Interleave(Load(residual), Zero(), Zero(), Zero());
  LCNN_UNROLL
  for (int q = 0; q < 4; ++q) {
    const int64_t i = channel + q * kQuarter;
    RegFloat v =
        MultiplyAdd(ToFloat(sums.quarter[q]), LoadFloats(t.scale + i), LoadFloats(t.bias + i));
    if (residual != nullptr) {
      const Reg r = Subtract32(added.quarter[q], t.residual_zero);
      v = MultiplyAdd(ToFloat(r), SetFloats(t.residual_scale), v);
    }
    values.quarter[q] = Clip(v, SetFloats(t.low), SetFloats(t.high));
  }
  return values;
}

// Calls store(place, channels that exist, values) for each pixel and kRegBytes channels.
template <class Store>
inline __attribute__((always_inline)) void Run(const lcnn::DepthTask& task, const Store& store) {
  const lcnn::DepthTask t = task;  // a local that no store can change
  const int64_t weights = t.n_taps * kRegBytes;
  const int8_t* w = t.weights;
  for (int64_t channel = 0; channel < t.filters; channel += kRegBytes, w += weights) {
    const int64_t count = t.filters - channel < kRegBytes ? t.filters - channel : kRegBytes;
    for (int64_t p = 0; p < t.pixels; ++p) {
      const Four sums = Sums(t, t.x + t.x_offsets[p] + channel, w, t.start + channel);
      const int64_t place = t.y_offsets[p] + channel;
      uint8_t some[kRegBytes];
      const uint8_t* residual = t.residual;
      if (residual != nullptr) {
        residual += place;
        if (count < kRegBytes) {
          __builtin_memcpy(some, residual, static_cast<size_t>(count));
          residual = some;
        }
      }
      store(place, count, Values(t, sums, channel, residual));
    }
  }
}

void ToBytes(const lcnn::DepthTask& t) {
  auto* const y = static_cast<uint8_t*>(t.y);
  const int32_t zero = t.zero;
  Run(t, [=](int64_t place, int64_t count, const FourValues& values) {
    const Reg bytes = Pack(ToInt(values.quarter[0], zero), ToInt(values.quarter[1], zero),
                           ToInt(values.quarter[2], zero), ToInt(values.quarter[3], zero));
    if (count == kRegBytes) {
      Store(y + place, bytes);
      return;
    }
    uint8_t all[kRegBytes];
    Store(all, bytes);
    __builtin_memcpy(y + place, all, static_cast<size_t>(count));
  });
}

void ToFloats(const lcnn::DepthTask& t) {
  auto* const y = static_cast<float*>(t.y);
  Run(t, [=](int64_t place, int64_t count, const FourValues& values) {
    float all[kRegBytes];
    LCNN_UNROLL
    for (int q = 0; q < 4; ++q) StoreFloats(all + q * kQuarter, values.quarter[q]);
    for (int64_t i = 0; i < kRegBytes; ++i) {
      const int64_t channel = lcnn::DepthChannel(kRegBytes, i);
      if (channel < count) y[place + channel] = all[i];
    }
  });
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_DEPTH_BODY_H_
