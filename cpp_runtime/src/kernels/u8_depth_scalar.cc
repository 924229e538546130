// Depthwise products of bytes, scalar: the meaning of the family, whose order of channels is theirs
// for 16 of them.
#include "kernels/u8_depth.h"
#include "kernels/u8_finish_scalar.h"

namespace {

constexpr int64_t kChannels = 16;

uint32_t Sum(const lcnn::DepthTask& t, int64_t pixel, int64_t channel) {
  auto sum = static_cast<uint32_t>(t.start[channel]);
  const uint8_t* const x = t.x + t.x_offsets[pixel] + channel;
  const int8_t* const w = t.weights + channel / kChannels * kChannels * t.n_taps +
                          channel % kChannels * lcnn::kTapGroup;
  for (int64_t i = 0; i < t.n_taps; ++i) {
    const int8_t weight =
        w[i / lcnn::kTapGroup * kChannels * lcnn::kTapGroup + i % lcnn::kTapGroup];
    sum += static_cast<uint32_t>(x[t.taps[i].row * t.row_bytes + t.taps[i].column] * weight);
  }
  return sum;
}

void ToBytes(const lcnn::DepthTask& t) { AllToBytes(t, Sum); }
void ToFloats(const lcnn::DepthTask& t) { AllToFloats(t, Sum); }

}  // namespace

namespace lcnn {
const DepthKernels kDepthScalar = {kChannels, ToBytes, ToFloats};
}
