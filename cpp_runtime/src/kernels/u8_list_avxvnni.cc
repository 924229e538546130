// Products of bytes over lists, AVX-VNNI.
#include "kernels/u8_regs_avx2.h"

namespace {

struct Products {
  static Reg Add(Reg sums, Reg x, Reg w) { return _mm256_dpbusd_avx_epi32(sums, x, w); }
};

// Two registers to a vector: 8 for sums at most.
constexpr int MostVectors(int share) { return share == 1 ? 4 : 2; }

}  // namespace

// Reg first: the body is written in terms of it.
#include "kernels/u8_list_body.h"

namespace lcnn {
const ListKernels kListAvxVnni = {{2, 1.4f, 0}, 8, Run<Products, Bytes>, Run<Products, Floats>};
}
