// Convolutions of bytes against loops: the same bits for every row of kernels and number of
// threads.
#include <cfloat>

#include "byte_layer.h"
#include "check.h"
#include "narrow_conv/packed_conv.h"

namespace {

std::string Text(const ByteCase& c, const char* row, int threads) {
  return std::string(c.name) + ", " + row + ", " + std::to_string(threads) + " threads";
}

// Random bytes, of which some are the smallest and largest.
void FillBytes(GuardedBytes* buffer, std::mt19937* random) {
  std::uniform_int_distribution<int> uniform(-20, 275);
  for (size_t i = 0; i < buffer->size(); ++i) {
    (*buffer)[i] = static_cast<uint8_t>(std::clamp(uniform(*random), 0, 255));
  }
}

size_t Outputs(const ByteLayer& layer, const ByteCase& c) {
  return static_cast<size_t>(c.batch * c.filters *
                             lcnn::OutputExtent(layer.shape.height, c.in_height, "height") *
                             lcnn::OutputExtent(layer.shape.width, c.in_width, "width"));
}

template <class T>
void Compare(const ByteCase& c, const ByteLayer& layer, const lcnn::NarrowConvInput& input,
             const std::vector<T>& expected, const std::string& text, lcnn::Isa isa, int threads) {
  const lcnn::NarrowConv conv(layer.shape, layer.constants, isa);
  GuardedOf<T> y(expected.size(), 3);
  GuardedBytes scratch(conv.ScratchBytes(c.batch, c.in_height, c.in_width), 5);
  Threads pool(threads);
  conv.Run(input, y.data(), scratch.data(), pool.Loop());
  size_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    wrong += std::memcmp(&y[i], &expected[i], sizeof(T)) != 0;
  }
  CHECK_TEXT(wrong == 0 && y.WallsIntact() && scratch.WallsIntact(),
             text + ": " + std::to_string(wrong) + " wrong of " + std::to_string(y.size()));
}

// Compares a layer's result for one input with the loops, without and with a residual.
void RunLayer(const ByteCase& c, const ByteLayer& layer, const GuardedBytes& x, lcnn::Isa isa,
              const std::string& text, std::mt19937* random) {
  GuardedBytes residual(Outputs(layer, c), 9);
  FillBytes(&residual, random);
  for (const bool adds : {false, true}) {
    if (adds && !layer.shape.to_narrow) continue;
    const lcnn::NarrowConvInput input = {c.batch, c.in_height, c.in_width, x.data(),
                                         adds ? residual.data() : nullptr};
    const ByteResult expected = PlainResult(layer, input);
    for (const int threads : {1, 3}) {
      const std::string all =
          text + ", " + Text(c, lcnn::IsaName(isa), threads) + (adds ? ", residual" : "");
      if (layer.shape.to_narrow) {
        Compare(c, layer, input, expected.bytes, all + ", bytes", isa, threads);
      } else {
        Compare(c, layer, input, expected.floats, all + ", floats", isa, threads);
      }
    }
  }
}

GuardedBytes RandomInput(const ByteCase& c, std::mt19937* random) {
  GuardedBytes x(static_cast<size_t>(c.batch * c.channels * c.in_height * c.in_width), 7);
  FillBytes(&x, random);
  return x;
}

void RunCase(const ByteCase& c, lcnn::Isa isa) {
  std::mt19937 random(static_cast<uint32_t>(c.channels * 31 + c.filters));
  for (const bool to_narrow : {false, true}) {
    ByteLayer layer(c, to_narrow, &random);
    const GuardedBytes x = RandomInput(c, &random);
    RunLayer(c, layer, x, isa, "random", &random);
    // Halves fit 16 bits in pairs.
    for (std::vector<int8_t>* values : {&layer.weights, &layer.dictionary}) {
      for (int8_t& v : *values) v = static_cast<int8_t>(v / 2);
    }
    RunLayer(c, layer, x, isa, "halved", &random);
  }
}

// The ways in which weights are packed.
struct Taken {
  bool dots = false, depth = false, lists = false;

  void Add(const lcnn::PackedStage& stage) {
    dots = dots || stage.dots() != nullptr;
    depth = depth || stage.depth() != nullptr;
    lists = lists || stage.lists() != nullptr;
  }
};

void TestTaken(lcnn::Isa isa) {
  Taken taken;
  std::mt19937 random(7);
  for (const ByteCase& c : NarrowCases()) {
    const ByteLayer layer(c, true, &random);
    taken.Add(lcnn::PackedConv(layer.shape, layer.constants, isa).result());
  }
  CHECK_TEXT(taken.dots && taken.depth && taken.lists,
             std::string("a way to pack was not taken, ") + lcnn::IsaName(isa));
}

// Of each way to pack.
std::vector<ByteCase> FewCases() {
  return {{"dense", 1, 33, 36, 1, 0, 4, 9},
          {"lookup", 1, 33, 36, 1, 21, 4, 9},
          {"lists", 1, 33, 36, 1, 21, 4, 9, {3, 1, 1, 1, 1}, {3, 1, 1, 1, 1}, 0.1},
          {"depthwise", 1, 36, 36, 36, 0, 4, 9}};
}

