// Max pooling, avx2.
#include "vec_avx2.h"
// Vec first: the body is written in terms of it.
#include "f32_pool_body.h"

namespace lcnn {
const PoolKernels kPoolAvx2 = {Pool};
}
