// Max pooling, avx2.
#include "kernels/vec_avx2.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_pool_body.h"

namespace lcnn {
const PoolKernels kPoolAvx2 = {Pool};
}
