// Depthwise products of bytes, AVX-VNNI.
#include "kernels/u8_regs_avx2.h"

namespace {

inline Reg AddProducts(Reg sums, Reg x, Reg w) { return _mm256_dpbusd_avx_epi32(sums, x, w); }

}  // namespace

// Reg first: the body is written in terms of it.
#include "kernels/u8_depth_body.h"

namespace lcnn {
const DepthKernels kDepthAvxVnni = {kRegBytes, ToBytes, ToFloats};
}
