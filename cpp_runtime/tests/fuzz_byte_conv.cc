// libFuzzer target: creates a layer of bytes from arbitrary ones and runs it on every instruction
// set, against loops, to the bit.
//
// One axis in 20 has a hostile number; then only what is not refused and small is run.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "byte_layer.h"

namespace {

constexpr int64_t kMaxElements = 1 << 18;
constexpr int64_t kMaxMacs = 1 << 22;

constexpr int64_t kHostile[] = {
    0, -1, 65535, 65536, 1 << 30, INT32_MAX, int64_t{1} << 32, INT64_MAX, INT64_MIN};

int64_t Between(FuzzedDataProvider* data, int64_t low, int64_t high) {
  return data->ConsumeIntegralInRange<int64_t>(low, high);
}

lcnn::Axis ReadAxis(FuzzedDataProvider* data) {
  lcnn::Axis axis = {Between(data, 1, 5), Between(data, 1, 3), Between(data, 1, 3),
                     Between(data, 0, 4), Between(data, 0, 4)};
  if (Between(data, 0, 2) == 0) axis = {axis.kernel, 1, 1, axis.kernel / 2, axis.kernel / 2};
  if (Between(data, 0, 19) == 0) {
    int64_t* const numbers[] = {&axis.stride, &axis.dilation, &axis.pad_begin, &axis.pad_end};
    *numbers[Between(data, 0, 3)] = data->PickValueInArray(kHostile);
  }
  return axis;
}

ByteCase ReadCase(FuzzedDataProvider* data) {
  ByteCase c = {};
  const bool depthwise = Between(data, 0, 3) == 0;
  c.group = depthwise ? Between(data, 1, 140) : Between(data, 0, 3) == 0 ? Between(data, 1, 4) : 1;
  c.channels = c.group * (depthwise ? 1 : Between(data, 1, 40));
  c.filters = c.group * (depthwise ? 1 : Between(data, 0, 140));
  c.k = Between(data, 0, 1) == 0 ? 0 : depthwise ? 1 : Between(data, 1, 40);
  c.batch = Between(data, 0, 3);
  c.in_height = Between(data, 0, 20);
  c.in_width = Between(data, 0, 40);
  c.height = ReadAxis(data);
  c.width = ReadAxis(data);
  c.density = data->ConsumeProbability<double>();
  return c;
}

// Outputs; negative: not worth the time.
int64_t Outputs(const ByteCase& c, const lcnn::NarrowConvShape& shape) {
  const int64_t height = lcnn::OutputExtent(c.height, c.in_height, "height");
  const int64_t width = lcnn::OutputExtent(c.width, c.in_width, "width");
  const int64_t terms = std::max<int64_t>(1, c.height.kernel * c.width.kernel * shape.depth());
  if (height > kMaxElements || width > kMaxElements) return -1;
  const int64_t outputs = c.batch * c.filters * height * width;
  return outputs > kMaxElements || outputs * terms > kMaxMacs ? -1 : outputs;
}

[[noreturn]] void Fail(const ByteCase& c, lcnn::Isa isa) {
  const auto print = [](const lcnn::Axis& a) {
    std::fprintf(stderr, " {%ld, %ld, %ld, %ld, %ld}", static_cast<long>(a.kernel),
                 static_cast<long>(a.stride), static_cast<long>(a.dilation),
                 static_cast<long>(a.pad_begin), static_cast<long>(a.pad_end));
  };
  std::fprintf(stderr,
               "wrong on %s: %ld images, %ld > %ld of %ld groups, k %ld, %ld x %ld, density %g",
               lcnn::IsaName(isa), static_cast<long>(c.batch), static_cast<long>(c.channels),
               static_cast<long>(c.filters), static_cast<long>(c.group), static_cast<long>(c.k),
               static_cast<long>(c.in_height), static_cast<long>(c.in_width), c.density);
  print(c.height);
  print(c.width);
  std::fprintf(stderr, "\n");
  std::abort();
}

void RunOne(FuzzedDataProvider* data) {
  const ByteCase c = ReadCase(data);
  std::mt19937 random(data->ConsumeIntegral<uint32_t>());
  ByteLayer layer(c, data->ConsumeBool(), &random);
  layer.constants.x.zero_point = data->ConsumeIntegral<uint8_t>();
  layer.constants.y = {data->PickValueInArray({1e-3f, 0.02f, 10.0f}),
                       data->ConsumeIntegral<uint8_t>()};
  const bool adds = layer.shape.to_narrow && data->ConsumeBool();
  const auto misalign = static_cast<size_t>(Between(data, 0, 15));
  for (const lcnn::Isa isa : lcnn::BuiltIsas()) {
    if (!lcnn::IsaSupported(isa)) continue;
    const lcnn::NarrowConv conv(layer.shape, layer.constants, isa);
    const size_t bytes = conv.ScratchBytes(c.batch, c.in_height, c.in_width);
    const int64_t outputs = Outputs(c, layer.shape);
    if (outputs < 0 || bytes > (1 << 24)) return;
    GuardedBytes x(static_cast<size_t>(c.batch * c.channels * c.in_height * c.in_width), misalign);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(random() & 255);
    GuardedBytes residual(adds ? static_cast<size_t>(outputs) : 0, misalign + 1);
    for (size_t i = 0; i < residual.size(); ++i) residual[i] = static_cast<uint8_t>(random() & 255);
    const lcnn::NarrowConvInput input = {c.batch, c.in_height, c.in_width, x.data(),
                                         adds ? residual.data() : nullptr};
    const ByteResult expected = PlainResult(layer, input);
    GuardedBytes scratch(bytes, misalign);
    Threads pool(data->ConsumeBool() ? 2 : 1);
    bool right = false;
    if (layer.shape.to_narrow) {
      GuardedBytes y(expected.bytes.size(), misalign);
      conv.Run(input, y.data(), scratch.data(), pool.Loop());
      right = std::equal(expected.bytes.begin(), expected.bytes.end(), y.data()) && y.WallsIntact();
    } else {
      Guarded y(expected.floats.size(), 1);
      conv.Run(input, y.data(), scratch.data(), pool.Loop());
      right =
          std::equal(expected.floats.begin(), expected.floats.end(), y.data()) && y.WallsIntact();
    }
    if (!right || !scratch.WallsIntact()) Fail(c, isa);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider provider(data, size);
  try {
    RunOne(&provider);
  } catch (const std::invalid_argument&) {
    // Refused: hostile numbers may be.
  }
  return 0;
}
