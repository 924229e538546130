// Products of bytes in 512-bit registers, whose lanes are the 16 filters of a block: included by
// one file per way to multiply, which defines the struct of its products as u8_dot_ymm_body.h says,
// of a block.
#ifndef LCNN_SRC_KERNELS_U8_DOT_ZMM_BODY_H_
#define LCNN_SRC_KERNELS_U8_DOT_ZMM_BODY_H_

#include <immintrin.h>

#include "kernels/u8_dot_tiles.h"
#include "kernels/unroll.h"

namespace {

inline __m512i LoadQuad(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof(quad));
  return _mm512_set1_epi32(quad);
}

template <class Products, int PIXELS, int BLOCKS>
struct ZmmTile {
  __m512i sums[PIXELS][BLOCKS];

  inline __attribute__((always_inline)) void Accumulate(const lcnn::DotTask& t, int64_t first) {
    LCNN_UNROLL
    for (int b = 0; b < BLOCKS; ++b) {
      const __m512i start = _mm512_loadu_si512(t.start + b * lcnn::kBlockFilters);
      LCNN_UNROLL
      for (int p = 0; p < PIXELS; ++p) sums[p][b] = start;
    }
    const int8_t* w = t.weights;
    for (const lcnn::DotSpan *span = t.spans, *end = span + t.n_spans; span != end; ++span) {
      const uint8_t* const from = t.x + span->row * t.row_bytes + span->column;
      const uint8_t* x[PIXELS];
      LCNN_UNROLL
      for (int p = 0; p < PIXELS; ++p) x[p] = from + t.x_offsets[first + p];
      int64_t i = 0;
      const int64_t bytes = span->quads * lcnn::kQuad;
      do {
        typename Products::Weights weights[BLOCKS];
        LCNN_UNROLL
        for (int b = 0; b < BLOCKS; ++b) weights[b] = Products::Weights::Load(w + b * 64);
        w += BLOCKS * 64;
        LCNN_UNROLL
        for (int p = 0; p < PIXELS; ++p) {
          const auto pixel = Products::Pixel::Load(x[p] + i);
          LCNN_UNROLL
          for (int b = 0; b < BLOCKS; ++b) {
            sums[p][b] = Products::Add(sums[p][b], pixel, weights[b]);
          }
        }
        i += lcnn::kQuad;
      } while (i < bytes);
    }
    // What the results need is not to be read before: there are no registers for it.
    __asm__ volatile("" : : : "memory");
  }

  // Calls store(p, b, mask of the filters that exist, values) for each pixel and block.
  template <class Store>
  inline __attribute__((always_inline)) void Finish(const lcnn::DotTask& task, int64_t first,
                                                    const Store& store) const {
    const lcnn::DotTask t = task;  // a local that no store can change
    const __m512 low = _mm512_set1_ps(t.low), high = _mm512_set1_ps(t.high);
    const __m512 residual_scale = _mm512_set1_ps(t.residual_scale);
    const __m512i residual_zero = _mm512_set1_epi32(t.residual_zero);
    LCNN_UNROLL
    for (int b = 0; b < BLOCKS; ++b) {
      const int64_t filter = b * lcnn::kBlockFilters;
      const int64_t left = t.filters - filter;
      if (left <= 0) return;
      const auto mask = static_cast<__mmask16>(left < 16 ? (1u << left) - 1u : 0xffffu);
      const __m512 scale = _mm512_loadu_ps(t.scale + filter);
      const __m512 bias = _mm512_loadu_ps(t.bias + filter);
      LCNN_UNROLL
      for (int p = 0; p < PIXELS; ++p) {
        __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[p][b]), scale, bias);
        if (t.residual != nullptr) {
          const uint8_t* const r = t.residual + t.y_offsets[first + p] + filter;
          const __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, r));
          const __m512 added = _mm512_cvtepi32_ps(_mm512_sub_epi32(bytes, residual_zero));
          v = _mm512_fmadd_ps(added, residual_scale, v);
        }
        v = _mm512_min_ps(high, _mm512_max_ps(low, v));
        store(t.y_offsets[first + p] + filter, mask, v);
      }
    }
  }
};

struct Bytes {
  uint8_t* y;
  __m512i zero;

  explicit Bytes(const lcnn::DotTask& t)
      : y(static_cast<uint8_t*>(t.y)), zero(_mm512_set1_epi32(t.zero)) {}
  inline __attribute__((always_inline)) void operator()(int64_t i, __mmask16 mask, __m512 v) const {
    const __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(v), zero);
    _mm_mask_storeu_epi8(y + i, mask, _mm512_cvtepi32_epi8(rounded));
  }
};

struct Floats {
  float* y;

  explicit Floats(const lcnn::DotTask& t) : y(static_cast<float*>(t.y)) {}
  inline __attribute__((always_inline)) void operator()(int64_t i, __mmask16 mask, __m512 v) const {
    _mm512_mask_storeu_ps(y + i, mask, v);
  }
};

// Larger tiles than kMost are never run: they are the largest one.
template <class Products, class Store, int PIXELS, int BLOCKS>
struct StoredTile {
  static constexpr int kMost = Products::MostPixels(BLOCKS);

  static void Run(const lcnn::DotTask& task, int64_t first) {
    ZmmTile < Products, PIXELS<kMost ? PIXELS : kMost, BLOCKS> tile;
    tile.Accumulate(task, first);
    tile.Finish(task, first, Store(task));
  }
};

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_DOT_ZMM_BODY_H_
