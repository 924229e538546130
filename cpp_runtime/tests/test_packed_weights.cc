// What is accepted, how it is packed, and what the messages say.
#include <algorithm>
#include <limits>

#include "check.h"
#include "lookup_conv/packed_weights.h"

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// 2 groups of 2 channels, 2 dictionary rows each, 4 filters of 1 x 2: 4 places per filter.
struct Small {
  lcnn::LookupConvShape shape = {4, 4, 2, 2, {1, 1, 1, 0, 0}, {2, 1, 1, 0, 0}, 0, 6};
  std::vector<float> dictionary = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<float> bias = {0, 0, 0, 0};
  std::vector<uint32_t> gaps = {3, 1, 6, 5};  // positions 3, 4, 10, 15
  std::vector<float> coefficients = {1, 0, 2, 3};

  lcnn::PackedWeights Pack() const {
    return lcnn::PackedWeights(shape, {dictionary.data(), gaps, coefficients, bias.data()});
  }
};

void TestEntries() {
  const lcnn::PackedWeights packed = Small().Pack();
  const std::vector<int32_t> begin(packed.entry_begin(0), packed.entry_begin(0) + 5);
  CHECK(!packed.cut() && packed.parts() == 1);
  CHECK((begin == std::vector<int32_t>{0, 1, 1, 2, 3}));          // position 4 bridges
  CHECK((packed.positions() == std::vector<uint32_t>{3, 1, 3}));  // by row, then tap
  CHECK((packed.coefficients() == std::vector<float>{1, 2, 3}));
}

// Filters of 1 x 1; entry (o, j) is there where used(o, j), with coefficient o * rows + j + 1.
template <class Used>
lcnn::PackedWeights PackPattern(int64_t filters, int64_t rows, const Used& used) {
  const lcnn::LookupConvShape shape = {1, filters, 1, rows, {1, 1, 1, 0, 0}, {1, 1, 1, 0, 0}, 0, 6};
  const std::vector<float> zeros(static_cast<size_t>(std::max(filters, rows)), 0);
  lcnn::LookupConvConstants constants = {zeros.data(), {}, {}, zeros.data()};
  int64_t previous = 0;
  for (int64_t place = 0; place < filters * rows; ++place) {
    if (!used(place / rows, place % rows)) continue;
    constants.gaps.push_back(static_cast<uint32_t>(place - previous));
    constants.coefficients.push_back(static_cast<float>(place + 1));
    previous = place;
  }
  return lcnn::PackedWeights(shape, constants);
}

// Every other one of 200 entries: two parts of 100 rows, filter by filter in each.
void TestParts() {
  const int64_t filters = 24, rows = 200;
  const auto packed =
      PackPattern(filters, rows, [](int64_t o, int64_t j) { return (o + j) % 2 == 0; });
  CHECK(packed.cut() && packed.parts() == 2 && packed.part_row(1) == 100);
  CHECK(packed.list_filters() == 1 && packed.lookups() == filters * rows / 2);
  for (int64_t part = 0; part < 2; ++part) {
    for (int64_t o = 0; o < filters; ++o) {
      const int32_t begin = packed.entry_begin(part)[o];
      CHECK(packed.entry_begin(part)[o + 1] - begin == 50);
      for (int64_t i = 0; i < 50; ++i) {
        const auto e = static_cast<size_t>(begin + i);
        const int64_t row = part * 100 + 2 * i + o % 2;
        CHECK(packed.positions()[e] == static_cast<uint32_t>(row));
        CHECK(packed.coefficients()[e] == static_cast<float>(o * rows + row + 1));
      }
    }
  }
}

// Eleven filters in lists of four, the last of three; filter 5 lacks an entry of its list.
void TestSharedLists() {
  const auto packed = PackPattern(
      11, 30, [](int64_t o, int64_t j) { return (j + o / 4) % 3 == 0 && (o != 5 || j != 2); });
  CHECK(packed.list_filters() == 4 && packed.lists() == 3 && packed.parts() == 1);
  CHECK(packed.lookups() == 109 && packed.positions().size() == 30 && !packed.cut());
  for (int64_t l = 0; l < 3; ++l) {
    CHECK(packed.entry_begin(0)[l] == 10 * l);
    for (int64_t i = 0; i < 10; ++i) {
      const auto e = static_cast<size_t>(10 * l + i);
      const int64_t row = 3 * i + (3 - l) % 3;
      CHECK(packed.positions()[e] == static_cast<uint32_t>(row));
      for (int64_t f = 0; f < 4; ++f) {
        const int64_t o = 4 * l + f;
        const bool there = o < 11 && (o != 5 || row != 2);
        const float want = there ? static_cast<float>(o * 30 + row + 1) : 0;
        CHECK(packed.coefficients()[4 * e + static_cast<size_t>(f)] == want);
      }
    }
  }
  CHECK(packed.entry_begin(0)[3] == 30);
}

