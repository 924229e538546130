// Stage 2, NEON: tiles of up to 8 vectors of 4 lanes.
#include "kernels/vec_neon.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_lookup_body.h"

namespace lcnn {
const LookupKernels kLookupNeon = {
    Vec::kLanes,
    {8, Lookup<8>},
    {{8, LookupShared<2, 2, 8>}, {5, LookupShared<4, 4, 5>}, {3, LookupShared<8, 8, 3>}}};
}
