// The constants of a layer, checked and in the order the kernels read them. Independent of input
// size and instruction set.
#ifndef LCNN_SRC_LOOKUP_CONV_PACKED_WEIGHTS_H_
#define LCNN_SRC_LOOKUP_CONV_PACKED_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "base/aligned_buffer.h"
#include "kernels/f32_lookup.h"
#include "kernels/f32_project.h"
#include "lcnn/lookup_conv.h"

namespace lcnn {

// Dictionary rows x taps of a part. Copied for a tile they are 32 to 96 KB, the less the more
// taps share a piece; the first-level cache holds 32 or 48.
constexpr int64_t kMaxCopiedPlaces = 192;

class PackedWeights {
 public:
  // Throws std::invalid_argument when shape or constants break a rule of the operator.
  PackedWeights(const LookupConvShape& shape, const LookupConvConstants& constants);

  const LookupConvShape& shape() const { return shape_; }
  int64_t channels_per_group() const { return shape_.channels / shape_.group; }
  // The dictionary of every group is the identity: S is X, nothing is multiplied, there are no
  // panels.
  bool identity() const { return identity_; }
  int64_t panels_per_group() const { return panels_per_group_; }
  // Panel `p` of a group, as described at kPanelRows in kernels/f32_project.h, from channel
  // `channel` on. Large dictionaries stay as narrow as they came, the others are float32.
  PanelValues panel(int64_t group, int64_t p, int64_t channel) const;
  const float* bias() const { return bias_.data(); }

  // Dense lists are cut into parts of so few dictionary rows that what a tile of stage 2 reads of S
  // can be copied to the first-level cache: part p has rows [part_row(p), part_row(p + 1)). Other
  // lists have one part.
  bool cut() const { return cut_; }
  int64_t parts() const { return parts_; }
  int64_t part_row(int64_t part) const { return part * shape_.dictionary_size / parts_; }

  // Where neighbouring filters have nearly the same entries, list_filters() of them share a list,
  // with a coefficient for each: 0 where a filter lacks the entry. Otherwise that is 1.
  int64_t list_filters() const { return list_filters_; }
  const LookupKernel& KernelOf(const LookupKernels& kernels) const;
  int64_t lists() const { return (shape_.out_channels + list_filters_ - 1) / list_filters_; }

  // Lookups with a coefficient other than 0, before lists were shared.
  int64_t lookups() const { return lookups_; }
  // Entries part by part, in it list by list: those of list l are
  // [entry_begin(p)[l], entry_begin(p)[l + 1]).
  const int32_t* entry_begin(int64_t part) const { return entry_begin_.data() + part * lists(); }
  // Of entry e: [e * list_filters(), (e + 1) * list_filters()).
  const std::vector<float>& coefficients() const { return coefficients_; }
  // j * kH * kW + r * kW + c of each entry.
  const std::vector<uint32_t>& positions() const { return positions_; }

 private:
  template <class T>
  AlignedBuffer<T> PackDictionary(const T* dictionary, size_t panel_size) const;
  void PackEntries(const LookupConvConstants& constants);
  struct Entry {
    int64_t filter;
    uint32_t position;
    float coefficient;
  };
  void ChooseListFilters(const std::vector<Entry>& entries);
  void ChooseParts();
  int64_t PartOf(int64_t row) const;
  void StoreLists(std::vector<Entry> entries);

  LookupConvShape shape_;
  int64_t panels_per_group_;
  AlignedBuffer<float> panels_;
  AlignedBuffer<uint16_t> half_panels_;
  AlignedBuffer<int8_t> byte_panels_;
  bool identity_ = false;
  std::vector<float> bias_;
  int64_t list_filters_ = 1;
  int64_t lookups_ = 0;
  bool cut_ = false;
  int64_t parts_ = 1;
  std::vector<int32_t> entry_begin_;
  std::vector<float> coefficients_;
  std::vector<uint32_t> positions_;
};

}  // namespace lcnn

#endif  // LCNN_SRC_LOOKUP_CONV_PACKED_WEIGHTS_H_
