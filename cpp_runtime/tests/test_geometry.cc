// Layouts worked out by hand.
#include "base/geometry.h"
#include "check.h"

namespace {

void TestBordersAreShared() {
  // 7 pixels, kernel 3, padding 1: the zero after a row is the zero before the next, so 8 per row
  // and not 9.
  const lcnn::AxisLayout axis = lcnn::LayOutAxis({3, 1, 1, 1, 1}, 7, "width");
  CHECK(axis.output == 7 && axis.pitch == 8 && axis.max_shift == 2);
  CHECK(axis.phases.size() == 1 && axis.phases[0].begin == 1 && axis.phases[0].end == 8);
}

void TestNoPadding() {
  const lcnn::AxisLayout axis = lcnn::LayOutAxis({3, 1, 1, 0, 0}, 7, "width");
  CHECK(axis.output == 5 && axis.pitch == 7);
}

void TestStrideMakesPhases() {
  // Padded index 0 1 2 ... with pixel 0 at 3: even indices are phase 0 (pixels 1, 3, ...), odd ones
  // phase 1 (0, 2, ...).
  const lcnn::AxisLayout axis = lcnn::LayOutAxis({7, 2, 1, 3, 3}, 8, "width");
  CHECK(axis.output == 4 && axis.phases.size() == 2 && axis.max_shift == 3);
  CHECK(axis.phases[0].begin == 2 && axis.phases[0].end == 6);
  CHECK(axis.phases[1].begin == 1 && axis.phases[1].end == 5);
  CHECK(axis.InputIndex(axis.phases[0], 2) == 1 && axis.InputIndex(axis.phases[1], 1) == 0);
  CHECK(axis.pitch == 6);
}

void TestUnusedPhasesAreLeftOut() {
  CHECK(lcnn::LayOutAxis({1, 2, 1, 0, 0}, 9, "width").phases.size() == 1);
  CHECK(lcnn::LayOutAxis({3, 2, 2, 2, 2}, 9, "width").phases.size() == 1);
  CHECK(lcnn::LayOutAxis({2, 5, 1, 0, 0}, 12, "width").phases.size() == 2);
}

void TestPhasesOfTaps() {
  // Padded index 0, 2, 4, 6, 8 is remainder 0, 2, 1, 0, 2 of 3.
  const lcnn::AxisLayout axis = lcnn::LayOutAxis({5, 3, 2, 0, 0}, 9, "width");
  CHECK(axis.phases.size() == 3 && axis.phases[1].remainder == 2 && axis.phases[2].remainder == 1);
  CHECK((axis.tap_phase == std::vector<int64_t>{0, 1, 2, 0, 1}));
  CHECK((axis.tap_shift == std::vector<int64_t>{0, 0, 1, 2, 2}));
  // As many phases as taps.
  CHECK(lcnn::LayOutAxis({65535, 65536, 1, 0, 0}, 65535, "width").phases.size() == 65535);
}

void TestTooSmall() {
  CHECK(lcnn::OutputExtent({3, 1, 1, 0, 0}, 3, "height") == 1);
  CHECK_THROWS(lcnn::OutputExtent({3, 1, 2, 1, 0}, 3, "height"),
               "input height is 3, with padding 4, smaller than the dilated kernel of 5");
}

void TestCheckedMul() {
  CHECK(lcnn::CheckedMul(0, 5, 4, "x") == 0 && lcnn::CheckedMul(2, 2, 4, "x") == 4);
  CHECK_THROWS(lcnn::CheckedMul(3, 2, 5, "plane"), "plane of 3 x 2 elements");
  CHECK_THROWS(lcnn::CheckedMul(int64_t{1} << 62, 4, INT64_MAX, "plane"), "exceeds the limit");
}

}  // namespace

int main() {
  TestBordersAreShared();
  TestNoPadding();
  TestStrideMakesPhases();
  TestUnusedPhasesAreLeftOut();
  TestPhasesOfTaps();
  TestTooSmall();
  TestCheckedMul();
  return TestResult();
}
