// Products of bytes over lists, AVX-512.
#include "kernels/u8_regs_avx512.h"

namespace {

struct Widened {
  static Reg Add(Reg sums, Reg x, Reg w) { return AddWidenedProducts(sums, x, w); }
};

struct Pairs {
  static Reg Add(Reg sums, Reg x, Reg w) { return AddPairs(sums, x, w); }
};

// 24 registers for sums at most.
constexpr int MostVectors(int share) { return share == 4 ? 6 : 12; }

}  // namespace

// Reg first: the body is written in terms of it.
#include "kernels/u8_list_body.h"

namespace {

template <class Store>
void RunByWeights(const lcnn::ListTask& task) {
  task.pairs_fit ? Run<Pairs, Store>(task) : Run<Widened, Store>(task);
}

}  // namespace

namespace lcnn {
const ListKernels kListAvx512 = {{1.5f, 1.2f, 1.1f}, 8, RunByWeights<Bytes>, RunByWeights<Floats>};
}
