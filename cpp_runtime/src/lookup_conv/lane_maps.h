// Which lanes of a vector of positions are pixels, and where those lie: see LaneMap.
#ifndef LCNN_SRC_LOOKUP_CONV_LANE_MAPS_H_
#define LCNN_SRC_LOOKUP_CONV_LANE_MAPS_H_

#include <cstdint>
#include <vector>

#include "kernels/lanes.h"

namespace lcnn {

// The maps of vectors, in the order of their tiles.
struct LaneMaps {
  std::vector<LaneMap> maps;
  std::vector<int32_t> indices;

  // Adds the map of one vector, given the pixel of each of its lanes, or kBorder.
  void Add(const std::vector<int64_t>& pixels);
  // As Add, for stage 1: pixels that alternate are described as such if they make few runs.
  void AddToRead(const std::vector<int64_t>& pixels);
};

}  // namespace lcnn

#endif  // LCNN_SRC_LOOKUP_CONV_LANE_MAPS_H_
