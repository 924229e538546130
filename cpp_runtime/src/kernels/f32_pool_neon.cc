// Max pooling, neon.
#include "vec_neon.h"
// Vec first: the body is written in terms of it.
#include "f32_pool_body.h"

namespace lcnn {
const PoolKernels kPoolNeon = {Pool};
}
