// LCNN_UNROLL before a loop of constant length: arrays of Vec indexed by it stay in registers only
// when it is unrolled.
#ifndef LCNN_SRC_KERNELS_UNROLL_H_
#define LCNN_SRC_KERNELS_UNROLL_H_

#if defined(__clang__)
#define LCNN_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define LCNN_UNROLL _Pragma("GCC unroll 32")
#else
#define LCNN_UNROLL
#endif

#endif  // LCNN_SRC_KERNELS_UNROLL_H_
