// Products of bfloat16, AVX2.
#include "kernels/u8_regs_avx2.h"
// Reg first: the products are written in terms of it, and the body in terms of them.
#include "kernels/bf16_widened.h"

namespace {

constexpr int kTileBlocks = 1;
// 2 registers for sums of each pixel, 4 for weights.
constexpr int MostPixels(int) { return 4; }

}  // namespace

#include "kernels/bf16_dot_body.h"

namespace lcnn {
const DotKernels kBfloat16DotAvx2 = {RunTiles<HalvesTile>, RunTiles<FloatsTile>};
}
