// Times convolutions of bytes on the layers of a ResNet-18, without and with a lookup, for every
// instruction set that the machine has.
//
//   bench_bytes [repeats] [part of "isa layer form"]
//
// Prints the least time over the repeats, in which the forms of a layer take turns. GMAC/s: "done"
// counts the multiply-adds of weights that are not left out, "dense" the convolution it replaces;
// "peak" is the share of what the kernels reach on a tile in the first-level cache.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/dispatch.h"
#include "kernels/bf16_bits.h"
#include "lcnn/narrow_conv.h"
#include "narrow_conv/packed_conv.h"

namespace {

struct Layer {
  const char* name;
  int64_t channels, filters, size, kernel, stride;
  int64_t group = 1;
};

constexpr Layer kLayers[] = {
    {"stem 3>64 224 7x7/2", 3, 64, 224, 7, 2},
    {"64>64 56", 64, 64, 56, 3, 1},
    {"64>128 56/2", 64, 128, 56, 3, 2},
    {"64>128 56/2 1x1", 64, 128, 56, 1, 2},
    {"128>128 28", 128, 128, 28, 3, 1},
    {"128>256 28/2", 128, 256, 28, 3, 2},
    {"256>256 14", 256, 256, 14, 3, 1},
    {"256>512 14/2", 256, 512, 14, 3, 2},
    {"512>512 7", 512, 512, 7, 3, 1},
    {"256>64 56 1x1", 256, 64, 56, 1, 1},
    {"depthwise 32 112", 32, 32, 112, 3, 1, 32},
    {"depthwise 128 56/2", 128, 128, 56, 3, 2, 128},
    {"depthwise 512 14", 512, 512, 14, 3, 1, 512},
    {"depthwise 1024 7", 1024, 1024, 7, 3, 1, 1024},
};

// Zero blocks: of so many entries (bytes) and filters.
struct Form {
  const char* name;
  int64_t divisor;  // k = channels / divisor; 0: no lookup
  double density;
  int64_t block_bytes;
  int64_t block_filters;
  bool half = false;  // bfloat16
};

constexpr Form kForms[] = {
    {"dense", 0, 1, 1, 1},
    {"k m/2", 2, 1, 1, 1},
    {"k m/4", 4, 1, 1, 1},
    {"k m/8", 8, 1, 1, 1},
    {"k m/4 d.25 64x16", 4, 0.25, 64, 16},
    {"k m/4 d.25 16x16", 4, 0.25, 16, 16},
    {"k m/4 d.25 4x16", 4, 0.25, 4, 16},
    {"k m/4 d.25 4x4", 4, 0.25, 4, 4},
    {"k m/4 d.25 4x1", 4, 0.25, 4, 1},
    {"bf16 dense", 0, 1, 1, 1, true},
    {"bf16 k m/4", 4, 1, 1, 1, true},
    {"bf16 k m/4 d.25", 4, 0.25, 16, 64, true},
};

// Pairs of them fit 16 bits, as those of files do.
std::vector<int8_t> RandomBytes(int64_t count, std::mt19937* random) {
  std::uniform_int_distribution<int> byte(-64, 63);
  std::vector<int8_t> bytes(static_cast<size_t>(count));
  for (int8_t& b : bytes) b = static_cast<int8_t>(byte(*random) | 1);
  return bytes;
}

// Sets all but `density` of the blocks of (filters, window) to zero.
void Thin(const Form& form, int64_t filters, int64_t window, std::mt19937* random,
          std::vector<int8_t>* weights) {
  std::bernoulli_distribution keep(form.density);
  for (int64_t f = 0; f < filters; f += form.block_filters) {
    for (int64_t i = 0; i < window; i += form.block_bytes) {
      if (keep(*random)) continue;
      for (int64_t o = f; o < std::min(filters, f + form.block_filters); ++o) {
        for (int64_t b = i; b < std::min(window, i + form.block_bytes); ++b) {
          (*weights)[static_cast<size_t>(o * window + b)] = 0;
        }
      }
    }
  }
}

double Ms(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - since)
      .count();
}

struct Timed {
  const Form* form;
  std::unique_ptr<lcnn::NarrowConv> conv;
  double macs;
  double best = 1e9;
};

Timed Make(const Layer& layer, const Form& form, lcnn::Isa isa) {
  std::mt19937 random(1);
  lcnn::NarrowConvShape shape;
  shape.channels = layer.channels;
  shape.out_channels = layer.filters;
  shape.group = layer.group;
  shape.lookup = form.divisor > 0;
  shape.dictionary_size =
      form.divisor > 0 ? std::max<int64_t>(1, layer.channels / form.divisor) : 0;
  shape.height = shape.width = {layer.kernel, layer.stride, 1, layer.kernel / 2, layer.kernel / 2};
  shape.clip_max = 100;
  shape.to_narrow = true;
  const int64_t window = layer.kernel * layer.kernel * shape.depth();
  const auto dictionary = RandomBytes(shape.dictionary_size * layer.channels, &random);
  auto weights = RandomBytes(layer.filters * window, &random);
  Thin(form, layer.filters, window, &random, &weights);
  const std::vector<float> ones(static_cast<size_t>(std::max(layer.filters, layer.channels)),
                                0.01f);
  lcnn::ByteConvConstants constants;
  constants.x = {0.01f, 3};
  constants.dictionary = dictionary.data();
  constants.weights = weights.data();
  constants.dictionary_scale = constants.weight_scale = constants.bias = ones.data();
  const int64_t out = lcnn::OutputExtent(shape.height, layer.size, "size");
  const auto kept = std::count_if(weights.begin(), weights.end(), [](int8_t w) { return w != 0; });
  // A 1x1 kernel with strides leaves responses out.
  const int64_t responses = layer.kernel == 1 ? out * out : layer.size * layer.size;
  const auto macs =
      static_cast<double>(kept * out * out + responses * static_cast<int64_t>(dictionary.size()));
  if (form.half) {
    const auto halves = [](const std::vector<int8_t>& bytes) {
      std::vector<uint16_t> values;
      for (const int8_t b : bytes) values.push_back(ToBfloat16(static_cast<float>(b) / 64));
      return values;
    };
    const std::vector<uint16_t> d = halves(dictionary), w = halves(weights);
    const lcnn::Bfloat16ConvConstants halved = {d.data(), w.data(), ones.data()};
    return {&form, std::make_unique<lcnn::NarrowConv>(shape, halved, isa), macs};
  }
  return {&form, std::make_unique<lcnn::NarrowConv>(shape, constants, isa), macs};
}

