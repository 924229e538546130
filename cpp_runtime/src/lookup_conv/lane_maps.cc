#include "lookup_conv/lane_maps.h"

#include "lookup_conv/layout.h"

namespace lcnn {
namespace {

// A gather of a vector takes as long as so many runs of every other pixel.
constexpr int32_t kMaxRuns = 3;

// Triples (pixel, count, mask) for runs of every other pixel, as in LaneMap.
std::vector<int32_t> AlternateRuns(const std::vector<int64_t>& pixels) {
  std::vector<int32_t> triples;
  bool follows = false;  // the lane before is a pixel
  for (size_t lane = 0; lane < pixels.size(); ++lane) {
    const int64_t pixel = pixels[lane];
    if (pixel == kBorder) {
      follows = false;
      continue;
    }
    if (!follows || pixel != pixels[lane - 1] + 2) {
      triples.insert(triples.end(), {static_cast<int32_t>(pixel), 0, 0});
    }
    ++*(triples.end() - 2);
    triples.back() |= 1 << lane;
    follows = true;
  }
  return triples;
}

}  // namespace

void LaneMaps::Add(const std::vector<int64_t>& pixels) {
  LaneMap map = {0, 0, 0, 0};
  for (size_t lane = 0; lane < pixels.size(); ++lane) {
    if (pixels[lane] == kBorder) continue;
    const auto pixel = static_cast<int32_t>(pixels[lane]);
    if (map.count == 0) map.base = pixel;
    if (pixel != map.base + map.count) map.indexed = 1;
    map.mask = static_cast<uint16_t>(map.mask | 1u << lane);
    ++map.count;
  }
  if (map.indexed) {
    map.base = static_cast<int32_t>(indices.size());
    for (const int64_t pixel : pixels) {
      indices.push_back(pixel == kBorder ? 0 : static_cast<int32_t>(pixel));
    }
  }
  maps.push_back(map);
}

void LaneMaps::AddToRead(const std::vector<int64_t>& pixels) {
  const size_t before = indices.size();
  Add(pixels);
  LaneMap& map = maps.back();
  if (!map.indexed) return;
  const std::vector<int32_t> triples = AlternateRuns(pixels);
  const auto runs = static_cast<int32_t>(triples.size() / 3);
  if (runs > kMaxRuns) return;
  map.indexed = kAlternatePixels;
  indices.resize(before);
  indices.push_back(runs);
  indices.insert(indices.end(), triples.begin(), triples.end());
}

}  // namespace lcnn
