// Depthwise products of bytes, AVX2.
#include "kernels/u8_regs_avx2.h"

namespace {

inline Reg AddProducts(Reg sums, Reg x, Reg w) { return AddWidenedProducts(sums, x, w); }

}  // namespace

// Reg first: the body is written in terms of it.
#include "kernels/u8_depth_body.h"

namespace lcnn {
const DepthKernels kDepthAvx2 = {kRegBytes, ToBytes, ToFloats};
}
