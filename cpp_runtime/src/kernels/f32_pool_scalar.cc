// Max pooling, scalar.
#include "kernels/vec_scalar.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_pool_body.h"

namespace lcnn {
const PoolKernels kPoolScalar = {Pool};
}
