// Stage 2, avx512: tiles of up to 8 vectors of 16 lanes.
#include "kernels/vec_avx512.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_lookup_body.h"

namespace lcnn {
const LookupKernels kLookupAvx512 = {
    Vec::kLanes,
    {8, Lookup<8>},
    {{8, LookupShared<2, 2, 8>}, {6, LookupShared<4, 4, 6>}, {3, LookupShared<8, 8, 3>}}};
}
