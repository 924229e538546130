#include "base/dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace lcnn {
namespace {

// A name of LCNN_ISA, and the features that a machine of that name has.
struct NamedIsa {
  Isa isa;
  const char* name;
  CpuFeatures features;
};

constexpr NamedIsa kNamedIsas[] = {
    {Isa::kScalar, "scalar", kNoFeatures},
#if defined(LCNN_HAVE_X86_KERNELS)
    {Isa::kAvx2, "avx2", kAvx2Features},
    {Isa::kAvxVnni, "avxvnni", kAvxVnniFeatures},
    {Isa::kAvx512, "avx512", kAvx512Features},
    {Isa::kAvx512Vnni, "avx512vnni", kAvx512VnniFeatures},
    {Isa::kAmx, "amx", kAvx512VnniFeatures | kAmx},
#endif
#if defined(LCNN_HAVE_AARCH64_KERNELS)
    {Isa::kNeon, "neon", kNeonFeatures},
#endif
};

const NamedIsa& Find(Isa isa) {
  for (const NamedIsa& named : kNamedIsas) {
    if (named.isa == isa) return named;
  }
  throw std::invalid_argument("this build has no kernels for instruction set " +
                              std::to_string(static_cast<int>(isa)));
}

const NamedIsa& Find(const std::string& name) {
  std::string allowed;
  for (const NamedIsa& named : kNamedIsas) {
    if (name == named.name) return named;
    allowed += (allowed.empty() ? "" : ", ") + std::string(named.name);
  }
  throw std::invalid_argument("LCNN_ISA is '" + name + "'; it must be one of " + allowed);
}

// Asked once: the instruction traps to the host of a virtual machine.
CpuFeatures MachineFeatures() {
  static const CpuFeatures features = DetectCpuFeatures();
  return features;
}

}  // namespace

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kProject##suffix},
const KernelRows<ProjectKernels>& ProjectRows() {
  static const KernelRows<ProjectKernels> rows = {
#include "kernels/f32_project.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kLookup##suffix},
const KernelRows<LookupKernels>& LookupRows() {
  static const KernelRows<LookupKernels> rows = {
#include "kernels/f32_lookup.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kPool##suffix},
const KernelRows<PoolKernels>& PoolRows() {
  static const KernelRows<PoolKernels> rows = {
#include "kernels/f32_pool.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kDot##suffix},
const KernelRows<DotKernels>& DotRows() {
  static const KernelRows<DotKernels> rows = {
#include "kernels/u8_dot.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kDepth##suffix},
const KernelRows<DepthKernels>& DepthRows() {
  static const KernelRows<DepthKernels> rows = {
#include "kernels/u8_depth.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kList##suffix},
const KernelRows<ListKernels>& ListRows() {
  static const KernelRows<ListKernels> rows = {
#include "kernels/u8_list.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kBfloat16Dot##suffix},
const KernelRows<DotKernels>& Bfloat16DotRows() {
  static const KernelRows<DotKernels> rows = {
#include "kernels/bf16_dot.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kBfloat16Map##suffix},
const KernelRows<Bfloat16MapKernels>& Bfloat16MapRows() {
  static const KernelRows<Bfloat16MapKernels> rows = {
#include "kernels/bf16_map.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kByteMap##suffix},
const KernelRows<ByteMapKernels>& ByteMapRows() {
  static const KernelRows<ByteMapKernels> rows = {
#include "kernels/u8_map.inc"
  };
  return rows;
}
#undef LCNN_KERNELS

CpuFeatures FeaturesFor(Isa isa) {
  CpuFeatures denied = kNoFeatures;
  for (const NamedIsa& named : kNamedIsas) denied |= named.features & ~Find(isa).features;
  return MachineFeatures() & ~denied;
}

const char* IsaName(Isa isa) { return Find(isa).name; }

std::vector<Isa> BuiltIsas() {
  std::vector<Isa> isas;
  for (const NamedIsa& named : kNamedIsas) isas.push_back(named.isa);
  return isas;
}

bool IsaSupported(Isa isa) { return Contains(MachineFeatures(), Find(isa).features); }

Isa ChooseIsa() {
  const char* const cap = std::getenv("LCNN_ISA");
  const bool capped = cap != nullptr && *cap != '\0';
  const CpuFeatures features = capped ? FeaturesFor(Find(cap).isa) : MachineFeatures();
  Isa best = Isa::kScalar;
  for (const NamedIsa& named : kNamedIsas) {
    if (Contains(features, named.features)) best = named.isa;
  }
  return best;
}

}  // namespace lcnn
