// Products of bfloat16, scalar: one pixel and filter at a time.
#include "kernels/bf16_bits.h"
#include "kernels/bf16_dot.h"

namespace {

float LoadHalf(const void* p) {
  uint16_t half;
  __builtin_memcpy(&half, p, sizeof(half));
  return FromBfloat16(half);
}

float Value(const lcnn::DotTask& t, int64_t pixel, int64_t filter) {
  constexpr int64_t kBytes = 2;
  float v;
  __builtin_memcpy(&v, t.start + filter, sizeof(v));
  const int8_t* w = t.weights + filter * lcnn::kQuad;
  for (int64_t s = 0; s < t.n_spans; ++s) {
    const lcnn::DotSpan& span = t.spans[s];
    const uint8_t* x = t.x + t.x_offsets[pixel] + span.row * t.row_bytes + span.column;
    for (int32_t q = 0; q < span.quads; ++q) {
      v += LoadHalf(x) * LoadHalf(w) + LoadHalf(x + kBytes) * LoadHalf(w + kBytes);
      x += lcnn::kQuad;
      w += t.blocks * lcnn::kBlockFilters * lcnn::kQuad;
    }
  }
  if (t.residual != nullptr) v += LoadHalf(t.residual + t.y_offsets[pixel] + filter * kBytes);
  if (v < t.low) v = t.low;
  return v > t.high ? t.high : v;
}

void ToHalves(const lcnn::DotTask& t) {
  for (int64_t p = 0; p < t.pixels; ++p) {
    for (int64_t f = 0; f < t.filters; ++f) {
      const uint16_t half = ToBfloat16(Value(t, p, f));
      auto* const y = static_cast<uint8_t*>(t.y) + t.y_offsets[p];
      __builtin_memcpy(y + f * static_cast<int64_t>(sizeof(half)), &half, sizeof(half));
    }
  }
}

void ToFloats(const lcnn::DotTask& t) {
  auto* const y = static_cast<float*>(t.y);
  for (int64_t p = 0; p < t.pixels; ++p) {
    for (int64_t f = 0; f < t.filters; ++f) y[t.y_offsets[p] + f] = Value(t, p, f);
  }
}

}  // namespace

namespace lcnn {
const DotKernels kBfloat16DotScalar = {ToHalves, ToFloats};
}
