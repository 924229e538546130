// Products of bytes in 256-bit registers, whose lanes are 8 filters: included by one file per way
// to multiply, which defines the structs of its products.
//
// Products are: Pixel and Weights, a quad of a pixel and of 8 filters, each with Load from bytes,
// and Add(sums, pixel, weights).
#ifndef LCNN_SRC_KERNELS_U8_DOT_YMM_BODY_H_
#define LCNN_SRC_KERNELS_U8_DOT_YMM_BODY_H_

#include <immintrin.h>

#include "kernels/u8_dot_tiles.h"
#include "kernels/unroll.h"

namespace {

inline int32_t LoadQuad(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof(quad));
  return quad;
}

inline __m256i Load256(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

// Some pixels of one block.
template <class Products, int PIXELS>
struct YmmTile {
  __m256i sums[PIXELS][2];

  inline __attribute__((always_inline)) void Accumulate(const lcnn::DotTask& t, int64_t first,
                                                        int64_t block) {
    const int32_t* const start = t.start + block * lcnn::kBlockFilters;
    LCNN_UNROLL
    for (int p = 0; p < PIXELS; ++p) {
      sums[p][0] = Load256(start);
      sums[p][1] = Load256(start + 8);
    }
    const int8_t* w = t.weights + block * 64;
    const int64_t step = t.blocks * 64;
    for (const lcnn::DotSpan *span = t.spans, *end = span + t.n_spans; span != end; ++span) {
      const uint8_t* const from = t.x + span->row * t.row_bytes + span->column;
      const uint8_t* x[PIXELS];
      LCNN_UNROLL
      for (int p = 0; p < PIXELS; ++p) x[p] = from + t.x_offsets[first + p];
      int64_t i = 0;
      const int64_t bytes = span->quads * lcnn::kQuad;
      do {
        const auto low = Products::Weights::Load(w), high = Products::Weights::Load(w + 32);
        w += step;
        LCNN_UNROLL
        for (int p = 0; p < PIXELS; ++p) {
          const auto pixel = Products::Pixel::Load(x[p] + i);
          sums[p][0] = Products::Add(sums[p][0], pixel, low);
          sums[p][1] = Products::Add(sums[p][1], pixel, high);
        }
        i += lcnn::kQuad;
      } while (i < bytes);
    }
    // What the results need is not to be read before: there are no registers for it.
    __asm__ volatile("" : : : "memory");
  }

  // Calls store(pixel, filters that exist, the first 8 values, the last 8) for each pixel.
  template <class Store>
  inline __attribute__((always_inline)) void Finish(const lcnn::DotTask& task, int64_t first,
                                                    int64_t block, const Store& store) const {
    const lcnn::DotTask t = task;  // a local that no store can change
    const int64_t filter = block * lcnn::kBlockFilters;
    const int64_t left = t.filters - filter;
    if (left <= 0) return;
    const auto count = static_cast<size_t>(left < 16 ? left : 16);
    LCNN_UNROLL
    for (int p = 0; p < PIXELS; ++p) {
      const int64_t place = t.y_offsets[first + p] + filter;
      __m256 v[2];
      __m128i added = _mm_setzero_si128();
      if (t.residual != nullptr) added = LoadFirst(t.residual + place, count);
      LCNN_UNROLL
      for (int h = 0; h < 2; ++h) {
        v[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[p][h]),
                               _mm256_loadu_ps(t.scale + filter + 8 * h),
                               _mm256_loadu_ps(t.bias + filter + 8 * h));
        if (t.residual != nullptr) {
          const __m128i half = h == 0 ? added : _mm_srli_si128(added, 8);
          const __m256i wide =
              _mm256_sub_epi32(_mm256_cvtepu8_epi32(half), _mm256_set1_epi32(t.residual_zero));
          v[h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(wide), _mm256_set1_ps(t.residual_scale), v[h]);
        }
        v[h] = _mm256_min_ps(_mm256_set1_ps(t.high), _mm256_max_ps(_mm256_set1_ps(t.low), v[h]));
      }
      store(place, count, v[0], v[1]);
    }
  }

  static __m128i LoadFirst(const uint8_t* p, size_t count) {
    if (count == 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    uint8_t bytes[16] = {};
    __builtin_memcpy(bytes, p, count);
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
  }
};

struct Bytes {
  uint8_t* y;
  __m256i zero;

  explicit Bytes(const lcnn::DotTask& t)
      : y(static_cast<uint8_t*>(t.y)), zero(_mm256_set1_epi32(t.zero)) {}
  inline __attribute__((always_inline)) void operator()(int64_t i, size_t count, __m256 v0,
                                                        __m256 v1) const {
    const __m256i words = _mm256_packs_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(v0), zero),
                                             _mm256_add_epi32(_mm256_cvtps_epi32(v1), zero));
    // Packing goes by halves of the registers.
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes =
        _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    if (count == 16) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(y + i), bytes);
      return;
    }
    uint8_t all[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(all), bytes);
    __builtin_memcpy(y + i, all, count);
  }
};

struct Floats {
  float* y;

  explicit Floats(const lcnn::DotTask& t) : y(static_cast<float*>(t.y)) {}
  inline __attribute__((always_inline)) void operator()(int64_t i, size_t count, __m256 v0,
                                                        __m256 v1) const {
    if (count == 16) {
      _mm256_storeu_ps(y + i, v0);
      _mm256_storeu_ps(y + i + 8, v1);
      return;
    }
    float all[16];
    _mm256_storeu_ps(all, v0);
    _mm256_storeu_ps(all + 8, v1);
    __builtin_memcpy(y + i, all, count * sizeof(float));
  }
};

// Blocks one after the other: their weights of a quad do not fit the registers together.
template <class Products, class Store, int PIXELS, int BLOCKS>
struct StoredTile {
  static constexpr int kMost = Products::kPixels;

  static void Run(const lcnn::DotTask& t, int64_t first) {
    for (int64_t block = 0; block < BLOCKS; ++block) {
      YmmTile < Products, PIXELS<kMost ? PIXELS : kMost> tile;
      tile.Accumulate(t, first, block);
      tile.Finish(t, first, block, Store(t));
    }
  }
};

}  // namespace

#endif  // LCNN_SRC_KERNELS_U8_DOT_YMM_BODY_H_
