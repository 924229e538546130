// The roofs of avx2.
#include "kernels/vec_avx2.h"
// Vec first: the body is written in terms of it.
#include "f32_peak_body.h"

namespace lcnn {
const PeakKernels kPeakAvx2 = Peak<12>();
}
