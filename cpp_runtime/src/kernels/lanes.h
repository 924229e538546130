// What the kernels of all families have in common.
//
// Kernel files include headers of this folder only, and no STL: an inline function of a shared
// header, compiled there with AVX-512 on, could be the copy that the linker keeps for an older
// processor. Sizes are counts of floats; a "vector" is `lanes` floats. Pointers into S, bias and
// the packed operands are 64-byte aligned where they start, and need no alignment after offsets are
// added. Outputs never overlap inputs.
#ifndef LCNN_SRC_KERNELS_LANES_H_
#define LCNN_SRC_KERNELS_LANES_H_

#include <cstddef>
#include <cstdint>

namespace lcnn {

constexpr int kMaxLanes = 16;

// Where the lanes of one vector of S positions lie in a plane of X or Y. Bit l of `mask` says that
// lane l is a pixel; the other lanes are border. The pixels are base, base + 1, ... in lane order,
// or, when `indexed`, indices[base + l]. Where X is read with stride 2, `indexed` may be
// kAlternatePixels: then indices[base] tells how many triples (pixel, count, mask) follow, one at
// least, and the lanes of a triple's mask hold every other pixel from that one on, `count` of them.
constexpr uint8_t kAlternatePixels = 2;
struct LaneMap {
  int32_t base;
  uint16_t mask;
  uint8_t count;  // bits set in mask
  uint8_t indexed;
};

}  // namespace lcnn

#endif  // LCNN_SRC_KERNELS_LANES_H_
