// Operations on single bytes, avx512: the flags of this file make the difference.
#include "kernels/u8_map_body.h"

namespace lcnn {
const ByteMapKernels kByteMapAvx512 = kMaps;
}
