// Products of bytes, AVX2: exact for all weights by way of 16 bits, faster where pairs fit these.
#include "kernels/u8_dot_ymm_body.h"

namespace {

// Bytes 0 and 2 of a quad, and 1 and 3, as 16 bits each: two products are added in 32 bits.
struct Widened {
  static constexpr int kPixels = 4;

  struct Pixel {
    __m256i even;
    __m256i odd;
    static Pixel Load(const uint8_t* p) {
      const __m256i quad = _mm256_set1_epi32(LoadQuad(p));
      return {_mm256_and_si256(quad, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(quad, 8)};
    }
  };
  struct Weights {
    __m256i even;
    __m256i odd;
    static Weights Load(const int8_t* p) {
      const __m256i quads = Load256(p);
      return {_mm256_srai_epi16(_mm256_slli_epi16(quads, 8), 8), _mm256_srai_epi16(quads, 8)};
    }
  };
  static __m256i Add(__m256i sums, const Pixel& pixel, const Weights& weights) {
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pixel.even, weights.even));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pixel.odd, weights.odd));
  }
};

struct Pairs {
  static constexpr int kPixels = 5;

  struct Pixel {
    __m256i quad;
    static Pixel Load(const uint8_t* p) { return {_mm256_set1_epi32(LoadQuad(p))}; }
  };
  struct Weights {
    __m256i quads;
    static Weights Load(const int8_t* p) { return {Load256(p)}; }
  };
  static __m256i Add(__m256i sums, const Pixel& pixel, const Weights& weights) {
    const __m256i pairs = _mm256_maddubs_epi16(pixel.quad, weights.quads);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

template <class Store>
struct TilesOfStore {
  template <int PIXELS, int BLOCKS>
  using WidenedTile = StoredTile<Widened, Store, PIXELS, BLOCKS>;
  template <int PIXELS, int BLOCKS>
  using PairsTile = StoredTile<Pairs, Store, PIXELS, BLOCKS>;

  static void Run(const lcnn::DotTask& task) {
    task.pairs_fit ? RunTiles<PairsTile>(task) : RunTiles<WidenedTile>(task);
  }
};

}  // namespace

namespace lcnn {
const DotKernels kDotAvx2 = {TilesOfStore<Bytes>::Run, TilesOfStore<Floats>::Run};
}
