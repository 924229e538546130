// The roofs of scalar.
#include "kernels/vec_scalar.h"
// Vec first: the body is written in terms of it.
#include "f32_peak_body.h"

namespace lcnn {
const PeakKernels kPeakScalar = Peak<3>();
}
