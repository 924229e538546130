// Products of bytes, AVX-512 VNNI: 64 products in one instruction.
#include "kernels/u8_dot_zmm_body.h"

namespace {

struct Vnni {
  // 6 pixels x 64 filters take 24 registers for sums, 4 for weights and one for the pixel.
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
    return _mm512_dpbusd_epi32(sums, pixel.quad, weights.quads);
  }
};

template <int PIXELS, int BLOCKS>
using BytesTile = StoredTile<Vnni, Bytes, PIXELS, BLOCKS>;
template <int PIXELS, int BLOCKS>
using FloatsTile = StoredTile<Vnni, Floats, PIXELS, BLOCKS>;

}  // namespace

namespace lcnn {
const DotKernels kDotAvx512Vnni = {RunTiles<BytesTile>, RunTiles<FloatsTile>};
}
