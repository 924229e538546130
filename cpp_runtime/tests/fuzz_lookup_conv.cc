// libFuzzer target: creates a layer from arbitrary bytes, plans it for an arbitrary input size and
// runs it on every instruction set, against loops in double precision.
//
// The bytes choose a style of layer, then every extent and attribute, one in 50 of them hostile; a
// seed among them gives the values. What must be refused is stated here once more, from README.md,
// so that refusing too much or too little fails. A failure prints the layer and aborts.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "fuzz_expected.h"
#include "fuzz_input.h"

namespace {

[[noreturn]] void Fail(const Input& input, const std::string& what) {
  std::fprintf(stderr, "%s\n%s\n", what.c_str(), input.Text().c_str());
  std::abort();
}

bool AllFinite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

// Whether the constants of an accepted shape must be refused.
bool ConstantsRefused(const Input& input) {
  const lcnn::LookupConvConstants& constants = input.constants;
  const double filter =
      Places(input.shape) / static_cast<double>(std::max<int64_t>(1, input.shape.out_channels));
  if (filter > 0xffffffffLL) return true;
  if (!AllFinite(input.dictionary) || !AllFinite(input.bias) ||
      !AllFinite(constants.coefficients) || constants.gaps.size() != constants.coefficients.size())
    return true;
  double position = 0;
  for (size_t e = 0; e < constants.gaps.size(); ++e) {
    position += constants.gaps[e];
    if ((e > 0 && constants.gaps[e] == 0) || position >= Places(input.shape)) return true;
  }
  return false;
}

// What a plan for the input has to hold, as far as it decides whether it can be made.
enum class PlanSize { kRefused, kCostly, kSmall };

PlanSize SizeOfPlan(const Input& input) {
  const lcnn::LookupConvShape& shape = input.shape;
  const auto too_small = [](const lcnn::Axis& axis, int64_t extent) {
    return extent + axis.pad_begin + axis.pad_end < axis.dilation * (axis.kernel - 1) + 1;
  };
  if (!Between(input.batch, 1, kMaxInt32) || !Between(input.height, 0, kMaxInt32) ||
      !Between(input.width, 0, kMaxInt32) || too_small(shape.height, input.height) ||
      too_small(shape.width, input.width)) {
    return PlanSize::kRefused;
  }
  const lcnn::AxisLayout rows = lcnn::LayOutAxis(shape.height, input.height, "height");
  const lcnn::AxisLayout columns = lcnn::LayOutAxis(shape.width, input.width, "width");
  if (shape.pools() &&
      (too_small(shape.pool_height, rows.output) || too_small(shape.pool_width, columns.output))) {
    return PlanSize::kRefused;
  }
  const auto product = [](int64_t a, int64_t b) {
    return static_cast<double>(a) * static_cast<double>(b);
  };
  const double x_image = product(input.height, input.width) * static_cast<double>(shape.channels);
  const double y_image =
      product(rows.output, columns.output) * static_cast<double>(shape.out_channels);
  const double phases = product(static_cast<int64_t>(rows.phases.size()),
                                static_cast<int64_t>(columns.phases.size()));
  const double plane = product(rows.pitch, columns.pitch);
  const double shift =
      product(rows.max_shift, columns.pitch) + static_cast<double>(columns.max_shift);
  const double runs = static_cast<double>(shape.group * shape.dictionary_size) * phases;
  if (std::max({x_image, y_image, std::max(1.0, runs) * (plane + shift)}) > kMaxInt32) {
    return PlanSize::kRefused;
  }
  // As many images as make 1 MiB of S.
  const double images = std::min(static_cast<double>(input.batch),
                                 std::max(1.0, 262144 / std::max(1.0, runs * plane)));
  // The pitch of cut lists is rounded up to a vector, runs to an odd number of cache lines.
  const double longest = lcnn::kMaxLanes * (images * plane + shift);
  const bool small = phases * longest <= 16.0 * kMaxPositions && runs * (longest + 128) < 1 << 28;
  return small ? PlanSize::kSmall : PlanSize::kCostly;
}

// Runs units last to first, in two threads every second one.
void RunBackwards(void* context, size_t count, void (*task)(void*, size_t), void* argument) {
  const size_t threads = *static_cast<const bool*>(context) ? 2 : 1;
  const auto work = [&](size_t thread) {
    for (size_t i = thread; i < count; i += threads) task(argument, count - 1 - i);
  };
  std::thread other;
  if (threads == 2) other = std::thread(work, size_t{1});
  work(0);
  if (threads == 2) other.join();
}

void FillWith(Guarded* buffer, const std::vector<std::pair<size_t, float>>& specials,
              std::mt19937* random) {
  Fill(buffer, random);
  if (buffer->size() == 0) return;
  for (const auto& [place, value] : specials) (*buffer)[place % buffer->size()] = value;
}

// Runs twice, in the calling thread and in others, on whatever scratch holds.
Guarded RunLayer(const Input& input, const lcnn::LookupConv& conv, const lcnn::Plan& plan,
                 const Guarded& x, const Guarded& residual, size_t outputs) {
  Guarded y(outputs, input.misalign + 1), again(outputs, 0);
  Guarded scratch(lcnn::ScratchBytes(plan) / sizeof(float), input.misalign);
  lcnn::Residual argument;
  if (input.residual == ResidualKind::kTensor) argument.tensor = residual.data();
  if (input.residual == ResidualKind::kConstant) argument.constant = residual[0];
  bool two_threads = input.two_threads;
  conv.Run(plan, x.data(), argument, y.data(), scratch.data(), {});
  conv.Run(plan, x.data(), argument, again.data(), scratch.data(), {RunBackwards, &two_threads});
  if (!y.WallsIntact() || !again.WallsIntact() || !scratch.WallsIntact()) {
    Fail(input, "wrote outside a buffer");
  }
  for (size_t i = 0; i < outputs; ++i) {
    if (y[i] != again[i] && !(std::isnan(y[i]) && std::isnan(again[i]))) {
      Fail(input, "output " + std::to_string(i) + " depends on threads or scratch");
    }
  }
  return y;
}

void CheckRuns(Input* input, const std::vector<std::unique_ptr<lcnn::LookupConv>>& layers) {
  const lcnn::LookupConvShape& shape = input->shape;
  int64_t out_height = lcnn::OutputExtent(shape.height, input->height, "height");
  int64_t out_width = lcnn::OutputExtent(shape.width, input->width, "width");
  const bool large = static_cast<double>(out_height) * static_cast<double>(out_width) > kMaxTensor;
  if (shape.pools()) {
    out_height = lcnn::OutputExtent(shape.pool_height, out_height, "height");
    out_width = lcnn::OutputExtent(shape.pool_width, out_width, "width");
  }
  const double images = static_cast<double>(input->batch);
  const double x_floats =
      images * static_cast<double>(shape.channels * input->height * input->width);
  const double y_floats = images * static_cast<double>(shape.out_channels * out_height * out_width);
  if (large || x_floats > kMaxTensor || y_floats > kMaxTensor || Places(shape) > kMaxConstants)
    return;

  const auto outputs = static_cast<size_t>(y_floats);
  Guarded x(static_cast<size_t>(x_floats), input->misalign);
  Guarded residual(input->residual == ResidualKind::kTensor ? outputs : 1, input->misalign + 3);
  FillWith(&x, input->x_specials, &input->random);
  FillWith(&residual, input->residual_specials, &input->random);
  const std::vector<Expected> expected =
      Compute(*input, x, residual, outputs, out_height, out_width);
  for (const auto& conv : layers) {
    const auto plan = conv->PlanFor(input->batch, input->height, input->width);
    if (lcnn::ScratchBytes(*plan) > kMaxTensor * sizeof(float) ||
        lcnn::ProjectMacs(*plan) + lcnn::LookupMacs(*plan) > kMaxMacs) {
      return;
    }
    const Guarded y = RunLayer(*input, *conv, *plan, x, residual, outputs);
    for (const Expected& e : expected) {
      if (Near(y[e.index], e)) continue;
      Fail(*input, "output " + std::to_string(e.index) + " is " + std::to_string(y[e.index]) +
                       ", not " + std::to_string(e.value) + " +- " + std::to_string(e.bound));
    }
  }
}

// Passes when body() throws std::invalid_argument exactly if `refused`; returns whether it did not.
template <class Body>
bool Accepted(const Input& input, bool refused, const char* what, const Body& body) {
  std::string message;
  try {
    body();
    if (refused) Fail(input, std::string(what) + " was not refused");
    return true;
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  if (!refused) Fail(input, std::string(what) + " was refused: " + message);
  return false;
}

void CheckInput(Input* input) {
  if (!input->constants_fit) return;
  const bool refused = ShapeRefused(input->shape) || ConstantsRefused(*input);
  static const std::vector<lcnn::Isa> isas = IsasToTest();
  std::vector<std::unique_ptr<lcnn::LookupConv>> layers;
  for (const lcnn::Isa isa : isas) {
    const bool accepted = Accepted(*input, refused, "the layer", [&] {
      layers.push_back(std::make_unique<lcnn::LookupConv>(input->shape, input->constants, isa));
    });
    if (!accepted) return;
  }
  if (input->shape.out_channels == 0) return;  // the adapter asks for no plan of nothing
  const PlanSize size = SizeOfPlan(*input);
  if (size == PlanSize::kCostly) return;
  for (const auto& layer : layers) {
    const bool accepted = Accepted(*input, size == PlanSize::kRefused, "the input size", [&] {
      layer->PlanFor(input->batch, input->height, input->width);
    });
    if (!accepted) return;
  }
  CheckRuns(input, layers);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  FuzzedDataProvider bytes(data, size);
  Input input(&bytes);
  CheckInput(&input);
  return 0;
}
