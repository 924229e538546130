#include "base/cpu_features.h"

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define LCNN_X86_64 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace lcnn {

#if defined(LCNN_X86_64)
namespace {

struct CpuidResult {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidResult Cpuid(uint32_t leaf, uint32_t part = 0) {
  CpuidResult r;
#if defined(_MSC_VER)
  int words[4];
  __cpuidex(words, static_cast<int>(leaf), static_cast<int>(part));
  r = {static_cast<uint32_t>(words[0]), static_cast<uint32_t>(words[1]),
       static_cast<uint32_t>(words[2]), static_cast<uint32_t>(words[3])};
#else
  __cpuid_count(leaf, part, r.eax, r.ebx, r.ecx, r.edx);
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

constexpr bool Bit(uint32_t word, int bit) { return (word >> bit & 1) != 0; }

constexpr bool HasAll(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

// Tiles are large, so that Linux saves them only for processes that asked (its
// Documentation/arch/x86/xstate.rst). Other systems are not known to need it and were not tried.
bool TilesAllowed() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

CpuFeatures DetectCpuFeatures() {
  constexpr int kOsxsave = 27, kAvx = 28;
  constexpr uint64_t kYmmState = 0x6, kZmmState = 0xe6, kTileState = 0x60000;
  if (Cpuid(0).eax < 7) return kNoFeatures;
  const uint32_t leaf1_ecx = Cpuid(1).ecx;
  const CpuidResult leaf7 = Cpuid(7);
  const uint32_t leaf7_ebx = leaf7.ebx;
  if (!Bit(leaf1_ecx, kOsxsave) || !Bit(leaf1_ecx, kAvx)) return kNoFeatures;
  const uint64_t saved = Xcr0();
  CpuFeatures features = kNoFeatures;
  const auto add = [&](bool present, CpuFeatures feature) { features |= present ? feature : 0; };
  if (!HasAll(saved, kYmmState)) return features;
  add(Bit(leaf1_ecx, 12), kFma);
  add(Bit(leaf1_ecx, 29), kF16c);
  add(Bit(leaf7_ebx, 5), kAvx2);
  // The first word of leaf 7 says how many parts it has.
  add(leaf7.eax >= 1 && Bit(Cpuid(7, 1).eax, 4), kAvxVnni);
  if (!HasAll(saved, kZmmState)) return features;
  add(Bit(leaf7_ebx, 16), kAvx512F);
  add(Bit(leaf7_ebx, 17), kAvx512Dq);
  add(Bit(leaf7_ebx, 30), kAvx512Bw);
  add(Bit(leaf7_ebx, 31), kAvx512Vl);
  add(Bit(leaf7.ecx, 11), kAvx512Vnni);
  add(leaf7.eax >= 1 && Bit(Cpuid(7, 1).eax, 5), kAvx512Bf16);
  const bool tiles = Bit(leaf7.edx, 22) && Bit(leaf7.edx, 24) && Bit(leaf7.edx, 25);
  add(tiles && HasAll(saved, kTileState) && TilesAllowed(), kAmx);
  return features;
}

#elif defined(__aarch64__) || defined(_M_ARM64)

CpuFeatures DetectCpuFeatures() { return kNeon; }  // part of the baseline

#else

CpuFeatures DetectCpuFeatures() { return kNoFeatures; }

#endif

}  // namespace lcnn
