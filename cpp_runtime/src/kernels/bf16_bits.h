// bfloat16 as bits: the upper half of a float32.
#ifndef LCNN_SRC_KERNELS_BF16_BITS_H_
#define LCNN_SRC_KERNELS_BF16_BITS_H_

#include <cstdint>

namespace {

inline float FromBfloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// To nearest, ties to even. A NaN stays one.
inline uint16_t ToBfloat16(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return static_cast<uint16_t>((value != value ? bits | 0x400000u : rounded) >> 16);
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_BF16_BITS_H_
