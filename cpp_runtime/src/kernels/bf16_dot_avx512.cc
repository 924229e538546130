// Products of bfloat16, AVX-512.
#include "kernels/u8_regs_avx512.h"
// Reg first: the products are written in terms of it, and the body in terms of them.
#include "kernels/bf16_widened.h"

namespace {

constexpr int kTileBlocks = 4;
// Weights take two registers for each block, and a pixel two.
constexpr int MostPixels(int blocks) { return blocks == 4 ? 5 : blocks == 3 ? 7 : 8; }

}  // namespace

#include "kernels/bf16_dot_body.h"

namespace lcnn {
const DotKernels kBfloat16DotAvx512 = {RunTiles<HalvesTile>, RunTiles<FloatsTile>};
}
