// Where bytes of pixels lie, and planes with a border.
#ifndef LCNN_SRC_BYTE_CONV_PLANES_H_
#define LCNN_SRC_BYTE_CONV_PLANES_H_

#include <cstdint>

#include "lcnn/types.h"

namespace lcnn {

// Pixels of some images, in order.
struct Grid {
  int64_t images;
  int64_t height;
  int64_t width;

  int64_t pixels() const { return images * height * width; }
};

// Where the pixels of a grid lie in a buffer.
struct Places {
  int64_t first;
  int64_t image;  // from one image to the next, and so on
  int64_t row;
  int64_t pixel;
};

// The places of `count` pixels from `begin` on.
void FillOffsets(const Grid& grid, const Places& places, int64_t begin, int64_t count,
                 int64_t* offsets);

// Images with a border. Rows and columns are those with the border; of columns, those that are
// right of the pixels may be left of the next row's as well. What is behind the last row of an
// image is border too.
struct PaddedPlanes {
  Grid inside;
  int64_t top;
  int64_t left;
  int64_t rows;
  int64_t columns;
  int64_t pixel;        // bytes
  int64_t image_bytes;  // from one image to the next

  int64_t row_bytes() const { return columns * pixel; }
  // Where the pixels within the border lie.
  Places Inside() const {
    return {top * row_bytes() + left * pixel, image_bytes, row_bytes(), pixel};
  }
};

// Sets the border of `planes` at `to` to `value` and, unless it is null, copies the dense images
// `from` into it.
void Pad(const PaddedPlanes& planes, uint8_t value, const uint8_t* from, uint8_t* to,
         const ParallelFor& parallel_for);

}  // namespace lcnn

#endif  // LCNN_SRC_BYTE_CONV_PLANES_H_
