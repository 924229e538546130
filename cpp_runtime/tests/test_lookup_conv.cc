// The whole operator on every instruction set, against loops in double precision.
#include <algorithm>
#include <cstdlib>

#include "layer.h"
#include "lookup_conv/packed_weights.h"
#include "lookup_conv/plan.h"

namespace {

std::string Describe(const Case& c, lcnn::Isa isa, int threads) {
  return std::string(c.name) + ", " + std::to_string(c.batch) + "x" + std::to_string(c.channels) +
         "x" + std::to_string(c.height) + "x" + std::to_string(c.width) + ", k " +
         std::to_string(c.dictionary) + ", " + lcnn::IsaName(isa) + ", " + std::to_string(threads) +
         " threads";
}

bool Says(const Case& c, const char* word) {
  return std::string(c.name).find(word) != std::string::npos;
}

// The case is of what its name says.
void CheckMeant(const Case& c, const Layer& layer) {
  const lcnn::PackedWeights weights(layer.shape, layer.constants);
  const std::string name = c.name;
  CHECK_TEXT(weights.cut() == Says(c, "cut"), "cut, or not: " + name);
  CHECK_TEXT(!Says(c, "shared") || weights.list_filters() == (c.share > 1 ? c.share : 8),
             "lists of " + std::to_string(weights.list_filters()) + " filters: " + name);
  CHECK_TEXT(weights.identity() == c.identity, "identity, or not: " + name);
}

enum class Activation { kNone, kClip, kHardSwish };

void RunCase(const Case& c, lcnn::Isa isa, int threads, ResidualKind kind, Activation activation,
             uint32_t seed) {
  std::mt19937 random(seed);
  const bool pools = c.pool_rows.kernel > 1 || c.pool_columns.kernel > 1;
  if (pools && kind == ResidualKind::kTensor) kind = ResidualKind::kConstant;
  Layer layer(c, &random,
              kind == ResidualKind::kNone       ? Stored::kFloat
              : kind == ResidualKind::kConstant ? Stored::kByte
                                                : Stored::kHalf);
  if (activation == Activation::kClip) {
    layer.shape.clip_min = -0.5f;
    layer.shape.clip_max = 0.7f;
  }
  layer.shape.hard_swish = activation == Activation::kHardSwish;
  const lcnn::LookupConv conv(layer.shape, layer.constants, isa);
  CheckMeant(c, layer);
  if (c.filters == 0) return;  // the adapter returns before it asks for a plan of nothing
  const auto plan = conv.PlanFor(c.batch, c.height, c.width);
  const size_t bands = plan->group.lookup.bands.size();
  CHECK_TEXT((bands > 0) == (pools && !Says(c, "too wide")), std::string("bands: ") + c.name);
  CHECK_TEXT(bands > 2 || !Says(c, "several bands"), std::string("bands: ") + c.name);
  CHECK(plan == conv.PlanFor(c.batch, c.height, c.width));

  Guarded x(static_cast<size_t>(c.batch * c.channels * c.height * c.width), 3);
  Fill(&x, &random);
  const int64_t height = lcnn::OutputExtent(c.rows, c.height, "height");
  const int64_t width = lcnn::OutputExtent(c.columns, c.width, "width");
  const int64_t pixels = lcnn::OutputExtent(c.pool_rows, height, "height") *
                         lcnn::OutputExtent(c.pool_columns, width, "width");
  Guarded y(static_cast<size_t>(c.batch * c.filters * pixels), 5);
  Guarded residual(kind == ResidualKind::kTensor ? y.size() : 1, 7);
  Fill(&residual, &random);
  // NaN in scratch: whatever the kernels read there before writing it would show.
  Guarded scratch(lcnn::ScratchBytes(*plan) / sizeof(float), 9);
  lcnn::Residual argument;
  if (kind == ResidualKind::kTensor) argument.tensor = residual.data();
  if (kind == ResidualKind::kConstant) argument.constant = residual[0];

  Threads pool(threads);
  conv.Run(*plan, x.data(), argument, y.data(), scratch.data(), pool.Loop());
  const std::string text = Describe(c, isa, threads);
  CompareAll(c, layer, x, residual, kind, y, text);
  CHECK_TEXT(y.WallsIntact() && scratch.WallsIntact(), text + ": wrote outside a buffer");
}

void TestSweep() {
  for (const lcnn::Isa isa : IsasToTest()) {
    uint32_t seed = 1;
    for (const Case& c : Cases()) {
      RunCase(c, isa, 1, ResidualKind::kNone, Activation::kNone, seed);
      RunCase(c, isa, 3, ResidualKind::kTensor, Activation::kClip, seed + 1000);
      RunCase(c, isa, 2, ResidualKind::kConstant, Activation::kHardSwish, seed + 2000);
      RunCase(c, isa, 1, ResidualKind::kTensor, Activation::kHardSwish, seed + 3000);
      ++seed;
    }
  }
}

void TestHalves() {
  const uint16_t halves[] = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x83ff,
                             0x0400, 0x8000, 0x3555, 0x7c00};
  const float want[] = {1,        -2,          65504,
                        0x1p-24f, -0x3ffp-24f, 0x1p-14f,
                        -0.0f,    0x1.554p-2f, std::numeric_limits<float>::infinity()};
  for (size_t count = 0; count <= 9; ++count) {
    const std::vector<float> floats = lcnn::Widened(halves, count);
    CHECK(floats.size() == count && std::equal(floats.begin(), floats.end(), want));
  }
}

