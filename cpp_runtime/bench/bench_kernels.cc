// Times the layers of a ResNet-18 with random patterns, one lookup per position, with every row of
// kernels that the machine has.
//
//   bench_kernels [repeats] [part of a row's or layer's name]
//
// Prints the minimum over the repeats. GMAC/s: "done" counts what the stage executes, "dense" the
// convolution it replaces. "peak" is the share of the multiply-adds that registers allow, "bound"
// what takes a stage the longest if it ran at the machine's limits, and how near to that it is:
//   arith   its multiply-adds in registers
//   loads   its multiply-adds with an aligned load from the first-level cache for each (stage 2,
//           lists of one filter)
//   memory  copying as many bytes as it reads and writes, again and again, so from the same cache
#include <algorithm>
#include <cctype>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/dispatch.h"
#include "f32_peak.h"
#include "lcnn/lookup_conv.h"
#include "lookup_conv/job.h"

namespace lcnn {
namespace {

#define LCNN_KERNELS(needs, suffix) {needs, #suffix, &kPeak##suffix},
const KernelRows<PeakKernels> kPeakRows = {
#include "f32_peak.inc"
};
#undef LCNN_KERNELS

}  // namespace
}  // namespace lcnn

namespace {

struct Layer {
  const char* name;
  int64_t channels, filters, size, dictionary;
  int64_t kernel, stride;
  double density;  // non-zeros of P over all its places
  int64_t batch;
  int64_t share = 1;  // filters with the same pattern
};

constexpr Layer kLayers[] = {
    {"stem 3>64 224 7x7/2", 3, 64, 224, 3, 7, 2, 0.33, 1},
    {"3>64 224 11x11/4", 3, 64, 224, 3, 11, 4, 0.083, 1},
    {"64>64 56 k30 s1", 64, 64, 56, 30, 3, 1, 1.0 / 30, 1},
    {"64>64 56 k16 d.25", 64, 64, 56, 16, 3, 1, 0.25, 1},
    {"64>128 56/2 k30 s1", 64, 128, 56, 30, 3, 2, 1.0 / 30, 1},
    {"64>128 56/2 1x1 k16", 64, 128, 56, 16, 1, 2, 0.25, 1},
    {"128>128 28 k30 s1", 128, 128, 28, 30, 3, 1, 1.0 / 30, 1},
    {"128>128 28 k32 d.25", 128, 128, 28, 32, 3, 1, 0.25, 1},
    {"256>256 14 k64 s2", 256, 256, 14, 64, 3, 1, 2.0 / 64, 1},
    {"256>256 14 k64 d.25", 256, 256, 14, 64, 3, 1, 0.25, 1},
    {"256>256 14 k128 d.5", 256, 256, 14, 128, 3, 1, 0.5, 1},
    {"64>64 56 k32 d.4", 64, 64, 56, 32, 3, 1, 0.4, 1},
    {"512>512 7 k128 s2", 512, 512, 7, 128, 3, 1, 2.0 / 128, 1},
    {"512>512 7 k128 d.25", 512, 512, 7, 128, 3, 1, 0.25, 1},
    {"512>512 7 k128 s2 n8", 512, 512, 7, 128, 3, 1, 2.0 / 128, 8},
    {"512>512 7 k256 d.3", 512, 512, 7, 256, 3, 1, 0.3, 1},
    {"256>512 14/2 k128 d.3", 256, 512, 14, 128, 3, 2, 0.3, 1},
    {"64>192 27 5x5 k32 d.25", 64, 192, 27, 32, 5, 1, 0.25, 1},
    {"256>64 56 1x1 k64 d.5", 256, 64, 56, 64, 1, 1, 0.5, 1},
    {"64>64 56 k16 d.25 of 2", 64, 64, 56, 16, 3, 1, 0.25, 1, 2},
    {"64>64 56 k16 d.25 of 4", 64, 64, 56, 16, 3, 1, 0.25, 1, 4},
    {"64>64 56 k16 d.25 of 8", 64, 64, 56, 16, 3, 1, 0.25, 1, 8},
    {"256>256 14 k64 d.25 of 2", 256, 256, 14, 64, 3, 1, 0.25, 1, 2},
    {"256>256 14 k64 d.25 of 4", 256, 256, 14, 64, 3, 1, 0.25, 1, 4},
    {"256>256 14 k64 d.25 of 8", 256, 256, 14, 64, 3, 1, 0.25, 1, 8},
    {"512>512 7 k128 d.25 of 2", 512, 512, 7, 128, 3, 1, 0.25, 1, 2},
    {"512>512 7 k128 d.25 of 4", 512, 512, 7, 128, 3, 1, 0.25, 1, 4},
    {"512>512 7 k128 d.25 of 8", 512, 512, 7, 128, 3, 1, 0.25, 1, 8},
    {"stem 3>64 224 7x7/2 of 8", 3, 64, 224, 3, 7, 2, 0.33, 1, 8},
    {"64>64 56 k30 s1 of 2", 64, 64, 56, 30, 3, 1, 1.0 / 30, 1, 2},
    {"64>64 56 k30 s1 of 8", 64, 64, 56, 30, 3, 1, 1.0 / 30, 1, 8},
    {"64>64 56 k14 d1", 64, 64, 56, 14, 3, 1, 1, 1},
    {"128>128 28 k28 d1", 128, 128, 28, 28, 3, 1, 1, 1},
    {"256>256 14 k57 d1", 256, 256, 14, 57, 3, 1, 1, 1},
    {"256>512 14/2 k100 d1", 256, 512, 14, 100, 3, 2, 1, 1},
    {"512>512 7 k113 d1", 512, 512, 7, 113, 3, 1, 1, 1},
    {"192>768 k48 d.25 n196", 192, 768, 1, 48, 1, 1, 0.25, 196},
    {"768>192 k48 d.25 n196", 768, 192, 1, 48, 1, 1, 0.25, 196},
    {"fc 9216>4096 k512", 9216, 4096, 1, 512, 1, 1, 0.01, 1},
    {"fc 9216>4096 k512 n16", 9216, 4096, 1, 512, 1, 1, 0.01, 16},
};

std::vector<float> RandomFloats(int64_t count, std::mt19937* random) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = uniform(*random);
  return values;
}