// Sums as large as they can be, of weights of which pairs fit 16 bits or do not, for all kinds of
// zero points.
void TestLargeSums(lcnn::Isa isa) {
  constexpr std::pair<int8_t, int8_t> kPairs[] = {{-128, -128}, {127, 127}, {-64, -64}, {64, 64},
                                                  {65, 64},     {127, 1},   {127, 2},   {-1, -127},
                                                  {-1, -128},   {-128, 0},  {127, -128}};
  std::mt19937 random(3);
  for (const ByteCase& c : FewCases()) {
    for (const auto& [even, odd] : kPairs) {
      for (const int zero : {0, 255}) {
        ByteLayer layer(c, even % 2 == 0, &random);
        for (std::vector<int8_t>* values : {&layer.weights, &layer.dictionary}) {
          for (size_t i = 0; i < values->size(); ++i) {
            if ((*values)[i] != 0) (*values)[i] = i % 2 == 0 ? even : odd;
          }
        }
        layer.constants.x.zero_point = static_cast<uint8_t>(zero);
        layer.constants.y.zero_point = static_cast<uint8_t>(zero);
        GuardedBytes x = RandomInput(c, &random);
        std::fill(x.data(), x.data() + x.size(), static_cast<uint8_t>(255 - zero));
        RunLayer(c, layer, x, isa,
                 "weights of " + std::to_string(even) + " and " + std::to_string(odd), &random);
      }
    }
  }
}

// Scales that make results huge or nothing at all, and bounds in all places.
void TestScales(lcnn::Isa isa) {
  std::mt19937 random(4);
  for (const ByteCase& c : FewCases()) {
    for (const float scale : {1e-30f, 1e-3f, 1e30f}) {
      for (const float bound : {0.0f, 1e-20f, 2.0f, FLT_MAX}) {
        for (const bool to_narrow : {false, true}) {
          ByteLayer layer(c, to_narrow, &random);
          for (float& w : layer.weight_scale) w *= scale;
          layer.constants.x.scale = 1e-2f;
          layer.constants.y = {scale, 200};
          layer.constants.residual = {scale, 0};
          layer.shape.clip_min = bound == FLT_MAX ? -FLT_MAX : bound / 2;
          layer.shape.clip_max = bound;
          RunLayer(c, layer, RandomInput(c, &random), isa, "scale " + std::to_string(scale),
                   &random);
        }
      }
    }
  }
}

template <class Change>
void CheckRefused(const Change& change, const std::string& fragment) {
  std::mt19937 random(5);
  ByteLayer layer({"", 1, 8, 6, 2, 3, 5, 5}, true, &random);
  change(&layer);
  const auto make = [&] { lcnn::NarrowConv(layer.shape, layer.constants, lcnn::Isa::kScalar); };
  CHECK_THROWS(make(), fragment);
}

void TestRefused() {
  CheckRefused([](auto* l) { l->shape.height.kernel = 0; },
               "kernel height is 0, outside [1, 65535]");
  CheckRefused([](auto* l) { l->shape.width.stride = 0; }, "stride width is 0, outside [1,");
  CheckRefused([](auto* l) { l->shape.height.dilation = -1; },
               "dilation height is -1, outside [1,");
  CheckRefused([](auto* l) { l->shape.width.pad_end = -2; },
               "padding after width is -2, outside [0,");
  CheckRefused([](auto* l) { l->shape.group = 3; }, "channels is 8, not a multiple of group 3");
  CheckRefused([](auto* l) { l->shape.group = 4; }, "out_channels is 6, not a multiple of group 4");
  CheckRefused([](auto* l) { l->shape.dictionary_size = 0; }, "dictionary_size is 0, outside [1,");
  CheckRefused(
      [](auto* l) { l->shape.dictionary_size = 7311; },
      "W has 65799 products in a sum, which may exceed 32 bits; it must have at most 65793");
  CheckRefused([](auto* l) { l->shape.channels = 2 * 65794; }, "D has 65794 products in a sum");
  CheckRefused([](auto* l) { l->shape.width.dilation = 1 << 28; },
               "a row of the dilated kernel of");
  CheckRefused([](auto* l) { l->shape.clip_min = 5; },
               "clip_min is 5.000000 and clip_max is 4.000000; clip_min must not exceed clip_max");
  CheckRefused([](auto* l) { l->constants.x.scale = 0; },
               "x_scale holds 0.000000 at 0; scales must");
  CheckRefused([](auto* l) { l->constants.y.scale = -1; },
               "y_scale holds -1.000000 at 0; scales must");
  CheckRefused([](auto* l) { l->constants.residual.scale = NAN; },
               "r_scale holds nan at 0; values");
  CheckRefused([](auto* l) { l->dictionary_scale[2] = INFINITY; },
               "d_scale holds inf at 2; values");
  CheckRefused([](auto* l) { l->weight_scale[3] = 0; }, "w_scale holds 0.000000 at 3; scales must");
  CheckRefused([](auto* l) { l->bias[1] = NAN; }, "bias holds nan at 1; values must be finite");
  CheckRefused(
      [](auto* l) {
        l->bias[1] = 1e30f;
        l->constants.y.scale = 1e-30f;
      },
      "bias at 1 is ");
  CheckRefused(
      [](auto* l) {
        l->constants.residual.scale = 1e30f;
        l->constants.y.scale = 1e-30f;
      },
      "r_scale at 0 is ");
  std::mt19937 random(5);
  const ByteLayer layer({"", 1, 8, 6, 2, 3, 5, 5}, true, &random);
  const lcnn::NarrowConv conv(layer.shape, layer.constants, lcnn::Isa::kScalar);
  CHECK_THROWS(conv.ScratchBytes(1, 0, 5), "input height is 0, with padding 2, smaller than");
  CHECK_THROWS(conv.ScratchBytes(1, 1 << 20, 1 << 20), "exceeds the limit");
  CHECK_THROWS(conv.ScratchBytes(-1, 5, 5), "batch is -1, outside [0,");
}

}  // namespace

int main() {
  for (const lcnn::Isa isa : IsasToTest()) {
    for (const ByteCase& c : NarrowCases()) RunCase(c, isa);
    TestTaken(isa);
    TestLargeSums(isa);
    TestScales(isa);
  }
  TestRefused();
  return TestResult();
}
