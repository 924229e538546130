// Stage 1, NEON: 4 x 4 accumulators, 4 vectors of pixels and 4 dictionary values use 24 of the 32
// registers. GCC 12 loads all values of a step before the first multiply-add, so 8 x 3 needs 35 and
// spills.
#include "kernels/vec_neon.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_project_body.h"

namespace {

// Two registers hold a panel's 8 rows; four channels at a time make eight sums.
template <class T>
void ProjectPixelOf(const T* panel, const lcnn::ProjectPixelTask& t) {
  constexpr int kSums = 4;
  constexpr int kHalves = kPanelRows / Vec::kLanes;
  Vec acc[kSums][kHalves];
  LCNN_UNROLL for (int u = 0; u < kSums; ++u) {
    LCNN_UNROLL for (int h = 0; h < kHalves; ++h) acc[u][h] = Vec::Set(0);
  }
  int64_t i = 0;
  for (; i + kSums <= t.depth; i += kSums) {
    LCNN_UNROLL for (int u = 0; u < kSums; ++u) {
      const Vec x = Vec::Set(t.x[i + u]);
      LCNN_UNROLL for (int h = 0; h < kHalves; ++h) {
        acc[u][h] = MultiplyAdd(x, PanelVector(panel, (i + u) * kHalves + h), acc[u][h]);
      }
    }
  }
  float rest[kSums * kPanelRows];
  const float* tail = PanelTail<kSums>(panel, i, t.depth, rest);
  for (; i < t.depth; ++i) {
    LCNN_UNROLL for (int h = 0; h < kHalves; ++h, tail += Vec::kLanes) {
      acc[0][h] = MultiplyAdd(Vec::Set(t.x[i]), Vec::Load(tail), acc[0][h]);
    }
  }
  LCNN_UNROLL for (int h = 0; h < kHalves; ++h) {
    LCNN_UNROLL for (int u = 1; u < kSums; ++u) acc[0][h] = acc[0][h] + acc[u][h];
    acc[0][h].Store(t.out + h * Vec::kLanes);
  }
}

}  // namespace

namespace lcnn {
const ProjectKernels kProjectNeon = {Vec::kLanes, 4, Pack, Project<4, 4>, ProjectPixel, Widen};
}