// `share` neighbouring filters of `places` places have the same pattern.
lcnn::LookupConvConstants RandomEntries(const Layer& layer, int64_t places, std::mt19937* random) {
  lcnn::LookupConvConstants constants;
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<bool> pattern(static_cast<size_t>(places));
  int64_t previous = 0;
  for (int64_t p = 0; p < layer.filters * places; ++p) {
    const auto place = static_cast<size_t>(p % places);
    if (p / places % layer.share == 0) pattern[place] = uniform(*random) < layer.density;
    if (!pattern[place]) continue;
    constants.gaps.push_back(static_cast<uint32_t>(p - previous));
    constants.coefficients.push_back(static_cast<float>(uniform(*random)) + 0.1f);
    previous = p;
  }
  return constants;
}

// The least time of some calls, in ms.
template <class Call>
double LeastMs(int repeats, const Call& call) {
  double least = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    call();
    const std::chrono::duration<double, std::milli> passed =
        std::chrono::steady_clock::now() - start;
    least = std::min(least, passed.count());
  }
  return least;
}

// Rows of kernels that are used together.
struct Set {
  std::string name;
  lcnn::CpuFeatures features;
};

// Adds the rows of a family that no set is named after yet.
template <class Kernels>
void AddSets(const lcnn::KernelRows<Kernels>& rows, std::vector<Set>* sets) {
  for (const lcnn::KernelRow<Kernels>& row : rows) {
    std::string name = row.suffix;
    for (char& c : name) c = static_cast<char>(std::tolower(c));
    const bool known =
        std::any_of(sets->begin(), sets->end(), [&](const Set& set) { return set.name == name; });
    if (!known) sets->push_back({name, row.needs});
  }
}

// GMAC/s of one thread.
struct Roofs {
  double registers;
  double loads;    // aligned
  double crossed;  // loads across cache lines
};

Roofs MeasureRoofs(lcnn::CpuFeatures features) {
  const lcnn::PeakKernels& kernels = lcnn::LastWithin(features, lcnn::kPeakRows);
  constexpr int64_t kSteps = 100000;
  constexpr int kRepeats = 30;
  constexpr size_t kLine = 64;
  const auto floats = static_cast<size_t>(8 * kernels.macs);
  std::vector<float> buffer(floats + 2 * kLine);
  void* start = buffer.data();
  size_t room = buffer.size() * sizeof(float);
  const auto* const aligned =
      static_cast<const float*>(std::align(kLine, floats * sizeof(float), start, room));
  volatile float sink = 0;  // the sums are used
  const double macs = 1e-6 * static_cast<double>(kSteps * kernels.macs);
  return {macs / LeastMs(kRepeats, [&] { sink = kernels.registers(kSteps); }),
          macs / LeastMs(kRepeats, [&] { sink = kernels.loads(aligned, kSteps); }),
          macs / LeastMs(kRepeats, [&] { sink = kernels.loads(aligned + 1, kSteps); })};
}

double CopyMs(int64_t floats) {
  const auto half = static_cast<size_t>(std::max<int64_t>(2, floats) / 2);
  std::vector<float> from(half);
  std::vector<float> to(half);
  volatile float sink = 0;
  return LeastMs(30, [&] {
    std::memcpy(to.data(), from.data(), half * sizeof(float));
    sink = to[half / 2];
  });
}

struct Bound {
  const char* name;
  double ms;
};

Bound Longest(const std::vector<Bound>& bounds) {
  return *std::max_element(bounds.begin(), bounds.end(),
                           [](const Bound& a, const Bound& b) { return a.ms < b.ms; });
}

