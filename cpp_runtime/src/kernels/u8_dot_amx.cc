// Products of bytes, AMX: 16 x 16 sums of 64 products in one instruction.
#include <immintrin.h>

#include "kernels/amx_dot_body.h"

namespace {

struct Products {
  // Of a tile of pixels.
  template <int TILE>
  static inline __attribute__((always_inline)) void Add() {
    if constexpr (TILE == 0) _tile_dpbusd(0, 4, 6);
    if constexpr (TILE == 1) _tile_dpbusd(1, 5, 6);
    if constexpr (TILE == 2) _tile_dpbusd(2, 4, 6);
    if constexpr (TILE == 3) _tile_dpbusd(3, 5, 6);
  }
};

// The results of a block before they are limited and rounded.
struct Values {
  const lcnn::DotTask* t;
  int64_t filter;
  __mmask16 mask;
  __m512i start;
  __m512 scale, bias;

  Values(const lcnn::DotTask& task, int64_t block)
      : t(&task),
        filter(block * lcnn::kBlockFilters),
        mask(MaskOf(task, block)),
        start(_mm512_loadu_si512(task.start + filter)),
        scale(_mm512_loadu_ps(task.scale + filter)),
        bias(_mm512_loadu_ps(task.bias + filter)) {}

  inline __attribute__((always_inline)) __m512 Of(const int32_t* sums, int64_t place) const {
    const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums), start);
    const __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, bias);
    if (t->residual == nullptr) return v;
    const __m128i r = _mm_maskz_loadu_epi8(mask, t->residual + place + filter);
    const __m512i added =
        _mm512_sub_epi32(_mm512_cvtepu8_epi32(r), _mm512_set1_epi32(t->residual_zero));
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(added), _mm512_set1_ps(t->residual_scale), v);
  }
};

// Rounding keeps order and packing saturates, so that bounds may as well be rounded and come last,
// unless values may exceed 32 bits.
template <bool LARGE>
struct Bytes {
  Values values;
  __m512i low, high;

  Bytes(const lcnn::DotTask& t, int64_t block)
      : values(t, block), low(Bound(t, t.low)), high(Bound(t, t.high)) {}

  static __m512i Bound(const lcnn::DotTask& t, float v) {
    return _mm512_set1_epi8(static_cast<char>(_mm_cvtss_si32(_mm_set_ss(v)) + t.zero));
  }

  inline __attribute__((always_inline)) void operator()(const int32_t* const* sums,
                                                        const int64_t* places) const {
    const __m512i zero = _mm512_set1_epi16(static_cast<int16_t>(values.t->zero));
    const auto numbers = [&](int i) {
      const __m512 v = values.Of(sums[i], places[i]);
      return _mm512_cvtps_epi32(LARGE ? _mm512_min_ps(_mm512_set1_ps(values.t->high), v) : v);
    };
    const __m512i first = _mm512_adds_epi16(_mm512_packs_epi32(numbers(0), numbers(1)), zero);
    const __m512i second = _mm512_adds_epi16(_mm512_packs_epi32(numbers(2), numbers(3)), zero);
    // Four filters of each pixel are next to each other here.
    const __m512i mixed =
        _mm512_min_epu8(high, _mm512_max_epu8(low, _mm512_packus_epi16(first, second)));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, mixed);
    uint8_t* const y = static_cast<uint8_t*>(values.t->y) + values.filter;
    _mm_mask_storeu_epi8(y + places[0], values.mask, _mm512_castsi512_si128(bytes));
    _mm_mask_storeu_epi8(y + places[1], values.mask, _mm512_extracti32x4_epi32(bytes, 1));
    _mm_mask_storeu_epi8(y + places[2], values.mask, _mm512_extracti32x4_epi32(bytes, 2));
    _mm_mask_storeu_epi8(y + places[3], values.mask, _mm512_extracti32x4_epi32(bytes, 3));
  }
};

struct Floats {
  Values values;

  Floats(const lcnn::DotTask& t, int64_t block) : values(t, block) {}
  inline __attribute__((always_inline)) void operator()(const int32_t* const* sums,
                                                        const int64_t* places) const {
    const __m512 low = _mm512_set1_ps(values.t->low), high = _mm512_set1_ps(values.t->high);
    float* const y = static_cast<float*>(values.t->y) + values.filter;
    LCNN_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      const __m512 v = _mm512_max_ps(low, values.Of(sums[i], places[i]));
      _mm512_mask_storeu_ps(y + places[i], values.mask, _mm512_min_ps(high, v));
    }
  }
};

// Whether no value exceeds 32 bits: sums do not.
bool Small(const lcnn::DotTask& t) {
  constexpr float kScale = 0.5f, kBias = 0x1p29f, kResidualScale = 0x1p20f;
  __mmask16 small = 0xffff;
  for (int64_t f = 0; f < t.blocks * lcnn::kBlockFilters; f += lcnn::kBlockFilters) {
    const __m512 scale = _mm512_loadu_ps(t.scale + f), bias = _mm512_loadu_ps(t.bias + f);
    small &= _mm512_cmp_ps_mask(scale, _mm512_set1_ps(kScale), _CMP_LT_OQ);
    small &= _mm512_cmp_ps_mask(bias, _mm512_set1_ps(kBias), _CMP_LT_OQ);
  }
  return small == 0xffff && t.residual_scale < kResidualScale;
}

void ToBytes(const lcnn::DotTask& t) {
  if (Small(t)) return RunAmx<Products, Bytes<false>>(t);
  RunAmx<Products, Bytes<true>>(t);
}

}  // namespace

namespace lcnn {
const DotKernels kDotAmx = {ToBytes, RunAmx<Products, Floats>, kTileQuads, 0.125f, Release};
}