void TestNanPasses(Activation activation) {
  const Case c = {"nan", 1, 4, 21, 2, 3, 1, 2, kThree, kThree, 1};
  for (const lcnn::Isa isa : IsasToTest()) {
    std::mt19937 random(5);
    Layer layer(c, &random);
    if (activation == Activation::kClip) {
      layer.shape.clip_min = 0;
      layer.shape.clip_max = 6;
    }
    layer.shape.hard_swish = activation == Activation::kHardSwish;
    const lcnn::LookupConv conv(layer.shape, layer.constants, isa);
    const auto plan = conv.PlanFor(1, c.height, c.width);
    Guarded x(2 * 4 * 21), y(3 * 4 * 21), scratch(lcnn::ScratchBytes(*plan) / sizeof(float));
    Fill(&x, &random);
    x[0] = std::numeric_limits<float>::quiet_NaN();  // reaches the 2 x 2 outputs of the corner
    conv.Run(*plan, x.data(), {}, y.data(), scratch.data(), {});
    for (size_t i = 0; i < y.size(); ++i) {
      const size_t row = i / 21 % 4, column = i % 21;
      CHECK(std::isnan(y[i]) == (row < 2 && column < 2));
    }
  }
}

// A layer whose sums are X: at the corners of the function, and where it is flat or infinite.
void TestHardSwishValues() {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kHuge = 3e38f;
  const float values[] = {-kInf, -kHuge, -4, -3, -1.5f, -0.0f, 0, 1.5f, 3, 4, kHuge, kInf};
  const float want[] = {0, 0, 0, 0, -0.375f, 0, 0, 1.125f, 3, 4, kHuge, kInf};
  for (const lcnn::Isa isa : IsasToTest()) {
    for (const int64_t pixels : {1, 8, 19, 64}) {
      const Case c = {"values", 1, 1, pixels, 1, 8, 1, 1, kOne, kOne, 1};
      std::mt19937 random(5);
      Layer layer(c, &random);
      layer.shape.hard_swish = true;
      layer.dictionary[0] = 1;
      std::fill(layer.bias.data(), layer.bias.data() + 8, 0.0f);
      std::fill(layer.constants.coefficients.begin(), layer.constants.coefficients.end(), 1.0f);
      const lcnn::LookupConv conv(layer.shape, layer.constants, isa);
      const auto plan = conv.PlanFor(1, 1, pixels);
      const auto size = static_cast<size_t>(pixels);
      Guarded x(size), y(8 * size), scratch(lcnn::ScratchBytes(*plan) / sizeof(float));
      for (size_t v = 0; v < std::size(values); ++v) {
        std::fill(x.data(), x.data() + size, values[v]);
        conv.Run(*plan, x.data(), {}, y.data(), scratch.data(), {});
        for (size_t i = 0; i < y.size(); ++i) {
          // ONNX defines a product, and minus infinity times 0 is not a number.
          const bool right = v == 0 ? std::isnan(y[i]) : y[i] == want[v];
          CHECK_TEXT(right, "HardSwish of " + std::to_string(values[v]) + " is " +
                                std::to_string(y[i]) + ", " + lcnn::IsaName(isa));
        }
      }
    }
  }
}

