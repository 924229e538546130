// Which kernels of each family a session uses.
#ifndef LCNN_SRC_BASE_DISPATCH_H_
#define LCNN_SRC_BASE_DISPATCH_H_

#include <vector>

#include "base/cpu_features.h"
#include "kernels/bf16_dot.h"
#include "kernels/bf16_map.h"
#include "kernels/f32_lookup.h"
#include "kernels/f32_pool.h"
#include "kernels/f32_project.h"
#include "kernels/u8_depth.h"
#include "kernels/u8_dot.h"
#include "kernels/u8_list.h"
#include "kernels/u8_map.h"
#include "lcnn/types.h"

namespace lcnn {

// A row of a family's .inc file.
template <class Kernels>
struct KernelRow {
  CpuFeatures needs;
  const char* suffix;
  const Kernels* kernels;
};

template <class Kernels>
using KernelRows = std::vector<KernelRow<Kernels>>;

// The rows of each family in this build.
const KernelRows<ProjectKernels>& ProjectRows();
const KernelRows<LookupKernels>& LookupRows();
const KernelRows<PoolKernels>& PoolRows();
const KernelRows<DotKernels>& DotRows();
const KernelRows<DotKernels>& Bfloat16DotRows();
const KernelRows<DepthKernels>& DepthRows();
const KernelRows<Bfloat16MapKernels>& Bfloat16MapRows();
const KernelRows<ListKernels>& ListRows();
const KernelRows<ByteMapKernels>& ByteMapRows();

// The last row that needs nothing but `features`. The first row of a family needs none.
template <class Kernels>
const Kernels& LastWithin(CpuFeatures features, const KernelRows<Kernels>& rows) {
  const Kernels* last = rows.front().kernels;
  for (const KernelRow<Kernels>& row : rows) {
    if (Contains(features, row.needs)) last = row.kernels;
  }
  return *last;
}

// What the machine has, without the features that other instruction sets of BuiltIsas() need and
// `isa` does not. So a feature that none of them needs can be in a row of a family without a name
// of its own for LCNN_ISA, if the row needs those of its instruction set as well. Throws
// std::invalid_argument unless `isa` is one of BuiltIsas().
CpuFeatures FeaturesFor(Isa isa);

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_DISPATCH_H_
