// The weights of one convolution in the order in which kernels read them; independent of input
// size.
#ifndef LCNN_SRC_BYTE_CONV_PACKED_DOTS_H_
#define LCNN_SRC_BYTE_CONV_PACKED_DOTS_H_

#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/u8_dot.h"
#include "lcnn/types.h"

namespace lcnn {

// W (filters, kernel height, kernel width, depth) reads pixels of group * depth bytes.
struct DotWeights {
  const int8_t* values;
  int64_t filters;
  int64_t group;
  int64_t depth;
  Axis height;
  Axis width;
};

// One value for each filter.
struct FilterValues {
  std::vector<int32_t> start;
  std::vector<float> scale;
  std::vector<float> bias;
};

// Up to 64 filters of one group that are computed together: they share spans.
struct DotPart {
  int64_t first;  // filter
  int64_t filters;
  int64_t blocks;
  size_t spans;  // where its own begin
  int64_t n_spans;
  int64_t quads;
  size_t weights;
  size_t values;
};

class PackedDots {
 public:
  // Zero weights of all filters of a part are left out, chunk by chunk.
  PackedDots(const DotWeights& weights, const FilterValues& values, const DotKernels& kernels);

  const std::vector<DotPart>& parts() const { return parts_; }
  // What does not depend on the input; the other members are null or 0.
  DotTask Task(const DotPart& part) const;
  // Time of a pixel in that of a product of a quad and a block by vector kernels.
  double cost() const { return cost_; }
  // Multiply-adds for one pixel.
  int64_t macs() const { return static_cast<int64_t>(weights_.size()); }
  // Bytes behind the last one of a window that are read and not used.
  int64_t bytes_beyond() const { return bytes_beyond_; }

 private:
  std::vector<DotPart> parts_;
  std::vector<DotSpan> spans_;
  AlignedBuffer<int8_t> weights_;
  AlignedBuffer<int32_t> start_;
  AlignedBuffer<float> scale_;
  AlignedBuffer<float> bias_;
  int64_t chunk_;
  double cost_;
  int64_t bytes_beyond_;
  bool pairs_fit_;
};

}  // namespace lcnn

#endif  // LCNN_SRC_BYTE_CONV_PACKED_DOTS_H_
