// Registers of 256 bits as the kernels on narrow numbers need them: a Reg holds integers of any
// size, operations are named after the size they take it for; a RegFloat holds floats.
#ifndef LCNN_SRC_KERNELS_U8_REGS_AVX2_H_
#define LCNN_SRC_KERNELS_U8_REGS_AVX2_H_

#include <immintrin.h>

#include <cstdint>

namespace {

using Reg = __m256i;
using RegFloat = __m256;
constexpr int64_t kRegBytes = 32;

inline Reg Load(const void* p) { return _mm256_loadu_si256(static_cast<const Reg*>(p)); }
inline void Store(void* p, Reg a) { _mm256_storeu_si256(static_cast<Reg*>(p), a); }
inline Reg Zero() { return _mm256_setzero_si256(); }
inline Reg Set32(int32_t a) { return _mm256_set1_epi32(a); }
inline RegFloat LoadFloats(const float* p) { return _mm256_loadu_ps(p); }
inline void StoreFloats(float* p, RegFloat a) { _mm256_storeu_ps(p, a); }
inline RegFloat SetFloats(float a) { return _mm256_set1_ps(a); }
inline Reg Low8(Reg a, Reg b) { return _mm256_unpacklo_epi8(a, b); }
inline Reg High8(Reg a, Reg b) { return _mm256_unpackhi_epi8(a, b); }
inline Reg Low16(Reg a, Reg b) { return _mm256_unpacklo_epi16(a, b); }
inline Reg High16(Reg a, Reg b) { return _mm256_unpackhi_epi16(a, b); }
inline Reg Subtract32(Reg a, int32_t b) { return _mm256_sub_epi32(a, Set32(b)); }
inline Reg Or(Reg a, Reg b) { return _mm256_or_si256(a, b); }
inline Reg ShiftLeft32(Reg a, int64_t n) {
  return _mm256_sll_epi32(a, _mm_cvtsi32_si128(static_cast<int>(n)));
}
// Byte `i` of each 32 bits.
inline Reg ByteOf32(Reg a, int64_t i) {
  const Reg shifted = _mm256_srl_epi32(a, _mm_cvtsi32_si128(static_cast<int>(8 * i)));
  return _mm256_and_si256(shifted, Set32(0xff));
}
inline RegFloat ToFloat(Reg a) { return _mm256_cvtepi32_ps(a); }
inline Reg ToInt(RegFloat a, int32_t zero) {
  return _mm256_add_epi32(_mm256_cvtps_epi32(a), Set32(zero));
}
inline RegFloat MultiplyAdd(RegFloat a, RegFloat b, RegFloat c) { return _mm256_fmadd_ps(a, b, c); }
inline RegFloat Clip(RegFloat a, RegFloat low, RegFloat high) {
  return _mm256_min_ps(high, _mm256_max_ps(low, a));
}
// 16 bits of each 32, of numbers that they can hold.
inline void StoreLow16(void* p, Reg a) {
  const Reg halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, a), 0xd8);
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_castsi256_si128(halves));
}
inline Reg Load16To32(const void* p) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
inline Reg Bits(RegFloat a) { return _mm256_castps_si256(a); }
inline RegFloat FromBits(Reg a) { return _mm256_castsi256_ps(a); }
inline Reg And(Reg a, Reg b) { return _mm256_and_si256(a, b); }
inline Reg Add32(Reg a, Reg b) { return _mm256_add_epi32(a, b); }
template <int COUNT>
inline Reg Left32(Reg a) {
  return _mm256_slli_epi32(a, COUNT);
}
template <int COUNT>
inline Reg Right32(Reg a) {
  return _mm256_srli_epi32(a, COUNT);
}
// a where the lanes of b are NaN, c elsewhere.
inline Reg WhereNan(RegFloat b, Reg a, Reg c) {
  const RegFloat nan = _mm256_cmp_ps(b, b, _CMP_UNORD_Q);
  return _mm256_blendv_epi8(c, a, _mm256_castps_si256(nan));
}
// Bytes from numbers of 32 bits that they can hold.
inline Reg Pack(Reg a, Reg b, Reg c, Reg d) {
  return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}
// Products of bytes 0 and 2 of each quad, and of 1 and 3, by way of 16 bits: exact for all weights.
inline Reg AddWidenedProducts(Reg sums, Reg x, Reg w) {
  const Reg even = _mm256_madd_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0xff)),
                                     _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
  const Reg odd = _mm256_madd_epi16(_mm256_srli_epi16(x, 8), _mm256_srai_epi16(w, 8));
  return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}
// The same where the products of bytes 0 and 1, and of 2 and 3, fit 16 bits together.
inline Reg AddPairs(Reg sums, Reg x, Reg w) {
  const Reg pairs = _mm256_maddubs_epi16(x, w);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_REGS_AVX2_H_
