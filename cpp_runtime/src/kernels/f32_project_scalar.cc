// Stage 1 without vector instructions: what the others are measured against, and the fallback.
#include "vec_scalar.h"
// Vec first: the body is written in terms of it.
#include "f32_project_body.h"

namespace {

template <bool HALF>
void ProjectPixelOf(const lcnn::ProjectPixelTask& t) {
  float acc[kPanelRows] = {};
  for (int64_t i = 0; i < t.depth; ++i) {
    for (int row = 0; row < kPanelRows; ++row) {
      const int64_t at = i * kPanelRows + row;
      acc[row] += (HALF ? FromHalf(t.half_panel[at]) : t.panel[at]) * t.x[i];
    }
  }
  for (int row = 0; row < kPanelRows; ++row) t.out[row] = acc[row];
}

void ProjectPixel(const lcnn::ProjectPixelTask& t) {
  t.half_panel != nullptr ? ProjectPixelOf<true>(t) : ProjectPixelOf<false>(t);
}

}  // namespace

namespace lcnn {
const ProjectKernels kProjectScalar = {Vec::kLanes, 1, Pack, Project<2, 1>, ProjectPixel, Widen};
}
