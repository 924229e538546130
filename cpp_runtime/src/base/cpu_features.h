// What the processor and the operating system allow.
#ifndef LCNN_SRC_BASE_CPU_FEATURES_H_
#define LCNN_SRC_BASE_CPU_FEATURES_H_

#include <cstdint>

namespace lcnn {

// A set: processors have features in many combinations, none of which need contain the other.
using CpuFeatures = uint32_t;

constexpr CpuFeatures kNoFeatures = 0;
constexpr CpuFeatures kFma = 1u << 0;
constexpr CpuFeatures kF16c = 1u << 1;
constexpr CpuFeatures kAvx2 = 1u << 2;
constexpr CpuFeatures kAvx512F = 1u << 3;
constexpr CpuFeatures kAvx512Dq = 1u << 4;
constexpr CpuFeatures kAvx512Bw = 1u << 5;
constexpr CpuFeatures kAvx512Vl = 1u << 6;
constexpr CpuFeatures kNeon = 1u << 7;
constexpr CpuFeatures kAvx512Vnni = 1u << 8;
constexpr CpuFeatures kAvxVnni = 1u << 9;
constexpr CpuFeatures kAvx512Bf16 = 1u << 10;
constexpr CpuFeatures kAmx = 1u << 11;  // tiles, and their products of bytes and of bfloat16

// What the compiler may use in the files of an instruction set: its flags in cmake/isa.cmake.
constexpr CpuFeatures kAvx2Features = kAvx2 | kFma | kF16c;
constexpr CpuFeatures kAvxVnniFeatures = kAvx2Features | kAvxVnni;
constexpr CpuFeatures kAvx512Features =
    kAvx2Features | kAvx512F | kAvx512Dq | kAvx512Bw | kAvx512Vl;
constexpr CpuFeatures kAvx512VnniFeatures = kAvx512Features | kAvx512Vnni;
constexpr CpuFeatures kAvx512Bf16Features = kAvx512VnniFeatures | kAvx512Bf16;
constexpr CpuFeatures kAmxFeatures = kAvx512Bf16Features | kAmx;
constexpr CpuFeatures kNeonFeatures = kNeon;

constexpr bool Contains(CpuFeatures all, CpuFeatures some) { return (all & some) == some; }

// The features whose registers the operating system saves as well. Where the processor has tiles,
// asks the system for leave to use them, once for the process; refused, they count as missing.
CpuFeatures DetectCpuFeatures();

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_CPU_FEATURES_H_
