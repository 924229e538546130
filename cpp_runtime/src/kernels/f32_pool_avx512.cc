// Max pooling, avx512.
#include "vec_avx512.h"
// Vec first: the body is written in terms of it.
#include "f32_pool_body.h"

namespace lcnn {
const PoolKernels kPoolAvx512 = {Pool};
}