// Runs of different sizes at once on one layer, more sizes than the cache of plans holds.
void TestConcurrentRuns() {
  const Case c = {"concurrent", 1, 6, 6, 4, 5, 1, 4, kThree, kThree, 0.5};
  std::mt19937 random(7);
  const Layer layer(c, &random);
  const lcnn::LookupConv conv(layer.shape, layer.constants, lcnn::ChooseIsa());
  std::atomic<int> wrong{0};
  const auto run_sizes = [&](int64_t first) {
    for (int64_t i = 0; i < 40; ++i) {
      const int64_t width = 3 + (first + i) % 12;
      const auto plan = conv.PlanFor(1, 6, width);
      const std::vector<float> x(static_cast<size_t>(4 * 6 * width), 0.0f);
      std::vector<float> y(static_cast<size_t>(5 * 6 * width));
      std::vector<char> scratch(lcnn::ScratchBytes(*plan));
      conv.Run(*plan, x.data(), {}, y.data(), scratch.data(), {});
      for (size_t j = 0; j < y.size(); ++j) {
        const size_t plane = static_cast<size_t>(6 * width);
        wrong += y[j] != layer.bias[j / plane];  // X is 0
      }
    }
  };
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 4; ++t) threads.emplace_back(run_sizes, 3 * t);
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

void TestIsaCap() {
  const char* const before = std::getenv("LCNN_ISA");
  const std::string saved = before == nullptr ? "" : before;
  setenv("LCNN_ISA", "scalar", 1);
  CHECK(lcnn::ChooseIsa() == lcnn::Isa::kScalar);
  setenv("LCNN_ISA", "avx1024", 1);
  CHECK_THROWS(lcnn::ChooseIsa(), "LCNN_ISA is 'avx1024'; it must be one of scalar");
  // The highest name never raises the choice above what the machine has.
  setenv("LCNN_ISA", lcnn::IsaName(lcnn::BuiltIsas().back()), 1);
  CHECK(lcnn::IsaSupported(lcnn::ChooseIsa()));
  setenv("LCNN_ISA", saved.c_str(), 1);
}

void TestTooLargePlans() {
  constexpr int64_t kMaxExtent = std::numeric_limits<int32_t>::max();
  const Case c = {"large", 1, 6, 6, 4, 5, 1, 4, kThree, kThree, 0.5};
  std::mt19937 random(7);
  const Layer layer(c, &random);
  const lcnn::LookupConv conv(layer.shape, layer.constants, lcnn::Isa::kScalar);
  CHECK_THROWS(conv.PlanFor(1, 100000, 100000), "exceeds the limit of 2147483647");
  CHECK_THROWS(conv.PlanFor(0, 6, 6), "batch is 0, outside [1, 2147483647]");
  CHECK_THROWS(conv.PlanFor(INT64_MAX, 6, 6), "batch is 9223372036854775807");
  CHECK_THROWS(conv.PlanFor(1, INT64_MAX, 6), "input height is 9223372036854775807, outside [0,");
  CHECK_THROWS(conv.PlanFor(1, 6, -1), "input width is -1, outside [0,");
  Case small = c;
  small.rows = {3, 1, 1, 0, 0};
  const Layer unpadded(small, &random);
  const lcnn::LookupConv conv2(unpadded.shape, unpadded.constants, lcnn::Isa::kScalar);
  CHECK_THROWS(conv2.PlanFor(1, 2, 6), "input height is 2");
  // No dictionary, so that S is empty; a border as long as int32 allows.
  const lcnn::Axis wide = {2, 1, (1LL << 31) - 1, 1LL << 30, (1LL << 30) - 1};
  const Layer empty({"empty", 1, 1, 1, 4, 5, 1, 0, kOne, wide, 0}, &random);
  const lcnn::LookupConv conv3(empty.shape, empty.constants, lcnn::Isa::kScalar);
  CHECK_THROWS(conv3.PlanFor(1, 1, 1), "S of one image of 1 x");
  // A cut list, whose row pitch is chosen before the sizes of S are known.
  const Layer cut({"cut", 1, 6, 6, 1, 20, 1, 4, {2, 1, 1LL << 30, 1LL << 30, 0}, kOne, 1}, &random);
  const lcnn::LookupConv conv4(cut.shape, cut.constants, lcnn::Isa::kScalar);
  CHECK_THROWS(conv4.PlanFor(1, kMaxExtent, kMaxExtent), "plane of S");
}

}  // namespace

int main() {
  TestSweep();
  TestHalves();
  TestNanPasses(Activation::kClip);
  TestNanPasses(Activation::kHardSwish);
  TestHardSwishValues();
  TestConcurrentRuns();
  TestIsaCap();
  TestTooLargePlans();
  return TestResult();
}
