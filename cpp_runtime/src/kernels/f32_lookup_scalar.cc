// Stage 2, scalar: tiles of up to 2 vectors of 4: eight sums in the 16 registers of the x86-64
// baseline.
#include "kernels/vec_scalar.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_lookup_body.h"

namespace lcnn {
const LookupKernels kLookupScalar = {
    Vec::kLanes,
    {2, Lookup<2>},
    {{2, LookupShared<2, 2, 2>}, {2, LookupShared<4, 2, 2>}, {2, LookupShared<8, 2, 2>}}};
}
