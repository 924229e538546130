// The kernels of each instruction set in this build.
#ifndef LCNN_SRC_BASE_DISPATCH_H_
#define LCNN_SRC_BASE_DISPATCH_H_

#include "kernels/kernels.h"
#include "lcnn/lookup_conv.h"

namespace lcnn {

struct KernelSet {
  Isa isa;
  const char* name;
  const ProjectKernels* project;
  const LookupKernels* lookup;
  const PoolKernels* pool;
};

// `isa` is one of BuiltIsas().
const KernelSet& KernelsFor(Isa isa);

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_DISPATCH_H_
