// Stage 2, avx2: tiles of up to 8 vectors of 8 lanes.
#include "kernels/vec_avx2.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_lookup_body.h"

namespace lcnn {
const LookupKernels kLookupAvx2 = {
    Vec::kLanes,
    {8, Lookup<8>},
    {{4, LookupShared<2, 2, 4>}, {3, LookupShared<4, 4, 3>}, {3, LookupShared<8, 4, 3>}}};
}
