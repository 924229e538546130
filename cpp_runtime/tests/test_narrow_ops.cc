// The operators between convolutions of bytes, against loops: the same bits for every row of
// kernels.
#include <cfloat>
#include <string>

#include "byte_layer.h"
#include "check.h"
#include "kernels/bf16_bits.h"
#include "lcnn/narrow_ops.h"

namespace {

// Some small, one that is worth threads, and channels around whole blocks of them.
const lcnn::ImageSize kSizes[] = {{1, 1, 1, 1},     {2, 3, 5, 7},  {3, 65, 4, 9}, {1, 130, 1, 1},
                                  {0, 3, 5, 7},     {1, 0, 2, 2},  {2, 4, 0, 3},  {1, 3, 40, 41},
                                  {2, 5, 230, 300}, {2, 7, 9, 11}, {1, 8, 8, 8},  {2, 9, 3, 5},
                                  {1, 15, 7, 11},   {2, 16, 8, 8}, {1, 17, 9, 9}, {2, 24, 5, 13},
                                  {1, 31, 1, 65},   {1, 32, 5, 5}};

size_t Count(const lcnn::ImageSize& s) {
  return static_cast<size_t>(s.batch * s.channels * s.height * s.width);
}

std::string Text(const lcnn::ImageSize& s, lcnn::Isa isa) {
  return std::to_string(s.batch) + "x" + std::to_string(s.channels) + "x" +
         std::to_string(s.height) + "x" + std::to_string(s.width) + ", " + lcnn::IsaName(isa);
}

// Where the element i of NCHW lies in NHWC.
size_t Nhwc(const lcnn::ImageSize& s, size_t i) {
  const auto plane = static_cast<size_t>(s.height * s.width), c = static_cast<size_t>(s.channels);
  return (i / plane / c * plane + i % plane) * c + i / plane % c;
}

GuardedBytes RandomBytes(size_t count, std::mt19937* random) {
  GuardedBytes bytes(count, 3);
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<uint8_t>((*random)() & 255);
  return bytes;
}

void TestCasts(const lcnn::ImageSize& size, lcnn::Isa isa, int threads) {
  std::mt19937 random(11);
  Threads pool(threads);
  const lcnn::ByteScale scale = {0.37f, 99};
  Guarded floats(Count(size));
  std::uniform_real_distribution<float> uniform(-60, 60);
  for (size_t i = 0; i < floats.size(); ++i) floats[i] = uniform(random);
  // Ties, and what no byte stands for.
  const float special[] = {
      0.5f * scale.scale, 1.5f * scale.scale, INFINITY, -INFINITY, FLT_MAX, -0.0f};
  for (size_t i = 0; i < std::min(std::size(special), floats.size()); ++i) floats[i] = special[i];
  GuardedBytes bytes(floats.size(), 3);
  lcnn::QuantizeNhwc(size, scale, isa, floats.data(), bytes.data(), pool.Loop());
  Guarded back(floats.size());
  lcnn::DequantizeNhwc(size, scale, isa, bytes.data(), back.data(), pool.Loop());
  size_t wrong = 0;
  for (size_t i = 0; i < floats.size(); ++i) {
    const uint8_t byte = bytes[Nhwc(size, i)];
    wrong += byte != ToByte(std::clamp(floats[i] / scale.scale, -1e6f, 1e6f), scale.zero_point);
    wrong += back[i] != static_cast<float>(byte - scale.zero_point) * scale.scale;
  }
  CHECK_TEXT(wrong == 0 && bytes.WallsIntact() && back.WallsIntact(),
             std::to_string(wrong) + " wrong casts, " + Text(size, isa));
}

// Numbers at and beside those that lie between two bytes, for scales of all sizes.
void TestTies(lcnn::Isa isa) {
  std::vector<float> scales = {1e-44f, 1e-38f, 0x1p-100f, 0x1p100f, 1e35f};
  for (float scale = 1e-4f; scale < 1e4f; scale *= 1.37f) scales.push_back(scale);
  for (const float scale : scales) {
    std::vector<float> x;
    for (int i = -520; i <= 520; ++i) {
      const float tie = static_cast<float>(i) * 0.5f * scale;
      for (const float v : {tie, std::nextafter(tie, -INFINITY), std::nextafter(tie, INFINITY)}) {
        x.push_back(v);
      }
    }
    std::vector<uint8_t> y(x.size());
    const auto count = static_cast<int64_t>(x.size());
    lcnn::QuantizeNhwc({1, 1, 1, count}, {scale, 77}, isa, x.data(), y.data(), {});
    size_t wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      wrong += y[i] != ToByte(std::clamp(x[i] / scale, -1e6f, 1e6f), 77);
    }
    CHECK_TEXT(wrong == 0, std::to_string(wrong) + " wrong at scale " + std::to_string(scale));
  }
}