void Bench(const Layer& layer, lcnn::Isa isa, double peak, int repeats, const std::string& wanted) {
  std::vector<Timed> forms;
  for (const Form& form : kForms) {
    const std::string name = std::string(lcnn::IsaName(isa)) + " " + layer.name + " " + form.name;
    if (name.find(wanted) == std::string::npos) continue;
    if (form.divisor > 0 && (layer.channels < 16 || layer.group > 1)) continue;
    forms.push_back(Make(layer, form, isa));
  }
  if (forms.empty()) return;
  const int64_t out = (layer.size - 1) / layer.stride + 1;
  // Of the larger type; the bits of bytes below 128 are bfloat16 of all sizes but infinite ones.
  std::vector<uint8_t> x(static_cast<size_t>(2 * layer.channels * layer.size * layer.size));
  std::mt19937 random(2);
  for (uint8_t& b : x) b = static_cast<uint8_t>(random() & 63);
  std::vector<uint8_t> y(static_cast<size_t>(2 * layer.filters * out * out));
  std::vector<uint8_t> scratch;
  for (int i = 0; i < repeats; ++i) {
    for (Timed& form : forms) {
      scratch.resize(std::max(scratch.size(), form.conv->ScratchBytes(1, layer.size, layer.size)));
      const auto start = std::chrono::steady_clock::now();
      form.conv->Run({1, layer.size, layer.size, x.data(), nullptr}, y.data(), scratch.data(), {});
      form.best = std::min(form.best, Ms(start));
    }
  }
  const auto dense = static_cast<double>(
      layer.filters * out * out * (layer.channels / layer.group) * layer.kernel * layer.kernel);
  for (const Timed& form : forms) {
    const double done = form.macs * 1e-6 / form.best;
    std::printf("%-10s %-20s %-18s %8.4f  %7.1f %4.0f %%  %7.1f  %5.1fx\n", lcnn::IsaName(isa),
                layer.name, form.form->name, form.best, done, 100 * done / peak,
                dense * 1e-6 / form.best, dense / form.macs);
  }
}

// GMAC/s of a tile in the first-level cache.
double Peak(lcnn::Isa isa) {
  const lcnn::DotKernels& kernels = lcnn::LastWithin(lcnn::FeaturesFor(isa), lcnn::DotRows());
  constexpr int64_t kQuads = 48, kPixels = 24, kFilters = 64;
  lcnn::AlignedBuffer<int8_t> weights(kQuads * kFilters * lcnn::kQuad);
  std::vector<uint8_t> x(kPixels * kQuads * lcnn::kQuad), y(kPixels * kFilters);
  std::vector<int32_t> start(kFilters);
  std::vector<float> ones(kFilters, 1.0f);
  std::vector<int64_t> from, to;
  for (int64_t p = 0; p < kPixels; ++p) {
    from.push_back(p * kQuads * lcnn::kQuad);
    to.push_back(p * kFilters);
  }
  const lcnn::DotSpan span = {0, 0, kQuads};
  lcnn::DotTask task = {};
  task.x = x.data();
  task.x_offsets = from.data();
  task.pixels = kPixels;
  task.spans = &span;
  task.n_spans = 1;
  task.chunk = std::min(kQuads, kernels.most_quads);
  task.quads = kQuads;
  task.width = kPixels;
  task.x_step = kQuads * lcnn::kQuad;
  task.weights = weights.data();
  task.pairs_fit = true;
  task.blocks = kFilters / lcnn::kBlockFilters;
  task.filters = kFilters;
  task.start = start.data();
  task.scale = task.bias = ones.data();
  task.high = 255;
  task.y = y.data();
  task.y_offsets = to.data();
  double best = 1e9;
  for (int i = 0; i < 200; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    for (int j = 0; j < 10; ++j) kernels.to_narrow(task);
    best = std::min(best, Ms(begin) / 10);
  }
  return static_cast<double>(kQuads * lcnn::kQuad * kPixels * kFilters) * 1e-6 / best;
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 50;
  const std::string wanted = argc > 2 ? argv[2] : "";
  for (const lcnn::Isa isa : lcnn::BuiltIsas()) {
    if (!lcnn::IsaSupported(isa)) {
      std::printf("%s skipped: not supported by this machine\n", lcnn::IsaName(isa));
      continue;
    }
    const double peak = Peak(isa);
    std::printf("%s: %.1f GMAC/s on a tile in the first-level cache\n", lcnn::IsaName(isa), peak);
    std::printf("%-10s %-20s %-18s %8s  %7s %6s  %7s  %6s\n", "isa", "layer", "form", "ms", "done",
                "peak", "dense", "fewer");
    for (const Layer& layer : kLayers) Bench(layer, isa, peak, repeats, wanted);
  }
  return 0;
}
