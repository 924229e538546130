// Products of bytes over lists, AVX-512 VNNI.
#include "kernels/u8_regs_avx512.h"

namespace {

struct Products {
  static Reg Add(Reg sums, Reg x, Reg w) { return _mm512_dpbusd_epi32(sums, x, w); }
};

// 24 registers for sums at most.
constexpr int MostVectors(int share) { return share == 4 ? 6 : 12; }

}  // namespace

// Reg first: the body is written in terms of it.
#include "kernels/u8_list_body.h"

namespace lcnn {
const ListKernels kListAvx512Vnni = {
    {2, 1.3f, 1.1f}, 8, Run<Products, Bytes>, Run<Products, Floats>};
}
