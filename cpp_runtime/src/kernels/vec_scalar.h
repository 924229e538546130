// Four floats in plain C++: the meaning of the operations that the other vec_*.h map to
// instructions.
#ifndef LCNN_SRC_KERNELS_VEC_SCALAR_H_
#define LCNN_SRC_KERNELS_VEC_SCALAR_H_

#include <cstdint>

namespace {

inline float FromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = half >> 10 & 0x1fu;
  const uint32_t fraction = half & 0x3ffu;
  if (exponent == 0) {  // subnormal or zero: fraction * 2^-24 is exact in float32
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t float_exponent = exponent == 31 ? 255 : exponent + 127 - 15;
  const uint32_t bits = sign | float_exponent << 23 | fraction << 13;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

struct Vec {
  static constexpr int kLanes = 4;
  float lane[kLanes];

  static Vec Set(float a) { return {{a, a, a, a}}; }
  static Vec Load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
  // float16 as its bits.
  static Vec LoadHalves(const uint16_t* p) {
    return {{FromHalf(p[0]), FromHalf(p[1]), FromHalf(p[2]), FromHalf(p[3])}};
  }
  static Vec LoadBytes(const int8_t* p) {
    return {{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]),
             static_cast<float>(p[3])}};
  }
  // The first `count` floats at p, then zeros.
  static Vec LoadFirst(const float* p, int count) {
    Vec r = Set(0);
    for (int l = 0; l < count; ++l) r.lane[l] = p[l];
    return r;
  }
  // p[0], p[2], ..., `count` of them, then zeros; nothing beyond the last is read.
  static Vec LoadAlternate(const float* p, int count) {
    Vec r = Set(0);
    for (int l = 0; l < count; ++l) r.lane[l] = p[2 * l];
    return r;
  }
  // p[indices[l]] in the lanes of mask, 0 elsewhere.
  static Vec Gather(const float* p, const int32_t* indices, uint32_t mask) {
    Vec r = Set(0);
    for (int l = 0; l < kLanes; ++l) {
      if (mask >> l & 1) r.lane[l] = p[indices[l]];
    }
    return r;
  }
  // Of all lanes, in an order of its own.
  float Sum() const { return (lane[0] + lane[1]) + (lane[2] + lane[3]); }
  void Store(float* p) const {
    for (int l = 0; l < kLanes; ++l) p[l] = lane[l];
  }
  void StoreFirst(float* p, int count) const {
    for (int l = 0; l < count; ++l) p[l] = lane[l];
  }
  // Moves the first lanes to the lanes of mask, in order; 0 elsewhere.
  Vec Expand(uint32_t mask) const {
    Vec r = Set(0);
    int next = 0;
    for (int l = 0; l < kLanes; ++l) {
      if (mask >> l & 1) r.lane[l] = lane[next++];
    }
    return r;
  }
  // Moves the lanes of mask to the front, in order; the rest is unspecified.
  Vec Compress(uint32_t mask) const {
    Vec r = Set(0);
    int next = 0;
    for (int l = 0; l < kLanes; ++l) {
      if (mask >> l & 1) r.lane[next++] = lane[l];
    }
    return r;
  }
};

inline Vec operator+(Vec a, Vec b) {
  for (int l = 0; l < Vec::kLanes; ++l) a.lane[l] += b.lane[l];
  return a;
}
inline Vec MultiplyAdd(Vec a, Vec b, Vec c) {
  for (int l = 0; l < Vec::kLanes; ++l) c.lane[l] += a.lane[l] * b.lane[l];
  return c;
}
// Of NaN and a number, either one.
inline Vec Max(Vec a, Vec b) {
  for (int l = 0; l < Vec::kLanes; ++l) a.lane[l] = a.lane[l] < b.lane[l] ? b.lane[l] : a.lane[l];
  return a;
}
// A NaN stays: both comparisons with it are false.
inline Vec Clip(Vec a, Vec low, Vec high) {
  for (int l = 0; l < Vec::kLanes; ++l) {
    if (a.lane[l] < low.lane[l]) a.lane[l] = low.lane[l];
    if (a.lane[l] > high.lane[l]) a.lane[l] = high.lane[l];
  }
  return a;
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_VEC_SCALAR_H_
