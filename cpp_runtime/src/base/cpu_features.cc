#include "base/cpu_features.h"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define LCNN_X86_64 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace lcnn {

#if defined(LCNN_X86_64)
namespace {

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidResult Cpuid(uint32_t leaf) {
  CpuidResult r;
#if defined(_MSC_VER)
  int words[4];
  __cpuidex(words, static_cast<int>(leaf), 0);
  r = {static_cast<uint32_t>(words[0]), static_cast<uint32_t>(words[1]),
       static_cast<uint32_t>(words[2]), static_cast<uint32_t>(words[3])};
#else
  __cpuid_count(leaf, 0, r.eax, r.ebx, r.ecx, r.edx);
#endif
  return r;
}

// Which register files the operating system saves on a context switch.
uint64_t Xcr0() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

constexpr bool HasAll(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

}  // namespace

Isa DetectIsa() {
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr uint32_t kAvx2 = 1u << 5;
  constexpr uint32_t kAvx512FDqBwVl = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);
  constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6;
  if (Cpuid(0).eax < 7 || !HasAll(Cpuid(1).ecx, kFma | kOsxsave | kAvx | kF16c)) {
    return Isa::kScalar;
  }
  const uint32_t leaf7_ebx = Cpuid(7).ebx;
  const uint64_t saved = Xcr0();
  if (!HasAll(leaf7_ebx, kAvx2) || !HasAll(saved, kYmmState)) return Isa::kScalar;
  if (!HasAll(leaf7_ebx, kAvx512FDqBwVl) || !HasAll(saved, kZmmState)) return Isa::kAvx2;
  return Isa::kAvx512;
}

#elif defined(__aarch64__) || defined(_M_ARM64)

Isa DetectIsa() { return Isa::kNeon; }  // part of the baseline

#else

Isa DetectIsa() { return Isa::kScalar; }

#endif

}  // namespace lcnn