void TestNan(lcnn::Isa isa) {
  const float x[] = {NAN, 3, -NAN, 5};
  uint8_t y[4] = {};
  lcnn::QuantizeNhwc({1, 1, 1, 4}, {1, 128}, isa, x, y, {});
  CHECK(y[1] == 131 && y[3] == 133);
  const uint16_t halves[] = {0x7fc0, ToBfloat16(3), 0xffc0, ToBfloat16(5)};
  lcnn::QuantizeBfloat16({1, 128}, isa, 4, halves, y, {});
  CHECK(y[1] == 131 && y[3] == 133);
}

void TestPool(const lcnn::MaxPoolShape& shape, const lcnn::ImageSize& size, lcnn::Isa isa,
              int threads) {
  std::mt19937 random(12);
  Threads pool(threads);
  const GuardedBytes x = RandomBytes(Count(size), &random);
  const lcnn::ImageSize out = {size.batch, size.channels,
                               lcnn::OutputExtent(shape.height, size.height, "height"),
                               lcnn::OutputExtent(shape.width, size.width, "width")};
  GuardedBytes y(Count(out), 5);
  lcnn::NhwcMaxPool(shape, size, isa, x.data(), y.data(), pool.Loop());
  size_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const auto pixel = static_cast<int64_t>(i) / size.channels,
               c = static_cast<int64_t>(i) % size.channels;
    const int64_t column = pixel % out.width, row = pixel / out.width % out.height;
    const int64_t image = pixel / out.width / out.height;
    uint8_t most = 0;
    for (int64_t r = 0; r < shape.height.kernel; ++r) {
      for (int64_t s = 0; s < shape.width.kernel; ++s) {
        const int64_t h = row * shape.height.stride + r - shape.height.pad_begin;
        const int64_t w = column * shape.width.stride + s - shape.width.pad_begin;
        if (h < 0 || h >= size.height || w < 0 || w >= size.width) continue;
        const int64_t at = ((image * size.height + h) * size.width + w) * size.channels + c;
        most = std::max(most, x[static_cast<size_t>(at)]);
      }
    }
    wrong += y[i] != most;
  }
  CHECK_TEXT(wrong == 0 && y.WallsIntact(),
             std::to_string(wrong) + " wrong maxima, " + Text(size, isa));
}

void TestHalfCasts(const lcnn::ImageSize& size, lcnn::Isa isa, int threads) {
  std::mt19937 random(15);
  Threads pool(threads);
  Guarded floats(Count(size)), back(Count(size));
  Fill(&floats, &random);
  const float special[] = {INFINITY, -INFINITY, FLT_MAX, 1 + 0x1p-8f, -1 - 0x3p-8f};
  for (size_t i = 0; i < std::min(std::size(special), floats.size()); ++i) floats[i] = special[i];
  GuardedOf<uint16_t> halves(floats.size(), 3);
  lcnn::ToBfloat16Nhwc(size, isa, floats.data(), halves.data(), pool.Loop());
  lcnn::FromBfloat16Nhwc(size, isa, halves.data(), back.data(), pool.Loop());
  size_t wrong = 0;
  for (size_t i = 0; i < floats.size(); ++i) {
    // Numbers with 8 bits are those that a scaling to integers leaves alone.
    int exponent = 0;
    const float fraction = std::frexp(floats[i], &exponent);
    const float want = std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
    wrong += back[i] != want || FromBfloat16(halves[Nhwc(size, i)]) != want;
  }
  CHECK_TEXT(wrong == 0 && halves.WallsIntact() && back.WallsIntact(),
             std::to_string(wrong) + " wrong casts of bfloat16, " + Text(size, isa));
}

