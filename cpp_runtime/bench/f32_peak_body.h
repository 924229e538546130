// The roofs in terms of Vec: included by one file per instruction set, after its vec_*.h.
#ifndef LCNN_BENCH_F32_PEAK_BODY_H_
#define LCNN_BENCH_F32_PEAK_BODY_H_

#include "f32_peak.h"
#include "kernels/unroll.h"

namespace {

// SUMS: enough to hide the latency of a multiply-add, and few enough for the registers.
template <int SUMS>
float Total(const Vec (&acc)[SUMS]) {
  float total = 0;
  LCNN_UNROLL for (int u = 0; u < SUMS; ++u) total += acc[u].Sum();
  return total;
}

template <int SUMS>
float FromRegisters(int64_t steps) {
  Vec acc[SUMS];
  LCNN_UNROLL for (int u = 0; u < SUMS; ++u) acc[u] = Vec::Set(static_cast<float>(u));
  const Vec a = Vec::Set(0.5f);
  for (int64_t i = 0; i < steps; ++i) {
    LCNN_UNROLL for (int u = 0; u < SUMS; ++u) acc[u] = MultiplyAdd(acc[u], a, a);
  }
  return Total(acc);
}

template <int SUMS>
float WithLoads(const float* from, int64_t steps) {
  Vec acc[SUMS];
  LCNN_UNROLL for (int u = 0; u < SUMS; ++u) acc[u] = Vec::Set(0);
  const Vec a = Vec::Set(0.5f);
  for (int64_t i = 0; i < steps; ++i) {
    LCNN_UNROLL for (int u = 0; u < SUMS; ++u) {
      acc[u] = MultiplyAdd(a, Vec::Load(from + u * Vec::kLanes), acc[u]);
    }
    from = i % 8 == 7 ? from - 7 * SUMS * Vec::kLanes : from + SUMS * Vec::kLanes;
  }
  return Total(acc);
}

template <int SUMS>
constexpr lcnn::PeakKernels Peak() {
  return {SUMS * Vec::kLanes, FromRegisters<SUMS>, WithLoads<SUMS>};
}

}  // namespace

#endif  // LCNN_BENCH_F32_PEAK_BODY_H_