void Bench(const Layer& layer, const Set& set, const Roofs& roofs, int repeats) {
  std::mt19937 random(1);
  const lcnn::Axis axis = {layer.kernel, layer.stride, 1, layer.kernel / 2, layer.kernel / 2};
  lcnn::LookupConvShape shape;
  shape.channels = layer.channels;
  shape.out_channels = layer.filters;
  shape.dictionary_size = layer.dictionary;
  shape.height = shape.width = axis;
  shape.clip_max = std::numeric_limits<float>::max();
  const int64_t taps = layer.kernel * layer.kernel;
  auto constants = RandomEntries(layer, taps * layer.dictionary, &random);
  const auto dictionary = RandomFloats(layer.dictionary * layer.channels, &random);
  const auto bias = RandomFloats(layer.filters, &random);
  constants.dictionary = dictionary.data();
  constants.bias = bias.data();
  const lcnn::PackedWeights weights(shape, constants);
  const lcnn::LookupConvKernels kernels = lcnn::LookupConvKernelsWithin(set.features);
  const lcnn::Plan plan = lcnn::MakePlan(weights, kernels.project, kernels.lookup,
                                         {layer.batch, layer.size, layer.size});

  const int64_t out = lcnn::OutputExtent(axis, layer.size, "size");
  const auto x = RandomFloats(layer.batch * layer.channels * layer.size * layer.size, &random);
  std::vector<float> y(static_cast<size_t>(layer.batch * layer.filters * out * out));
  std::vector<char> scratch(lcnn::ScratchBytes(plan));
  lcnn::StageTimes best = {1e9, 1e9};
  for (int i = 0; i < repeats; ++i) {
    lcnn::StageTimes times;
    lcnn::RunPlan(weights, plan, kernels, {x.data(), {}, y.data(), scratch.data()}, {}, &times);
    best.project_ms = std::min(best.project_ms, times.project_ms);
    best.lookup_ms = std::min(best.lookup_ms, times.lookup_ms);
  }
  const double total = best.project_ms + best.lookup_ms;
  const auto dense =
      static_cast<double>(layer.batch * layer.filters * out * out * layer.channels * taps);
  const auto project = static_cast<double>(lcnn::ProjectMacs(plan));
  const auto lookup = static_cast<double>(lcnn::LookupMacs(plan));
  const auto x_floats = static_cast<int64_t>(x.size());
  const auto y_floats = static_cast<int64_t>(y.size());
  const auto s_floats = static_cast<int64_t>(scratch.size() / sizeof(float));
  const auto entries = static_cast<int64_t>(constants.coefficients.size());
  const Bound bound1 =
      Longest({{"arith", project * 1e-6 / roofs.registers},
               {"memory", CopyMs(x_floats + s_floats + layer.dictionary * layer.channels)}});
  const Bound bound2 =
      Longest({{"arith", lookup * 1e-6 / roofs.registers},
               {"loads", layer.share == 1 && layer.density < 1 ? lookup * 1e-6 / roofs.loads : 0.0},
               {"memory", CopyMs(s_floats + y_floats + entries * 2)}});
  const double done1 = project * 1e-6 / best.project_ms;
  const double done2 = lookup * 1e-6 / best.lookup_ms;
  std::printf(
      "%-7s %-24s %8.4f %8.4f %8.4f  %6.1f %4.0f %% %-6s %3.0f %%  %6.1f %4.0f %% %-6s %3.0f %% "
      "%7.1f  %5.1fx\n",
      set.name.c_str(), layer.name, best.project_ms, best.lookup_ms, total, done1,
      100 * done1 / roofs.registers, bound1.name, 100 * bound1.ms / best.project_ms, done2,
      100 * done2 / roofs.registers, bound2.name, 100 * bound2.ms / best.lookup_ms,
      dense * 1e-6 / total, dense / (project + lookup));
}

}  // namespace

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 50;
  const std::string wanted = argc > 2 ? argv[2] : "";
  std::vector<Set> sets;
  AddSets(lcnn::ProjectRows(), &sets);
  AddSets(lcnn::LookupRows(), &sets);
  for (const Set& set : sets) {
    if (!lcnn::Contains(lcnn::DetectCpuFeatures(), set.features)) {
      std::printf("%-7s skipped: not supported by this machine\n", set.name.c_str());
      continue;
    }
    std::vector<Layer> chosen;
    for (const Layer& layer : kLayers) {
      const std::string name = set.name + " " + layer.name;
      if (name.find(wanted) != std::string::npos) chosen.push_back(layer);
    }
    if (chosen.empty()) continue;
    const Roofs roofs = MeasureRoofs(set.features);
    std::printf(
        "%s, GMAC/s: %.1f in registers, %.1f with an aligned load each, %.1f with one across "
        "cache lines\n",
        set.name.c_str(), roofs.registers, roofs.loads, roofs.crossed);
    std::printf("%-7s %-24s %8s %8s %8s  %6s %6s %-12s  %6s %6s %-12s %7s  %6s\n", "isa", "layer",
                "project", "lookup", "ms", "done 1", "peak", "bound", "done 2", "peak", "bound",
                "dense", "fewer");
    for (const Layer& layer : chosen) Bench(layer, set, roofs, repeats);
  }
  return 0;
}
