// Products of bytes, AVX-512 without VNNI: exact for all weights by way of 16 bits, faster where
// pairs fit these.
#include "kernels/u8_dot_zmm_body.h"

namespace {

// Bytes 0 and 2 of a quad, and 1 and 3, as 16 bits each: two products are added in 32 bits.
struct Widened {
  // Weights take two registers for each block, and a pixel two.
  static constexpr int MostPixels(int blocks) { return blocks == 4 ? 5 : blocks == 3 ? 7 : 8; }

  struct Pixel {
    __m512i even;
    __m512i odd;
    static Pixel Load(const uint8_t* p) {
      const __m512i quad = LoadQuad(p);
      return {_mm512_and_si512(quad, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(quad, 8)};
    }
  };
  struct Weights {
    __m512i even;
    __m512i odd;
    static Weights Load(const int8_t* p) {
      const __m512i quads = _mm512_loadu_si512(p);
      return {_mm512_srai_epi16(_mm512_slli_epi16(quads, 8), 8), _mm512_srai_epi16(quads, 8)};
    }
  };
  static __m512i Add(__m512i sums, const Pixel& pixel, const Weights& weights) {
    sums = _mm512_add_epi32(sums, _mm512_madd_epi16(pixel.even, weights.even));
    return _mm512_add_epi32(sums, _mm512_madd_epi16(pixel.odd, weights.odd));
  }
};

struct Pairs {
  // Besides sums: a register for each block, a pixel, a product and the ones.
  static constexpr int MostPixels(int blocks) { return blocks == 4 ? 6 : 8; }

  struct Pixel {
    __m512i quad;
    static Pixel Load(const uint8_t* p) { return {LoadQuad(p)}; }
  };
  struct Weights {
    __m512i quads;
    static Weights Load(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
  };
  static __m512i Add(__m512i sums, const Pixel& pixel, const Weights& weights) {
    const __m512i pairs = _mm512_maddubs_epi16(pixel.quad, weights.quads);
    return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
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
const DotKernels kDotAvx512 = {TilesOfStore<Bytes>::Run, TilesOfStore<Floats>::Run};
}
