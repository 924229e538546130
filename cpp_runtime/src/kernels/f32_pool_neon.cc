// Max pooling, neon.
#include "kernels/vec_neon.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_pool_body.h"

namespace lcnn {
const PoolKernels kPoolNeon = {Pool};
}
