// Operations on single numbers of bfloat16, scalar: the flags of this file make the difference.
#include "kernels/bf16_map_body.h"

namespace lcnn {
const Bfloat16MapKernels kBfloat16MapScalar = kMaps;
}
