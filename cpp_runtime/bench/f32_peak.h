// What the machine can do at most on one instruction set: the roofs that bench_kernels holds the
// kernels against.
#ifndef LCNN_BENCH_F32_PEAK_H_
#define LCNN_BENCH_F32_PEAK_H_

#include <cstdint>

namespace lcnn {

// Each runs `steps` steps of `macs` multiply-adds in independent sums and returns their total.
struct PeakKernels {
  int64_t macs;
  float (*registers)(int64_t steps);
  // An operand of each vector of multiply-adds is loaded from `from`, 8 * macs floats.
  float (*loads)(const float* from, int64_t steps);
};

#define LCNN_KERNELS(needs, suffix) extern const PeakKernels kPeak##suffix;
#include "f32_peak.inc"
#undef LCNN_KERNELS

}  // namespace lcnn

#endif  // LCNN_BENCH_F32_PEAK_H_
