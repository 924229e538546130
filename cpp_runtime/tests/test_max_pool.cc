// Max pooling with every row of kernels, against plain loops.
#include <algorithm>

#include "base/dispatch.h"
#include "check.h"
#include "fixtures.h"
#include "lcnn/max_pool.h"
#include "max_pool/pool_rows.h"

namespace {

struct Case {
  int64_t planes, height, width;
  lcnn::Axis rows, columns;  // kernel, stride, dilation, padding before and after
};

float Largest(const Case& c, const float* x, int64_t out_row, int64_t out_column) {
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t r = 0; r < c.rows.kernel; ++r) {
    for (int64_t i = 0; i < c.columns.kernel; ++i) {
      const int64_t row = out_row * c.rows.stride + r - c.rows.pad_begin;
      const int64_t column = out_column * c.columns.stride + i - c.columns.pad_begin;
      if (row < 0 || row >= c.height || column < 0 || column >= c.width) continue;
      most = std::max(most, x[row * c.width + column]);
    }
  }
  return most;
}

using Row = lcnn::KernelRow<lcnn::PoolKernels>;

void RunCase(const Case& c, const Row& row, int threads) {
  const int64_t height = lcnn::OutputExtent(c.rows, c.height, "height");
  const int64_t width = lcnn::OutputExtent(c.columns, c.width, "width");
  std::mt19937 random(static_cast<uint32_t>(c.width));
  Guarded x(static_cast<size_t>(c.planes * c.height * c.width), 3);
  Guarded y(static_cast<size_t>(c.planes * height * width), 5);
  Fill(&x, &random);
  Threads pool(threads);
  const lcnn::MaxPoolShape shape = {c.rows, c.columns};
  lcnn::CheckMaxPool(shape);
  lcnn::PoolPlanes(shape, *row.kernels, {c.planes, c.height, c.width, x.data(), y.data()},
                   pool.Loop());
  size_t wrong = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const auto pixel = static_cast<int64_t>(i) % (height * width);
    const float* const plane =
        x.data() + static_cast<int64_t>(i) / (height * width) * c.height * c.width;
    wrong += y[i] != Largest(c, plane, pixel / width, pixel % width);
  }
  CHECK_TEXT(wrong == 0 && y.WallsIntact(), std::to_string(wrong) + " wrong outputs of " +
                                                std::to_string(y.size()) + ", width " +
                                                std::to_string(c.width) + ", " + row.suffix);
}

void TestCases(const Row& row) {
  const lcnn::Axis stem = {3, 2, 1, 1, 1}, halves = {2, 2, 1, 0, 0};
  for (int64_t size = 1; size <= 40; ++size) {
    RunCase({2, size, size, stem, stem}, row, 1);
    RunCase({1, 3, size, {3, 1, 1, 1, 1}, {3, 1, 1, 2, 1}}, row, 1);
    if (size > 1) RunCase({3, size, size, halves, halves}, row, 1);
    if (size > 4) RunCase({1, size, 7, {5, 3, 1, 2, 4}, {4, 3, 1, 0, 3}}, row, 1);
  }
  // Rows longer than the buffer of columns, for each way to step.
  for (const int64_t stride : {1, 2, 3, 7}) {
    RunCase({1, 2, 2600, {2, 1, 1, 0, 1}, {3, stride, 1, 1, 2}}, row, 1);
  }
  RunCase({1, 1, 300, {1, 1, 1, 0, 0}, {256, 1, 1, 255, 255}}, row, 1);
  RunCase({1, 2, 5, {1, 5, 1, 0, 0}, {1, 2147483647, 1, 0, 0}}, row, 1);
  RunCase({11, 160, 161, stem, stem}, row, 3);  // enough for threads
}

template <class Change>
void CheckRefused(const Change& change, const char* fragment) {
  lcnn::MaxPoolShape shape = {{3, 2, 1, 1, 1}, {3, 2, 1, 1, 1}};
  change(shape);
  CHECK_THROWS(lcnn::CheckMaxPool(shape), fragment);
}

void TestRefused() {
  CheckRefused([](auto& s) { s.height.kernel = 257; }, "kernel height is 257, outside [1, 256]");
  CheckRefused([](auto& s) { s.width.stride = 0; }, "stride width is 0, outside [1,");
  CheckRefused([](auto& s) { s.width.dilation = 2; }, "dilation width is 2, outside [1, 1]");
  CheckRefused([](auto& s) { s.height.pad_end = 3; }, "padding after height is 3, outside [0, 2]");
  CheckRefused([](auto& s) { s.height.pad_begin = -1; }, "padding before height is -1, outside");
  const lcnn::MaxPoolShape shape = {{3, 2, 1, 1, 1}, {3, 2, 1, 1, 1}};
  CHECK_THROWS(lcnn::MaxPool(shape, lcnn::Isa::kScalar, 1, 0, 5, nullptr, nullptr, {}),
               "input height is 0, outside [1,");
}

void TestPublic(lcnn::Isa isa) {
  const float x[] = {1, 5, 2, 4, 3};
  float y[] = {0, 0, 0};
  const lcnn::MaxPoolShape shape = {{1, 1, 1, 0, 0}, {3, 2, 1, 1, 1}};
  lcnn::MaxPool(shape, isa, 1, 1, 5, x, y, {});
  CHECK(y[0] == 5 && y[1] == 5 && y[2] == 4);
}

}  // namespace

int main() {
  for (const Row& row : RowsToTest("pool", lcnn::PoolRows())) TestCases(row);
  for (const lcnn::Isa isa : IsasToTest()) TestPublic(isa);
  TestRefused();
  return TestResult();
}
