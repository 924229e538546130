// Products of bfloat16, AMX: 16 x 16 sums of 32 products in one instruction.
#include <immintrin.h>

#include "kernels/amx_dot_body.h"
#include "kernels/bf16_dot.h"

namespace {

struct Products {
  // Of a tile of pixels.
  template <int TILE>
  static inline __attribute__((always_inline)) void Add() {
    if constexpr (TILE == 0) _tile_dpbf16ps(0, 4, 6);
    if constexpr (TILE == 1) _tile_dpbf16ps(1, 5, 6);
    if constexpr (TILE == 2) _tile_dpbf16ps(2, 4, 6);
    if constexpr (TILE == 3) _tile_dpbf16ps(3, 5, 6);
  }
};

struct Values {
  const lcnn::DotTask* t;
  int64_t filter;
  __mmask16 mask;
  __m512 start;

  Values(const lcnn::DotTask& task, int64_t block)
      : t(&task),
        filter(block * lcnn::kBlockFilters),
        mask(MaskOf(task, block)),
        start(_mm512_castsi512_ps(_mm512_loadu_si512(task.start + filter))) {}

  inline __attribute__((always_inline)) __m512 Of(const int32_t* sums, int64_t place) const {
    __m512 v = _mm512_add_ps(_mm512_castsi512_ps(_mm512_load_si512(sums)), start);
    if (t->residual != nullptr) {
      const uint8_t* const r = t->residual + place + filter * 2;
      const __m512i halves = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, r));
      v = _mm512_add_ps(v, _mm512_castsi512_ps(_mm512_slli_epi32(halves, 16)));
    }
    return _mm512_min_ps(_mm512_set1_ps(t->high), _mm512_max_ps(_mm512_set1_ps(t->low), v));
  }
};

struct Halves {
  Values values;

  Halves(const lcnn::DotTask& t, int64_t block) : values(t, block) {}
  inline __attribute__((always_inline)) void operator()(const int32_t* const* sums,
                                                        const int64_t* places) const {
    uint8_t* const y = static_cast<uint8_t*>(values.t->y) + values.filter * 2;
    LCNN_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      const __m256bh halves = _mm512_cvtneps_pbh(values.Of(sums[i], places[i]));
      _mm256_mask_storeu_epi16(y + places[i], values.mask, reinterpret_cast<__m256i>(halves));
    }
  }
};

struct Floats {
  Values values;

  Floats(const lcnn::DotTask& t, int64_t block) : values(t, block) {}
  inline __attribute__((always_inline)) void operator()(const int32_t* const* sums,
                                                        const int64_t* places) const {
    float* const y = static_cast<float*>(values.t->y) + values.filter;
    LCNN_UNROLL
    for (int i = 0; i < kGroup; ++i) {
      _mm512_mask_storeu_ps(y + places[i], values.mask, values.Of(sums[i], places[i]));
    }
  }
};

}  // namespace

namespace lcnn {
const DotKernels kBfloat16DotAmx = {RunAmx<Products, Halves>, RunAmx<Products, Floats>, kTileQuads,
                                    0.25f, Release};
}
