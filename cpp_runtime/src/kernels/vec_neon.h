// Four floats in a q register of aarch64. Operations are defined in vec_scalar.h.
#ifndef LCNN_SRC_KERNELS_VEC_NEON_H_
#define LCNN_SRC_KERNELS_VEC_NEON_H_

#include <arm_neon.h>

#include <cstdint>

namespace {

// NEON has no compress and expand: byte numbers for TBL, one row per mask. TBL gives 0 where the
// number is not one of a byte.
struct ByteTables {
  uint8_t compress[16][16] = {};  // row m: the bytes of the lanes in m, in order
  uint8_t expand[16][16] = {};    // row m: for a lane in m, the bytes of the lane numbered by how
                                  // many lanes of m precede it; for the others, no bytes
  constexpr ByteTables() {
    for (int mask = 0; mask < 16; ++mask) {
      int next = 0;
      for (int lane = 0; lane < 4; ++lane) {
        const bool in = (mask >> lane & 1) != 0;
        for (int byte = 0; byte < 4; ++byte) {
          expand[mask][4 * lane + byte] = static_cast<uint8_t>(in ? 4 * next + byte : 255);
          if (in) compress[mask][4 * next + byte] = static_cast<uint8_t>(4 * lane + byte);
        }
        next += in;
      }
    }
  }
};
constexpr ByteTables kByteTables;

struct Vec {
  static constexpr int kLanes = 4;
  float32x4_t f32x4;

  Vec Permute(const uint8_t* byte_numbers) const {
    const uint8x16_t u8x16 = vqtbl1q_u8(vreinterpretq_u8_f32(f32x4), vld1q_u8(byte_numbers));
    return {vreinterpretq_f32_u8(u8x16)};
  }

  static Vec Set(float a) { return {vdupq_n_f32(a)}; }
  static Vec Load(const float* p) { return {vld1q_f32(p)}; }
  static Vec LoadHalves(const uint16_t* p) {
    return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))};
  }
  static Vec LoadBytes(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))};
  }
  // Lane numbers of the three functions below are constants: instructions name their lane.
  template <int STEP>
  static Vec LoadSteps(const float* p, int count) {
    Vec r = Set(0);
    if (count > 0) r.f32x4 = vld1q_lane_f32(p, r.f32x4, 0);
    if (count > 1) r.f32x4 = vld1q_lane_f32(p + STEP, r.f32x4, 1);
    if (count > 2) r.f32x4 = vld1q_lane_f32(p + 2 * STEP, r.f32x4, 2);
    if (count > 3) r.f32x4 = vld1q_lane_f32(p + 3 * STEP, r.f32x4, 3);
    return r;
  }
  static Vec LoadFirst(const float* p, int count) { return LoadSteps<1>(p, count); }
  static Vec LoadAlternate(const float* p, int count) { return LoadSteps<2>(p, count); }
  static Vec Gather(const float* p, const int32_t* indices, uint32_t mask) {
    Vec r = Set(0);
    if (mask & 1) r.f32x4 = vld1q_lane_f32(p + indices[0], r.f32x4, 0);
    if (mask & 2) r.f32x4 = vld1q_lane_f32(p + indices[1], r.f32x4, 1);
    if (mask & 4) r.f32x4 = vld1q_lane_f32(p + indices[2], r.f32x4, 2);
    if (mask & 8) r.f32x4 = vld1q_lane_f32(p + indices[3], r.f32x4, 3);
    return r;
  }
  float Sum() const { return vaddvq_f32(f32x4); }
  void Store(float* p) const { vst1q_f32(p, f32x4); }
  void StoreFirst(float* p, int count) const {
    if (count > 0) vst1q_lane_f32(p, f32x4, 0);
    if (count > 1) vst1q_lane_f32(p + 1, f32x4, 1);
    if (count > 2) vst1q_lane_f32(p + 2, f32x4, 2);
    if (count > 3) vst1q_lane_f32(p + 3, f32x4, 3);
  }
  Vec Expand(uint32_t mask) const { return Permute(kByteTables.expand[mask]); }
  Vec Compress(uint32_t mask) const { return Permute(kByteTables.compress[mask]); }
};

inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.f32x4, b.f32x4)}; }
inline Vec MultiplyAdd(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.f32x4, a.f32x4, b.f32x4)}; }
inline Vec Max(Vec a, Vec b) { return {vmaxq_f32(a.f32x4, b.f32x4)}; }
// FMAX and FMIN return NaN when either operand is NaN.
inline Vec Clip(Vec a, Vec low, Vec high) {
  return {vminq_f32(high.f32x4, vmaxq_f32(low.f32x4, a.f32x4))};
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_VEC_NEON_H_
