// Products of bytes over lists, AVX2.
#include "kernels/u8_regs_avx2.h"

namespace {

struct Widened {
  static Reg Add(Reg sums, Reg x, Reg w) { return AddWidenedProducts(sums, x, w); }
};

struct Pairs {
  static Reg Add(Reg sums, Reg x, Reg w) { return AddPairs(sums, x, w); }
};

// Two registers to a vector: 8 for sums at most.
constexpr int MostVectors(int share) { return share == 1 ? 4 : 2; }

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
const ListKernels kListAvx2 = {{1.5f, 1.2f, 0}, 8, RunByWeights<Bytes>, RunByWeights<Floats>};
}
