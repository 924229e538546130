// Products of bytes, scalar: the meaning of the family, one pixel and filter at a time.
#include "kernels/u8_dot.h"
#include "kernels/u8_finish_scalar.h"

namespace {

uint32_t Sum(const lcnn::DotTask& t, int64_t pixel, int64_t filter) {
  auto sum = static_cast<uint32_t>(t.start[filter]);
  const int8_t* w = t.weights + filter * lcnn::kQuad;
  for (int64_t s = 0; s < t.n_spans; ++s) {
    const lcnn::DotSpan& span = t.spans[s];
    const uint8_t* x = t.x + t.x_offsets[pixel] + span.row * t.row_bytes + span.column;
    for (int32_t q = 0; q < span.quads; ++q) {
      for (int64_t i = 0; i < lcnn::kQuad; ++i) sum += static_cast<uint32_t>(x[i] * w[i]);
      x += lcnn::kQuad;
      w += t.blocks * lcnn::kBlockFilters * lcnn::kQuad;
    }
  }
  return sum;
}

void ToBytes(const lcnn::DotTask& t) { AllToBytes(t, Sum); }
void ToFloats(const lcnn::DotTask& t) { AllToFloats(t, Sum); }

}  // namespace

namespace lcnn {
const DotKernels kDotScalar = {ToBytes, ToFloats};
}
