// Sixteen floats in a zmm register. Operations are defined in vec_scalar.h.
#ifndef LCNN_SRC_KERNELS_VEC_AVX512_H_
#define LCNN_SRC_KERNELS_VEC_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace {

struct Vec {
  static constexpr int kLanes = 16;
  __m512 f32x16;

  static __mmask16 First(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
  static __mmask16 Mask(uint32_t mask) { return static_cast<__mmask16>(mask); }

  static Vec Set(float a) { return {_mm512_set1_ps(a)}; }
  static Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec LoadHalves(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec LoadBytes(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
  }
  static Vec LoadFirst(const float* p, int count) {
    return {_mm512_maskz_loadu_ps(First(count), p)};
  }
  static Vec LoadAlternate(const float* p, int count) {
    const uint32_t read = count == 0 ? 0 : 0x55555555u & 0xffffffffu >> (32 - 2 * count);
    const __m512 low = _mm512_maskz_loadu_ps(Mask(read), p);
    const __m512 high = _mm512_maskz_loadu_ps(Mask(read >> 16), p + 16);
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return {_mm512_permutex2var_ps(low, even, high)};
  }
  static Vec Gather(const float* p, const int32_t* indices, uint32_t mask) {
    return {_mm512_mask_i32gather_ps(_mm512_setzero_ps(), Mask(mask), _mm512_loadu_si512(indices),
                                     p, 4)};
  }
  float Sum() const { return _mm512_reduce_add_ps(f32x16); }
  void Store(float* p) const { _mm512_storeu_ps(p, f32x16); }
  void StoreFirst(float* p, int count) const { _mm512_mask_storeu_ps(p, First(count), f32x16); }
  Vec Expand(uint32_t mask) const { return {_mm512_maskz_expand_ps(Mask(mask), f32x16)}; }
  // In registers: the compressing store to memory is microcoded on Zen 4.
  Vec Compress(uint32_t mask) const { return {_mm512_maskz_compress_ps(Mask(mask), f32x16)}; }
};

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.f32x16, b.f32x16)}; }
inline Vec MultiplyAdd(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.f32x16, b.f32x16, c.f32x16)};
}
inline Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.f32x16, b.f32x16)}; }
// MAXPS and MINPS return their second operand when one is NaN, so a NaN in `a` stays.
inline Vec Clip(Vec a, Vec low, Vec high) {
  return {_mm512_min_ps(high.f32x16, _mm512_max_ps(low.f32x16, a.f32x16))};
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_VEC_AVX512_H_
