// What the processor and the operating system allow.
#ifndef LCNN_SRC_BASE_CPU_FEATURES_H_
#define LCNN_SRC_BASE_CPU_FEATURES_H_

#include "lcnn/lookup_conv.h"

namespace lcnn {

// The best instruction set whose registers the operating system saves as well.
Isa DetectIsa();

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_CPU_FEATURES_H_
