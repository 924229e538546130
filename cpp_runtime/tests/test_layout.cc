// Where S and its copies lie, worked out by hand: the plane of README.md, 4 wide and 3 high.
#include "check.h"
#include "lookup_conv/layout.h"
#include "lookup_conv/tiles.h"

namespace {

lcnn::LookupConvShape Shape() {
  lcnn::LookupConvShape shape;
  shape.channels = 2;
  shape.out_channels = 40;
  shape.dictionary_size = 3;
  shape.height = shape.width = {3, 1, 1, 1, 1};
  return shape;
}

void TestRuns() {
  const lcnn::Geometry geometry = lcnn::Measure(Shape(), {2, 3, 4});
  const lcnn::Runs runs = lcnn::LayOutRuns(Shape(), geometry, 5, 4);
  // 4 rows of 5 with the zeros that rows share; the last tap adds 12 to a position.
  CHECK(runs.image_pitch == 20 && runs.phases == 1 && runs.count == 3 && runs.images == 2);
  CHECK(runs.length == 80 && runs.floats() == 240);  // 40 + 12, and then an odd number of lines
  // Padded coordinates: pixel (0, 0) has position 6. An image of X has 2 channels of 12.
  CHECK(lcnn::InputPixel(geometry, runs, 2, 2, 0, 5) == lcnn::kBorder);
  CHECK(lcnn::InputPixel(geometry, runs, 2, 2, 0, 6) == 0);
  CHECK(lcnn::InputPixel(geometry, runs, 2, 2, 0, 26) == 24);
  CHECK(lcnn::InputPixel(geometry, runs, 2, 1, 0, 26) == lcnn::kBorder);
  CHECK(lcnn::OutputPixel(geometry, runs, 40, 2, 3) == 3);
  CHECK(lcnn::OutputPixel(geometry, runs, 40, 2, 4) == lcnn::kBorder);
  CHECK(lcnn::OutputPixel(geometry, runs, 40, 2, 25) == 40 * 12 + 4);
}

void TestCopies() {
  const lcnn::Geometry geometry = lcnn::Measure(Shape(), {1, 3, 4});
  const std::vector<lcnn::Tap> taps = lcnn::Taps(geometry, 5);
  CHECK(taps.size() == 9 && taps[5].shift == 7 && taps[8].shift == 12);
  // Tiles of 2 vectors of 4. Shifts 0 and 12 are three vectors apart, so they have a piece each;
  // those of 1, 5; of 2, 6, 10; of 7, 11 share one.
  const lcnn::RowCopy copy = lcnn::CopyOf(taps, 4, 2);
  CHECK(copy.pieces.size() == 5 && copy.floats == 8 + 8 + 12 + 16 + 12);
  CHECK(copy.pieces[1].shift == 12 && copy.pieces[1].vectors == 0);
  CHECK(copy.pieces[3].shift == 2 && copy.pieces[3].vectors == 2);
  CHECK((copy.tap_offsets == std::vector<int64_t>{0, 16, 28, 20, 32, 44, 36, 48, 8}));
}

void TestBands() {
  lcnn::LookupConvShape shape = Shape();
  shape.pool_height = shape.pool_width = {3, 2, 1, 1, 1};
  // 40 filters in two blocks of 32: of 20 rows of windows 10 make the other half of four units.
  // Those cover 21 rows of 40 pixels; 32 * 21 * 40 floats fit.
  const lcnn::BandSize all = lcnn::ChooseBands(shape, lcnn::Measure(shape, {1, 40, 40}), false);
  CHECK(all.filters == 32 && all.window_rows == 10);
  // 96 * 1024 floats hold 3 rows of 1000 pixels of 32 filters, but not 5.
  const lcnn::BandSize wide = lcnn::ChooseBands(shape, lcnn::Measure(shape, {1, 40, 1000}), false);
  CHECK(wide.filters == 32 && wide.window_rows == 1);
  const lcnn::BandSize none = lcnn::ChooseBands(shape, lcnn::Measure(shape, {1, 40, 1100}), false);
  CHECK(none.window_rows == 0);
}

}  // namespace

int main() {
  TestRuns();
  TestCopies();
  TestBands();
  return TestResult();
}
