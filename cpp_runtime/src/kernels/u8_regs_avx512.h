// Registers of 512 bits as the kernels on narrow numbers need them: a Reg holds integers of any
// size, operations are named after the size they take it for; a RegFloat holds floats.
#ifndef LCNN_SRC_KERNELS_U8_REGS_AVX512_H_
#define LCNN_SRC_KERNELS_U8_REGS_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace {

using Reg = __m512i;
using RegFloat = __m512;
constexpr int64_t kRegBytes = 64;

inline Reg Load(const void* p) { return _mm512_loadu_si512(p); }
inline void Store(void* p, Reg a) { _mm512_storeu_si512(p, a); }
inline Reg Zero() { return _mm512_setzero_si512(); }
inline Reg Set32(int32_t a) { return _mm512_set1_epi32(a); }
inline RegFloat LoadFloats(const float* p) { return _mm512_loadu_ps(p); }
inline void StoreFloats(float* p, RegFloat a) { _mm512_storeu_ps(p, a); }
inline RegFloat SetFloats(float a) { return _mm512_set1_ps(a); }
inline Reg Low8(Reg a, Reg b) { return _mm512_unpacklo_epi8(a, b); }
inline Reg High8(Reg a, Reg b) { return _mm512_unpackhi_epi8(a, b); }
inline Reg Low16(Reg a, Reg b) { return _mm512_unpacklo_epi16(a, b); }
inline Reg High16(Reg a, Reg b) { return _mm512_unpackhi_epi16(a, b); }
inline Reg Subtract32(Reg a, int32_t b) { return _mm512_sub_epi32(a, Set32(b)); }
inline Reg Or(Reg a, Reg b) { return _mm512_or_si512(a, b); }
inline Reg ShiftLeft32(Reg a, int64_t n) {
  return _mm512_sll_epi32(a, _mm_cvtsi32_si128(static_cast<int>(n)));
}
// Byte `i` of each 32 bits.
inline Reg ByteOf32(Reg a, int64_t i) {
  const Reg shifted = _mm512_srl_epi32(a, _mm_cvtsi32_si128(static_cast<int>(8 * i)));
  return _mm512_and_si512(shifted, Set32(0xff));
}
inline RegFloat ToFloat(Reg a) { return _mm512_cvtepi32_ps(a); }
inline Reg ToInt(RegFloat a, int32_t zero) {
  return _mm512_add_epi32(_mm512_cvtps_epi32(a), Set32(zero));
}
inline RegFloat MultiplyAdd(RegFloat a, RegFloat b, RegFloat c) { return _mm512_fmadd_ps(a, b, c); }
inline RegFloat Clip(RegFloat a, RegFloat low, RegFloat high) {
  return _mm512_min_ps(high, _mm512_max_ps(low, a));
}
// 16 bits of each 32, of numbers that they can hold.
inline void StoreLow16(void* p, Reg a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a));
}
inline Reg Load16To32(const void* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline Reg Bits(RegFloat a) { return _mm512_castps_si512(a); }
inline RegFloat FromBits(Reg a) { return _mm512_castsi512_ps(a); }
inline Reg And(Reg a, Reg b) { return _mm512_and_si512(a, b); }
inline Reg Add32(Reg a, Reg b) { return _mm512_add_epi32(a, b); }
template <int COUNT>
inline Reg Left32(Reg a) {
  return _mm512_slli_epi32(a, COUNT);
}
template <int COUNT>
inline Reg Right32(Reg a) {
  return _mm512_srli_epi32(a, COUNT);
}
// a where the lanes of b are NaN, c elsewhere.
inline Reg WhereNan(RegFloat b, Reg a, Reg c) {
  return _mm512_mask_mov_epi32(c, _mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q), a);
}
// Bytes from numbers of 32 bits that they can hold.
inline Reg Pack(Reg a, Reg b, Reg c, Reg d) {
  return _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
}
// Products of bytes 0 and 2 of each quad, and of 1 and 3, by way of 16 bits: exact for all weights.
inline Reg AddWidenedProducts(Reg sums, Reg x, Reg w) {
  const Reg even = _mm512_madd_epi16(_mm512_and_si512(x, _mm512_set1_epi16(0xff)),
                                     _mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8));
  const Reg odd = _mm512_madd_epi16(_mm512_srli_epi16(x, 8), _mm512_srai_epi16(w, 8));
  return _mm512_add_epi32(sums, _mm512_add_epi32(even, odd));
}
// The same where the products of bytes 0 and 1, and of 2 and 3, fit 16 bits together.
inline Reg AddPairs(Reg sums, Reg x, Reg w) {
  const Reg pairs = _mm512_maddubs_epi16(x, w);
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_REGS_AVX512_H_