void TestIdentity() {
  Small small;
  small.dictionary = {1, 0, 0, 1, 1, 0, 0, 1};
  CHECK(small.Pack().identity() && small.Pack().panels_per_group() == 0);
  small.dictionary[6] = 0x1p-20f;
  CHECK(!small.Pack().identity());
}

void TestPanels() {
  const lcnn::PackedWeights packed = Small().Pack();
  CHECK(packed.panels_per_group() == 1);
  const float* const panel = packed.panel(1, 0, 0).floats();
  CHECK(panel[0] == 5 && panel[1] == 7 && panel[2] == 0);   // channel 0 of the group
  CHECK(panel[8] == 6 && panel[9] == 8 && panel[15] == 0);  // channel 1
  CHECK(reinterpret_cast<uintptr_t>(packed.panel(0, 0, 0).floats()) % lcnn::kCacheLine == 0);
}

// A large dictionary stays as narrow as it came, a small one does not.
void TestNarrowPanels() {
  const std::vector<float> bias(1, 0.0f);
  for (const int64_t channels : {512, 511}) {
    lcnn::LookupConvShape shape;
    shape.channels = channels;
    shape.out_channels = 1;
    shape.dictionary_size = 512;
    const std::vector<int8_t> bytes(static_cast<size_t>(512 * channels), -3);
    const std::vector<uint16_t> halves(bytes.size(), 0xc200);  // -3
    lcnn::LookupConvConstants constants;
    constants.bias = bias.data();
    constants.byte_dictionary = bytes.data();
    const lcnn::PackedWeights from_bytes(shape, constants);
    constants.byte_dictionary = nullptr;
    constants.half_dictionary = halves.data();
    const lcnn::PackedWeights from_halves(shape, constants);
    if (channels == 512) {
      CHECK(from_bytes.panel(0, 63, 5).bytes()[7] == -3);
      CHECK(from_halves.panel(0, 63, 5).halves()[7] == 0xc200);
    } else {
      CHECK(from_bytes.panel(0, 63, 5).floats()[7] == -3);
      CHECK(from_halves.panel(0, 63, 5).floats()[7] == -3);
    }
  }
}

template <class Change>
void CheckRefused(const Change& change, const std::string& fragment) {
  Small small;
  change(small);
  CHECK_THROWS(small.Pack(), fragment);
}

void TestRefused() {
  CheckRefused([](Small& s) { s.gaps[3] = 6; },
               "gaps lead to position 16 at entry 3, outside [0, 16); the model file is damaged");
  CheckRefused([](Small& s) { s.gaps[2] = 0; }, "gaps holds 0 at entry 2");
  CheckRefused([](Small& s) { s.gaps[2] = 0xffffffffu; }, "outside [0, 16)");
  CheckRefused([](Small& s) { s.coefficients.pop_back(); },
               "gaps has 4 entries and coefficients has 3");
  CheckRefused([](Small& s) { s.coefficients[2] = kNan; }, "coefficients holds nan at 2");
  CheckRefused([](Small& s) { s.dictionary[5] = std::numeric_limits<float>::infinity(); },
               "dictionary holds inf at 5");
  CheckRefused([](Small& s) { s.bias[1] = kNan; }, "bias holds nan at 1");
  CheckRefused([](Small& s) { s.shape.out_channels = 3; },
               "out_channels is 3, not a multiple of group 2");
  CheckRefused([](Small& s) { s.shape.channels = 5; }, "channels is 5, not a multiple of group 2");
  CheckRefused([](Small& s) { s.shape.channels = 0; }, "channels is 0, outside [1,");
  CheckRefused([](Small& s) { s.shape.group = 0; }, "group is 0, outside [1,");
  CheckRefused([](Small& s) { s.shape.height.stride = 0; }, "stride height is 0, outside [1,");
  CheckRefused([](Small& s) { s.shape.width.dilation = 0; }, "dilation width is 0, outside [1,");
  CheckRefused([](Small& s) { s.shape.width.pad_end = -1; },
               "padding after width is -1, outside [0,");
  CheckRefused([](Small& s) { s.shape.width.kernel = 0; }, "kernel width is 0, outside [1,");
  CheckRefused([](Small& s) { s.shape.height.kernel = s.shape.width.kernel = 1025; },
               "kernel of 1025 x 1025 elements exceeds the limit of 1048576");
  CheckRefused([](Small& s) { s.shape.clip_min = 7; }, "clip_min must not exceed clip_max");
  CheckRefused([](Small& s) { s.shape.clip_max = kNan; }, "clip_max is nan");
  CheckRefused([](Small& s) { s.shape.hard_swish = true; }, "hard_swish is set, but clip_min is");
  CheckRefused([](Small& s) { s.shape.dictionary_size = 0; }, "outside [0, 0)");
}

}  // namespace

int main() {
  TestEntries();
  TestParts();
  TestSharedLists();
  TestIdentity();
  TestPanels();
  TestNarrowPanels();
  TestRefused();
  return TestResult();
}
