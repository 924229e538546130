// Products of bfloat16, AVX-512.
#include "kernels/u8_regs_avx512.h"

namespace {

inline Reg LoadQuad(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, sizeof(quad));
  return Set32(quad);
}

// The lower and the upper number of each quad, as float32.
struct Widened {
  RegFloat lower;
  RegFloat upper;
  static Widened Of(Reg quads) {
    return {FromBits(Left32<16>(quads)), FromBits(And(quads, Set32(-0x10000)))};
  }
};

struct Pixel : Widened {
  static Pixel Load(const uint8_t* p) { return {Of(LoadQuad(p))}; }
};
struct Weights : Widened {
  static Weights Load(const int8_t* p) { return {Of(::Load(p))}; }
};
inline RegFloat AddProducts(RegFloat sums, const Pixel& x, const Weights& w) {
  return MultiplyAdd(x.upper, w.upper, MultiplyAdd(x.lower, w.lower, sums));
}

constexpr int kTileBlocks = 4;
// Weights take two registers for each block, and a pixel two.
constexpr int MostPixels(int blocks) { return blocks == 4 ? 5 : blocks == 3 ? 7 : 8; }

}  // namespace

// Reg first: the body is written in terms of it.
#include "kernels/bf16_dot_body.h"

namespace lcnn {
const DotKernels kBfloat16DotAvx512 = {RunTiles<HalvesTile>, RunTiles<FloatsTile>};
}
