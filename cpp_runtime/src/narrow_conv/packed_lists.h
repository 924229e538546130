// The weights of one convolution as lists of the quads that are not zero.
#ifndef LCNN_SRC_NARROW_CONV_PACKED_LISTS_H_
#define LCNN_SRC_NARROW_CONV_PACKED_LISTS_H_

#include <optional>
#include <vector>

#include "kernels/u8_list.h"
#include "narrow_conv/packed_dots.h"

namespace lcnn {

// Some filters with lists, computed together.
struct ListPart {
  int64_t first;  // filter
  int64_t filters;
  size_t entries;  // where its own begin
};

class PackedLists {
 public:
  PackedLists(const DotWeights& weights, const FilterValues& values, const ListKernels& kernels,
              int64_t share);

  const std::vector<ListPart>& parts() const { return parts_; }
  const ListKernels& kernels() const { return kernels_; }
  // What does not depend on the input; the other members are null or 0.
  ListTask Task(const ListPart& part) const;
  // Multiply-adds for one position.
  int64_t macs() const { return static_cast<int64_t>(weights_.size()) * kQuad; }
  int64_t quads() const { return quads_; }  // planes of X

 private:
  const ListKernels& kernels_;
  int64_t share_;
  int64_t quads_;
  bool pairs_fit_;
  std::vector<ListPart> parts_;
  std::vector<ListEntry> entries_;
  std::vector<int32_t> weights_;
  std::vector<int64_t> counts_;
  std::vector<int32_t> start_;
  std::vector<float> scale_;
  std::vector<float> bias_;
};

// Filters of a list with which lists take less time than PackedDots of `dot_cost`; none where they
// do not, or where they are not possible: with strides, groups, or a number of filters that does
// not make quads.
std::optional<int64_t> ListShare(const DotWeights& weights, const ListKernels& kernels,
                                 double dot_cost);

}  // namespace lcnn

#endif  // LCNN_SRC_NARROW_CONV_PACKED_LISTS_H_
