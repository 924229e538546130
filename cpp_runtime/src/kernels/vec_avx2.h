// Eight floats in a ymm register. Operations are defined in vec_scalar.h.
#ifndef LCNN_SRC_KERNELS_VEC_AVX2_H_
#define LCNN_SRC_KERNELS_VEC_AVX2_H_

#include <immintrin.h>

#include <cstdint>

namespace {

// AVX2 has no compress and expand: lane numbers for VPERMPS, one row per mask.
struct LaneTables {
  uint8_t compress[256][8] = {};  // row m: the numbers of the lanes in m, in order
  uint8_t expand[256][8] = {};    // row m: for a lane in m, how many lanes of m precede it
  constexpr LaneTables() {
    for (int mask = 0; mask < 256; ++mask) {
      uint8_t next = 0;
      for (uint8_t lane = 0; lane < 8; ++lane) {
        if ((mask >> lane & 1) == 0) continue;
        compress[mask][next] = lane;
        expand[mask][lane] = next++;
      }
    }
  }
};
constexpr LaneTables kLaneTables;

struct Vec {
  static constexpr int kLanes = 8;
  __m256 f32x8;

  static __m256i First(int count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
  }
  static __m256i Mask(uint32_t mask) {
    const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(mask));
    return _mm256_cmpeq_epi32(_mm256_and_si256(all, bits), bits);
  }
  Vec Permute(const uint8_t* lane_numbers) const {
    const __m128i u8x8 = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(lane_numbers));
    return {_mm256_permutevar8x32_ps(f32x8, _mm256_cvtepu8_epi32(u8x8))};
  }

  static Vec Set(float a) { return {_mm256_set1_ps(a)}; }
  static Vec Load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec LoadHalves(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec LoadBytes(const int8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
  }
  static Vec LoadFirst(const float* p, int count) { return {_mm256_maskload_ps(p, First(count))}; }
  static Vec LoadAlternate(const float* p, int count) {
    const int first = count < 4 ? count : 4;
    const __m256i even = _mm256_setr_epi32(-1, 0, -1, 0, -1, 0, -1, 0);
    const __m256 low = _mm256_maskload_ps(p, _mm256_and_si256(First(2 * first), even));
    const __m256 high =
        _mm256_maskload_ps(p + 8, _mm256_and_si256(First(2 * (count - first)), even));
    // Lanes 0 2 8 10 4 6 12 14 of the two, then in order.
    const __m256 mixed = _mm256_shuffle_ps(low, high, 0x88);
    return {_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8))};
  }
  static Vec Gather(const float* p, const int32_t* indices, uint32_t mask) {
    const __m256i i32x8 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices));
    return {_mm256_mask_i32gather_ps(_mm256_setzero_ps(), p, i32x8, _mm256_castsi256_ps(Mask(mask)),
                                     4)};
  }
  float Sum() const {
    const __m128 x4 = _mm_add_ps(_mm256_castps256_ps128(f32x8), _mm256_extractf128_ps(f32x8, 1));
    const __m128 x2 = _mm_add_ps(x4, _mm_movehl_ps(x4, x4));
    return _mm_cvtss_f32(_mm_add_ss(x2, _mm_movehdup_ps(x2)));
  }
  void Store(float* p) const { _mm256_storeu_ps(p, f32x8); }
  void StoreFirst(float* p, int count) const { _mm256_maskstore_ps(p, First(count), f32x8); }
  Vec Expand(uint32_t mask) const {
    const Vec moved = Permute(kLaneTables.expand[mask]);
    return {_mm256_and_ps(moved.f32x8, _mm256_castsi256_ps(Mask(mask)))};
  }
  Vec Compress(uint32_t mask) const { return Permute(kLaneTables.compress[mask]); }
};

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.f32x8, b.f32x8)}; }
inline Vec MultiplyAdd(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.f32x8, b.f32x8, c.f32x8)}; }
inline Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.f32x8, b.f32x8)}; }
// MAXPS and MINPS return their second operand when one is NaN, so a NaN in `a` stays.
inline Vec Clip(Vec a, Vec low, Vec high) {
  return {_mm256_min_ps(high.f32x8, _mm256_max_ps(low.f32x8, a.f32x8))};
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_VEC_AVX2_H_