// The same as of the floats that they are, and back.
void TestHalvesAndBytes(int64_t count, lcnn::Isa isa, int threads) {
  std::mt19937 random(18);
  Threads pool(threads);
  const lcnn::ByteScale scale = {0.375f, 99};
  GuardedOf<uint16_t> halves(static_cast<size_t>(count), 3);
  std::uniform_real_distribution<float> uniform(-60, 60);
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = ToBfloat16(uniform(random));
  const float special[] = {
      0.5f * scale.scale, 1.5f * scale.scale, INFINITY, -INFINITY, FLT_MAX, -0.0f};
  for (size_t i = 0; i < std::min(std::size(special), halves.size()); ++i) {
    halves[i] = ToBfloat16(special[i]);
  }
  GuardedBytes bytes(halves.size(), 5);
  lcnn::QuantizeBfloat16(scale, isa, count, halves.data(), bytes.data(), pool.Loop());
  GuardedOf<uint16_t> back(halves.size(), 3);
  // With 8 bits and more, so that it rounds.
  const lcnn::ByteScale odd = {0.3712345f, 99};
  lcnn::DequantizeBfloat16(odd, isa, count, bytes.data(), back.data(), pool.Loop());
  size_t wrong = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const float v = std::clamp(FromBfloat16(halves[i]) / scale.scale, -1e6f, 1e6f);
    wrong += bytes[i] != ToByte(v, scale.zero_point);
    wrong += back[i] != ToBfloat16(static_cast<float>(bytes[i] - odd.zero_point) * odd.scale);
  }
  CHECK_TEXT(
      wrong == 0 && bytes.WallsIntact() && back.WallsIntact(),
      std::to_string(wrong) + " wrong of " + std::to_string(count) + ", " + lcnn::IsaName(isa));
}

// The same as of floats, which pooling of planes takes.
void TestHalfPool(const lcnn::MaxPoolShape& shape, const lcnn::ImageSize& size, lcnn::Isa isa) {
  std::mt19937 random(16);
  Guarded floats(Count(size));
  Fill(&floats, &random);
  std::vector<uint16_t> halves(floats.size());
  lcnn::ToBfloat16Nhwc(size, isa, floats.data(), halves.data(), {});
  lcnn::FromBfloat16Nhwc(size, isa, halves.data(), floats.data(), {});
  const lcnn::ImageSize out = {size.batch, size.channels,
                               lcnn::OutputExtent(shape.height, size.height, "height"),
                               lcnn::OutputExtent(shape.width, size.width, "width")};
  GuardedOf<uint16_t> y(Count(out), 5);
  lcnn::Bfloat16NhwcMaxPool(shape, size, isa, halves.data(), y.data(), {});
  Guarded want(y.size()), got(y.size());
  lcnn::MaxPool(shape, isa, size.batch * size.channels, size.height, size.width, floats.data(),
                want.data(), {});
  lcnn::FromBfloat16Nhwc(out, isa, y.data(), got.data(), {});
  CHECK_TEXT(std::equal(got.data(), got.data() + got.size(), want.data()) && y.WallsIntact(),
             "wrong maxima of bfloat16, " + Text(size, isa));
}

void TestAverage(const lcnn::ImageSize& size, lcnn::Isa isa) {
  std::mt19937 random(13);
  const GuardedBytes x = RandomBytes(Count(size), &random);
  GuardedBytes y(static_cast<size_t>(size.batch * size.channels), 5);
  const lcnn::ByteScale from = {0.3f, 77}, to = {0.01f, 130};
  lcnn::GlobalAveragePool(size, from, to, isa, x.data(), y.data());
  const int64_t pixels = size.height * size.width;
  const auto scale =
      static_cast<float>(static_cast<double>(from.scale) /
                         (static_cast<double>(to.scale) * static_cast<double>(pixels)));
  size_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const auto image = static_cast<int64_t>(i) / size.channels,
               c = static_cast<int64_t>(i) % size.channels;
    int32_t sum = 0;
    for (int64_t p = 0; p < pixels; ++p) {
      sum += x[static_cast<size_t>((image * pixels + p) * size.channels + c)] - from.zero_point;
    }
    wrong += y[i] != ToByte(static_cast<float>(sum) * scale, to.zero_point);
  }
  CHECK_TEXT(wrong == 0 && y.WallsIntact(),
             std::to_string(wrong) + " wrong means, " + Text(size, isa));
}

