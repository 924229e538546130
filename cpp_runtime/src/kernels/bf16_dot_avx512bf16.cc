// Products of bfloat16, AVX-512 BF16: 32 products in one instruction.
#include "kernels/u8_regs_avx512.h"

namespace {

inline Reg LoadQuad(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof(quad));
  return Set32(quad);
}

struct Pixel {
  Reg quad;
  static Pixel Load(const uint8_t* p) { return {LoadQuad(p)}; }
};
struct Weights {
  Reg quads;
  static Weights Load(const int8_t* p) { return {::Load(p)}; }
};
inline RegFloat AddProducts(RegFloat sums, const Pixel& x, const Weights& w) {
  return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(x.quad),
                          reinterpret_cast<__m512bh>(w.quads));
}

constexpr int kTileBlocks = 4;
// 6 pixels x 64 filters take 24 registers for sums, 4 for weights and one for the pixel.
constexpr int MostPixels(int blocks) { return blocks == 4 ? 6 : 8; }

}  // namespace

// Reg first: the body is written in terms of it.
#include "kernels/bf16_dot_body.h"

namespace lcnn {
const DotKernels kBfloat16DotAvx512Bf16 = {RunTiles<HalvesTile>, RunTiles<FloatsTile>};
}
