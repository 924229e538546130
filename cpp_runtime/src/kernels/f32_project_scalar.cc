// Stage 1 without vector instructions: what the others are measured against, and the fallback.
#include "kernels/vec_scalar.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_project_body.h"

namespace {

inline float Number(float value) { return value; }
inline float Number(uint16_t half) { return FromHalf(half); }
inline float Number(int8_t byte) { return byte; }

template <class T>
void ProjectPixelOf(const T* panel, const lcnn::ProjectPixelTask& t) {
  float acc[kPanelRows] = {};
  for (int64_t i = 0; i < t.depth; ++i) {
    for (int row = 0; row < kPanelRows; ++row) {
      const int64_t at = i * kPanelRows + row;
      acc[row] += Number(panel[at]) * t.x[i];
    }
  }
  for (int row = 0; row < kPanelRows; ++row) t.out[row] = acc[row];
}

}  // namespace

namespace lcnn {
const ProjectKernels kProjectScalar = {Vec::kLanes, 1, Pack, Project<2, 1>, ProjectPixel, Widen};
}
