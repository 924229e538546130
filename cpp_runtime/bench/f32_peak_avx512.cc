// The roofs of avx512.
#include "kernels/vec_avx512.h"
// Vec first: the body is written in terms of it.
#include "f32_peak_body.h"

namespace lcnn {
const PeakKernels kPeakAvx512 = Peak<24>();
}
