// Operations on single bytes, scalar: the flags of this file make the difference.
#include "kernels/u8_map_body.h"

namespace lcnn {
const ByteMapKernels kByteMapScalar = kMaps;
}
