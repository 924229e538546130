// Where S lies in scratch.
//
// S holds, for every dictionary entry and every stride phase, one "run" of `length` floats: the
// images of a group one after the other, each as rows of `pitch` floats with its zero border.
// Output pixel (n, y, x) has position n * image_pitch + y * pitch + x, and tap (r, c) of entry j
// reads run (j, phase) at that position plus a constant. So stage 2 sees one-dimensional data.
#ifndef LCNN_SRC_LOOKUP_CONV_LAYOUT_H_
#define LCNN_SRC_LOOKUP_CONV_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "base/geometry.h"
#include "base/plan_cache.h"
#include "lookup_conv/packed_weights.h"

namespace lcnn {

// An input, and what convolution and pooling make of its size.
struct Geometry {
  InputSize in;
  AxisLayout rows;
  AxisLayout columns;
  int64_t pooled_height;  // 0: the result is not pooled
  int64_t pooled_width;

  int64_t out_height() const { return rows.output; }
  int64_t out_width() const { return columns.output; }
  int64_t in_plane() const { return in.height * in.width; }
  int64_t out_plane() const { return rows.output * columns.output; }
  int64_t pooled_plane() const { return pooled_height * pooled_width; }
  int64_t phases() const {
    return static_cast<int64_t>(rows.phases.size() * columns.phases.size());
  }
};

// Throws std::invalid_argument when the batch is not positive or the input too small.
Geometry Measure(const LookupConvShape& shape, const InputSize& in);

// What one tap adds to an output position, in the runs of which phase.
struct Tap {
  int64_t phase;
  int64_t shift;
};

// The taps of a window, row by row.
std::vector<Tap> Taps(const Geometry& geometry, int64_t pitch);

// What a tile reads of S may be copied, so that every load of a lookup is aligned and meets the
// first-level cache. A piece begins `shift` floats past the tile's first position in a run of
// `phase`, and is `vectors` longer than the tile; it serves all taps that read the same run at
// whole vectors from each other.
struct CopiedPiece {
  int64_t phase;
  int64_t shift;
  int64_t vectors;
};

// The copy of one dictionary row for a tile of stage 2.
struct RowCopy {
  std::vector<CopiedPiece> pieces;
  std::vector<int64_t> tap_offsets;  // where in the copy the tile of each tap begins
  int64_t floats = 0;
};

// For tiles of up to `tile_vectors` vectors of `lanes`.
RowCopy CopyOf(const std::vector<Tap>& taps, int64_t lanes, int64_t tile_vectors);

struct Runs {
  int64_t pitch;
  int64_t image_pitch;
  int64_t length;  // a multiple of kMaxLanes
  int64_t phases;
  int64_t images;  // in scratch together
  int64_t count;   // runs

  int64_t floats() const { return count * length; }
};

// The pitch of S in rows of whose copies stage 2 reads, in tiles of up to `tile_vectors`.
int64_t PitchForCopies(const PackedWeights& weights, const Geometry& geometry, int64_t lanes,
                       int64_t tile_vectors);

// `lanes` is that of the longest vectors of either stage. Throws std::invalid_argument when a size
// exceeds what 32 bits address.
Runs LayOutRuns(const LookupConvShape& shape, const Geometry& geometry, int64_t pitch,
                int64_t lanes);

// In place of a pixel: the position is in the border.
constexpr int64_t kBorder = -1;

// Pixel of X at a position of a phase, counted from the first of so many images that are in scratch
// together, or kBorder.
int64_t InputPixel(const Geometry& geometry, const Runs& runs, int64_t channels, int64_t images,
                   int64_t phase, int64_t position);

// Likewise, pixel of the convolution's result.
int64_t OutputPixel(const Geometry& geometry, const Runs& runs, int64_t out_channels,
                    int64_t images, int64_t position);

}  // namespace lcnn

#endif  // LCNN_SRC_LOOKUP_CONV_LAYOUT_H_
