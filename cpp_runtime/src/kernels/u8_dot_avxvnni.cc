// Products of bytes, AVX-VNNI: 32 products in one instruction.
#include "kernels/u8_dot_ymm_body.h"

namespace {

struct Vnni {
  static constexpr int kPixels = 6;  // 12 registers for sums, 2 for weights, one for the pixel

  struct Pixel {
    __m256i quad;
    static Pixel Load(const uint8_t* p) { return {_mm256_set1_epi32(LoadQuad(p))}; }
  };
  struct Weights {
    __m256i quads;
    static Weights Load(const int8_t* p) { return {Load256(p)}; }
  };
  static __m256i Add(__m256i sums, const Pixel& pixel, const Weights& weights) {
    return _mm256_dpbusd_avx_epi32(sums, pixel.quad, weights.quads);
  }
};

template <int PIXELS, int BLOCKS>
using BytesTile = StoredTile<Vnni, Bytes, PIXELS, BLOCKS>;
template <int PIXELS, int BLOCKS>
using FloatsTile = StoredTile<Vnni, Floats, PIXELS, BLOCKS>;

}  // namespace

namespace lcnn {
const DotKernels kDotAvxVnni = {RunTiles<BytesTile>, RunTiles<FloatsTile>};
}
