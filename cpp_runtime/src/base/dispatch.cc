#include "base/dispatch.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "base/cpu_features.h"

namespace lcnn {
namespace {

#define LCNN_KERNELS(suffix, name) \
  {Isa::k##suffix, name, &kProject##suffix, &kLookup##suffix, &kPool##suffix},
constexpr KernelSet kKernelSets[] = {
#include "kernels/kernels.inc"
};
#undef LCNN_KERNELS

Isa NamedIsa(const std::string& name) {
  std::string allowed;
  for (const KernelSet& set : kKernelSets) {
    if (name == set.name) return set.isa;
    allowed += (allowed.empty() ? "" : ", ") + std::string(set.name);
  }
  throw std::invalid_argument("LCNN_ISA is '" + name + "'; it must be one of " + allowed);
}

}  // namespace

const KernelSet& KernelsFor(Isa isa) {
  for (const KernelSet& set : kKernelSets) {
    if (set.isa == isa) return set;
  }
  throw std::invalid_argument("this build has no kernels for instruction set " +
                              std::to_string(static_cast<int>(isa)));
}

const char* IsaName(Isa isa) { return KernelsFor(isa).name; }

std::vector<Isa> BuiltIsas() {
  std::vector<Isa> isas;
  for (const KernelSet& set : kKernelSets) isas.push_back(set.isa);
  return isas;
}

bool IsaSupported(Isa isa) { return isa <= DetectIsa(); }

Isa ChooseIsa() {
  Isa best = Isa::kScalar;
  for (const KernelSet& set : kKernelSets) {
    if (IsaSupported(set.isa)) best = set.isa;
  }
  const char* cap = std::getenv("LCNN_ISA");
  return cap == nullptr || *cap == '\0' ? best : std::min(best, NamedIsa(cap));
}

}  // namespace lcnn
