// The roofs of neon.
#include "kernels/vec_neon.h"
// Vec first: the body is written in terms of it.
#include "f32_peak_body.h"

namespace lcnn {
const PeakKernels kPeakNeon = Peak<16>();
}
