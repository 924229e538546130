// Stage 1, AVX-512: 8 x 3 accumulators, 3 vectors of pixels and one broadcast use 28 of the 32
// registers.
#include "kernels/vec_avx512.h"
// Vec first: the body is written in terms of it.
#include "kernels/f32_project_body.h"

namespace {

// One register holds the 8 rows of two channels.
template <class T>
void ProjectPixelOf(const T* panel, const lcnn::ProjectPixelTask& t) {
  constexpr int kSums = 8;
  const __m512i upper = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  Vec acc[kSums];
  LCNN_UNROLL for (int u = 0; u < kSums; ++u) acc[u] = Vec::Set(0);
  int64_t i = 0;
  for (; i + 2 * kSums <= t.depth; i += 2 * kSums) {
    const __m512 x_f32x16 = _mm512_loadu_ps(t.x + i);
    LCNN_UNROLL for (int u = 0; u < kSums; ++u) {
      const __m512i lanes = _mm512_add_epi32(upper, _mm512_set1_epi32(2 * u));
      const Vec x = {_mm512_permutexvar_ps(lanes, x_f32x16)};
      acc[u] = MultiplyAdd(x, PanelVector(panel, i / 2 + u), acc[u]);
    }
  }
  float rest[2 * kSums * kPanelRows];
  const float* tail = PanelTail<2 * kSums>(panel, i, t.depth, rest);
  for (; i < t.depth; ++i, tail += kPanelRows) {
    // Not in the other lanes, where the panel is 0: infinity times 0 would spoil the sum.
    const Vec x = {_mm512_maskz_mov_ps(Vec::First(kPanelRows), Vec::Set(t.x[i]).f32x16)};
    acc[0] = MultiplyAdd(x, Vec::LoadFirst(tail, kPanelRows), acc[0]);
  }
  LCNN_UNROLL for (int u = 1; u < kSums; ++u) acc[0] = acc[0] + acc[u];
  const __m256 even_f32x8 = _mm512_castps512_ps256(acc[0].f32x16);
  const __m256 odd_f32x8 = _mm512_extractf32x8_ps(acc[0].f32x16, 1);
  _mm256_storeu_ps(t.out, _mm256_add_ps(even_f32x8, odd_f32x8));
}

}  // namespace

namespace lcnn {
const ProjectKernels kProjectAvx512 = {Vec::kLanes, 3, Pack, Project<8, 3>, ProjectPixel, Widen};
}
