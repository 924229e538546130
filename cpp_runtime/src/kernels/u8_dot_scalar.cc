// Products of bytes, scalar: the meaning of the family, one pixel and filter at a time.
#include "kernels/u8_dot.h"

namespace {

int32_t Sum(const lcnn::DotTask& t, int64_t pixel, int64_t filter) {
  // Unsigned: sums may wrap around on the way.
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
  return static_cast<int32_t>(sum);
}

float Value(const lcnn::DotTask& t, int64_t pixel, int64_t filter) {
  const auto sum = static_cast<float>(Sum(t, pixel, filter));
  float v = __builtin_fmaf(sum, t.scale[filter], t.bias[filter]);
  if (t.residual != nullptr) {
    const int32_t r = t.residual[t.y_offsets[pixel] + filter] - t.residual_zero;
    v = __builtin_fmaf(static_cast<float>(r), t.residual_scale, v);
  }
  if (v < t.low) v = t.low;
  return v > t.high ? t.high : v;
}

// Adding 1.5 * 2^23 leaves no bit for a fraction: a value below 2^22 is rounded to the nearest
// integer.
int32_t Rounded(float v) {
  constexpr float kNoFraction = 0x1.8p23f;
  return static_cast<int32_t>((v + kNoFraction) - kNoFraction);
}

template <class Store>
void ForAll(const lcnn::DotTask& t, const Store& store) {
  for (int64_t p = 0; p < t.pixels; ++p) {
    for (int64_t f = 0; f < t.filters; ++f) store(t.y_offsets[p] + f, Value(t, p, f));
  }
}

void ToBytes(const lcnn::DotTask& t) {
  auto* const y = static_cast<uint8_t*>(t.y);
  ForAll(t, [&](int64_t i, float v) { y[i] = static_cast<uint8_t>(Rounded(v) + t.zero); });
}

void ToFloats(const lcnn::DotTask& t) {
  auto* const y = static_cast<float*>(t.y);
  ForAll(t, [&](int64_t i, float v) { y[i] = v; });
}

}  // namespace

namespace lcnn {
const DotKernels kDotScalar = {ToBytes, ToFloats};
}
