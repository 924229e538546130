// Stage 1, AVX2: 4 x 3 accumulators, 3 vectors of pixels and one broadcast fill the 16 registers.
#include "kernels/vec_avx2.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_project_body.h"

namespace {

// One register holds a panel's 8 rows; eight sums because a multiply-add takes 4-5 cycles and two
// start per cycle.
template <class T>
void ProjectPixelOf(const T* panel, const lcnn::ProjectPixelTask& t) {
  constexpr int kSums = 8;
  Vec acc[kSums];
  LCNN_UNROLL for (int u = 0; u < kSums; ++u) acc[u] = Vec::Set(0);
  int64_t i = 0;
  for (; i + kSums <= t.depth; i += kSums) {
    LCNN_UNROLL for (int u = 0; u < kSums; ++u) {
      acc[u] = MultiplyAdd(Vec::Set(t.x[i + u]), PanelVector(panel, i + u), acc[u]);
    }
  }
  float rest[kSums * kPanelRows];
  const float* tail = PanelTail<kSums>(panel, i, t.depth, rest);
  for (; i < t.depth; ++i, tail += kPanelRows) {
    acc[0] = MultiplyAdd(Vec::Set(t.x[i]), Vec::Load(tail), acc[0]);
  }
  LCNN_UNROLL for (int u = 1; u < kSums; ++u) acc[0] = acc[0] + acc[u];
  acc[0].Store(t.out);
}

}  // namespace

namespace lcnn {
const ProjectKernels kProjectAvx2 = {Vec::kLanes, 3, Pack, Project<4, 3>, ProjectPixel, Widen};
}