void TestAdd(const lcnn::ByteSum& sum, int64_t count, lcnn::Isa isa, int threads) {
  std::mt19937 random(14);
  Threads pool(threads);
  const GuardedBytes a = RandomBytes(static_cast<size_t>(count), &random);
  const GuardedBytes b = RandomBytes(static_cast<size_t>(count), &random);
  GuardedBytes y(a.size(), 5);
  lcnn::CheckByteSum(sum);
  lcnn::AddBytes(sum, isa, count, a.data(), b.data(), y.data(), pool.Loop());
  const auto unit = static_cast<double>(sum.y.scale);
  const auto a_scale = static_cast<float>(static_cast<double>(sum.a.scale) / unit);
  const auto b_scale = static_cast<float>(static_cast<double>(sum.b.scale) / unit);
  size_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    float v = std::fma(static_cast<float>(b[i] - sum.b.zero_point), b_scale,
                       static_cast<float>(a[i] - sum.a.zero_point) * a_scale);
    v = std::clamp(v, static_cast<float>(static_cast<double>(sum.clip_min) / unit),
                   static_cast<float>(static_cast<double>(sum.clip_max) / unit));
    wrong += y[i] != ToByte(v, sum.y.zero_point);
  }
  CHECK_TEXT(wrong == 0 && y.WallsIntact(), std::to_string(wrong) + " wrong sums of " +
                                                std::to_string(count) + ", " + lcnn::IsaName(isa));
}

void TestIsa(lcnn::Isa isa) {
  for (const int threads : {1, 3}) {
    for (const lcnn::ImageSize& size : kSizes) {
      TestCasts(size, isa, threads);
      TestHalfCasts(size, isa, threads);
    }
    const lcnn::MaxPoolShape stem = {{3, 2, 1, 1, 1}, {3, 2, 1, 1, 1}};
    const lcnn::MaxPoolShape uneven = {{2, 1, 1, 0, 1}, {4, 3, 1, 3, 2}};
    for (const lcnn::MaxPoolShape& shape : {stem, uneven}) {
      for (const lcnn::ImageSize& size : kSizes) {
        if (size.height == 0) continue;
        TestPool(shape, size, isa, threads);
        TestHalfPool(shape, size, isa);
      }
    }
    const lcnn::ByteSum sum = {{0.3f, 3}, {0.2f, 250}, {0.25f, 100}, -20, 30};
    for (const int64_t count : {0, 1, 63, 1000, 300000}) {
      TestAdd(sum, count, isa, threads);
      TestHalvesAndBytes(count, isa, threads);
    }
    TestAdd({{0.3f, 3}, {1e20f, 250}, {1e-10f, 100}, -3e38f, 3e38f}, 999, isa, threads);
    TestAdd({{1e20f, 3}, {1e20f, 250}, {1e-18f, 0}, 0, 1}, 999, isa, threads);
  }
  for (const lcnn::ImageSize& size : kSizes) {
    if (size.height > 0) TestAverage(size, isa);
  }
  TestNan(isa);
  TestTies(isa);
}

void TestRefused() {
  CHECK_THROWS(lcnn::CheckScale("y_scale", -2), "y_scale is -2.000000; a scale must be positive");
  CHECK_THROWS(lcnn::CheckScale("y_scale", INFINITY), "y_scale is inf; a scale must be positive");
  CHECK_THROWS(lcnn::CheckByteSum({{1, 0}, {0, 0}, {1, 0}, 0, 1}), "b_scale is 0.000000; a scale");
  CHECK_THROWS(lcnn::CheckByteSum({{1, 0}, {1, 0}, {1, 0}, 2, 1}), "clip_min must not exceed");
  CHECK_THROWS(lcnn::CheckByteSum({{1e30f, 0}, {1, 0}, {1e-30f, 0}, 0, 1}), "a_scale is ");
  CHECK_THROWS(lcnn::GlobalAveragePool({1, 1, 0, 4}, {}, {}, lcnn::Isa::kScalar, nullptr, nullptr),
               "pixels to average is 0, outside [1, 8388607]");
  CHECK_THROWS(lcnn::NhwcMaxPool({{3, 1, 1, 0, 0}, {1, 1, 1, 0, 0}}, {1, 1, 2, 2},
                                 lcnn::Isa::kScalar, nullptr, nullptr, {}),
               "input height is 2, with padding 2, smaller than");
}

}  // namespace

int main() {
  for (const lcnn::Isa isa : IsasToTest()) TestIsa(isa);
  TestRefused();
  return TestResult();
}
