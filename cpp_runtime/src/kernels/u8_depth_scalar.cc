// Depthwise products of bytes, scalar: the meaning of the family, whose order of channels is theirs
// for 16 of them.
#include "kernels/u8_depth.h"

namespace {

constexpr int64_t kChannels = 16;

float Value(const lcnn::DepthTask& t, int64_t pixel, int64_t channel) {
  auto sum = static_cast<uint32_t>(t.start[channel]);
  const uint8_t* const x = t.x + t.x_offsets[pixel] + channel;
  const int8_t* const w = t.weights + channel / kChannels * kChannels * t.n_taps +
                          channel % kChannels * lcnn::kTapGroup;
  for (int64_t i = 0; i < t.n_taps; ++i) {
    const int8_t weight =
        w[i / lcnn::kTapGroup * kChannels * lcnn::kTapGroup + i % lcnn::kTapGroup];
    sum += static_cast<uint32_t>(x[t.taps[i].row * t.row_bytes + t.taps[i].column] * weight);
  }
  float v = __builtin_fmaf(static_cast<float>(static_cast<int32_t>(sum)), t.scale[channel],
                           t.bias[channel]);
  if (t.residual != nullptr) {
    const int32_t r = t.residual[t.y_offsets[pixel] + channel] - t.residual_zero;
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
void ForAll(const lcnn::DepthTask& t, const Store& store) {
  for (int64_t p = 0; p < t.pixels; ++p) {
    for (int64_t c = 0; c < t.filters; ++c) store(t.y_offsets[p] + c, Value(t, p, c));
  }
}

void ToBytes(const lcnn::DepthTask& t) {
  auto* const y = static_cast<uint8_t*>(t.y);
  ForAll(t, [&](int64_t i, float v) { y[i] = static_cast<uint8_t>(Rounded(v) + t.zero); });
}

void ToFloats(const lcnn::DepthTask& t) {
  auto* const y = static_cast<float*>(t.y);
  ForAll(t, [&](int64_t i, float v) { y[i] = v; });
}

}  // namespace

namespace lcnn {
const DepthKernels kDepthScalar = {kChannels, ToBytes, ToFloats};
}
