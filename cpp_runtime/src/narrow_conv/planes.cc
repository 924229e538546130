#include "narrow_conv/planes.h"

#include <algorithm>
#include <cstring>

#include "base/geometry.h"
#include "base/run_units.h"

namespace lcnn {
namespace {

// Bytes that are copied faster than threads are woken.
constexpr int64_t kThreadBytes = 512 * 1024;
constexpr int64_t kUnitRows = 8;

struct PadJob {
  PaddedPlanes planes;
  uint8_t value;
  const uint8_t* from;
  uint8_t* to;
};

void Set(uint8_t* to, uint8_t value, int64_t bytes) {
  if (bytes > 0) std::memset(to, value, static_cast<size_t>(bytes));
}

void PadRow(const PadJob& job, int64_t row) {
  const PaddedPlanes& planes = job.planes;
  const int64_t image = row / planes.rows, y = row % planes.rows - planes.top;
  uint8_t* const to = job.to + image * planes.image_bytes + row % planes.rows * planes.row_bytes();
  if (row % planes.rows == planes.rows - 1) {
    Set(to + planes.row_bytes(), job.value, planes.image_bytes - planes.rows * planes.row_bytes());
  }
  if (y < 0 || y >= planes.inside.height) {
    Set(to, job.value, planes.row_bytes());
    return;
  }
  const int64_t before = planes.left * planes.pixel;
  const int64_t bytes = planes.inside.width * planes.pixel;
  Set(to, job.value, before);
  if (job.from != nullptr && bytes > 0) {
    std::memcpy(to + before, job.from + (image * planes.inside.height + y) * bytes,
                static_cast<size_t>(bytes));
  }
  Set(to + before + bytes, job.value, planes.row_bytes() - before - bytes);
}

void PadUnit(const PadJob& job, size_t unit) {
  const int64_t begin = static_cast<int64_t>(unit) * kUnitRows;
  const int64_t rows = job.planes.inside.images * job.planes.rows;
  for (int64_t row = begin; row < std::min(rows, begin + kUnitRows); ++row) PadRow(job, row);
}

}  // namespace

void FillOffsets(const Grid& grid, const Places& places, int64_t begin, int64_t count,
                 int64_t* offsets) {
  int64_t x = begin % grid.width;
  int64_t y = begin / grid.width % grid.height;
  int64_t image = begin / grid.width / grid.height;
  while (count > 0) {
    const int64_t here = std::min(count, grid.width - x);
    const int64_t row = places.first + image * places.image + y * places.row;
    int64_t place = row + x * places.pixel;
    for (int64_t i = 0; i < here; ++i, place += places.pixel) *offsets++ = place;
    count -= here;
    x = 0;
    if (++y == grid.height) {
      y = 0;
      ++image;
    }
  }
}

void Pad(const PaddedPlanes& planes, uint8_t value, const uint8_t* from, uint8_t* to,
         const ParallelFor& parallel_for) {
  const int64_t rows = planes.inside.images * planes.rows;
  const bool worth = from != nullptr && rows * planes.row_bytes() >= kThreadBytes;
  RunUnits<PadJob>(parallel_for, worth, static_cast<size_t>(CeilDiv(rows, kUnitRows)), PadUnit,
                   {planes, value, from, to});
}

}  // namespace lcnn
