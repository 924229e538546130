// Max pooling, avx512.
#include "kernels/vec_avx512.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_pool_body.h"

namespace lcnn {
const PoolKernels kPoolAvx512 = {Pool};
}
