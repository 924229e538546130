#include "lookup_conv/packed_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/geometry.h"
#include "lcnn/max_pool.h"

namespace lcnn {
namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr float kMaxFloat = std::numeric_limits<float>::max();
// A dictionary that large is read from memory, where half the bytes take half the time; widening it
// costs more than that in a smaller one.
constexpr size_t kMinNarrow = 1 << 18;
// Copying pays where a copied vector is read by so many filters, and starting on a part where a
// filter has so many entries in it.
constexpr int64_t kMinReaders = 12;
constexpr int64_t kMinPartEntries = 10;
constexpr int64_t kManyTaps = 32;
// Time of a multiply-add of a shared list relative to one of a filter's own list.
constexpr double kSharedCost[kSharedKernels] = {0.86, 0.66, 0.6};
// Of one filter; only damaged or made-up files have more.
constexpr int64_t kMaxSharedPlaces = 1 << 24;

[[noreturn]] void Fail(const std::string& message) { throw std::invalid_argument(message); }

LookupConvShape Checked(const LookupConvShape& shape) {
  CheckAxis(shape.height, "height");
  CheckAxis(shape.width, "width");
  CheckedMul(shape.height.kernel, shape.width.kernel, kMaxTaps, "kernel");
  RequireRange("group", shape.group, 1, kMaxExtent);
  RequireRange("channels", shape.channels, 1, kMaxExtent);
  RequireRange("out_channels", shape.out_channels, 0, kMaxExtent);
  RequireRange("dictionary_size", shape.dictionary_size, 0, kMaxExtent);
  RequireMultiple("channels", shape.channels, shape.group);
  RequireMultiple("out_channels", shape.out_channels, shape.group);
  if (shape.pools()) CheckMaxPool({shape.pool_height, shape.pool_width}, "pool ");
  if (!(shape.clip_min <= shape.clip_max)) {
    Fail("clip_min is " + std::to_string(shape.clip_min) + " and clip_max is " +
         std::to_string(shape.clip_max) + "; clip_min must not exceed clip_max");
  }
  if (shape.hard_swish && (shape.clip_min > -kMaxFloat || shape.clip_max < kMaxFloat)) {
    Fail("hard_swish is set, but clip_min is " + std::to_string(shape.clip_min) +
         " and clip_max is " + std::to_string(shape.clip_max) +
         "; only one activation is possible: leave them at the lowest and the largest float");
  }
  return shape;
}

void RequireFinite(const std::string& name, const float* values, size_t count) {
  const float* end = values + count;
  const float* found = std::find_if(values, end, [](float v) { return !std::isfinite(v); });
  if (found != end) {
    Fail(name + " holds " + std::to_string(*found) + " at " + std::to_string(found - values) +
         "; values must be finite; the model file is damaged or was edited");
  }
}

bool IsIdentity(const LookupConvShape& shape, const float* dictionary) {
  const int64_t size = shape.dictionary_size;
  if (size == 0 || size != shape.channels / shape.group) return false;
  for (int64_t i = 0; i < shape.group * size * size; ++i) {
    const float want = i / size % size == i % size ? 1.0f : 0.0f;
    if (dictionary[i] != want) return false;
  }
  return true;
}

size_t PanelSize(const LookupConvShape& shape) {
  const int64_t rows =
      CheckedMul(shape.group, RoundUp(shape.dictionary_size, kPanelRows), kMaxInt32, "dictionary");
  return static_cast<size_t>(CheckedMul(
      rows, shape.channels / shape.group,
      std::numeric_limits<int64_t>::max() / static_cast<int64_t>(2 * sizeof(float)), "dictionary"));
}

}  // namespace

PackedWeights::PackedWeights(const LookupConvShape& shape, const LookupConvConstants& constants)
    : shape_(Checked(shape)),
      panels_per_group_(CeilDiv(shape.dictionary_size, kPanelRows)),
      panels_(0),
      half_panels_(0),
      byte_panels_(0) {
  const size_t panel_size = PanelSize(shape_);
  const auto size =
      static_cast<size_t>(shape_.group * shape_.dictionary_size * channels_per_group());
  std::vector<float> widened;
  const float* dictionary = constants.dictionary;
  if (constants.half_dictionary != nullptr) {
    widened = Widened(constants.half_dictionary, size);
  } else if (constants.byte_dictionary != nullptr) {
    widened = Widened(constants.byte_dictionary, size);
  }
  if (dictionary == nullptr) dictionary = widened.data();
  RequireFinite("dictionary", dictionary, size);
  RequireFinite("bias", constants.bias, static_cast<size_t>(shape_.out_channels));
  RequireFinite("coefficients", constants.coefficients.data(), constants.coefficients.size());
  bias_.assign(constants.bias, constants.bias + shape_.out_channels);
  identity_ = IsIdentity(shape_, dictionary);
  if (identity_) {
    panels_per_group_ = 0;
  } else if (constants.half_dictionary != nullptr && size >= kMinNarrow) {
    half_panels_ = PackDictionary(constants.half_dictionary, panel_size);
  } else if (constants.byte_dictionary != nullptr && size >= kMinNarrow) {
    byte_panels_ = PackDictionary(constants.byte_dictionary, panel_size);
  } else {
    panels_ = PackDictionary(dictionary, panel_size);
  }
  PackEntries(constants);
}

PanelValues PackedWeights::panel(int64_t group, int64_t p, int64_t channel) const {
  const int64_t before =
      ((group * panels_per_group_ + p) * channels_per_group() + channel) * kPanelRows;
  if (half_panels_.size() > 0) return {PanelType::kFloat16, half_panels_.data() + before};
  if (byte_panels_.size() > 0) return {PanelType::kInt8, byte_panels_.data() + before};
  return {PanelType::kFloat32, panels_.data() + before};
}

template <class T>
AlignedBuffer<T> PackedWeights::PackDictionary(const T* dictionary, size_t panel_size) const {
  AlignedBuffer<T> buffer(panel_size);
  T* panels = buffer.data();
  const int64_t depth = channels_per_group();
  for (int64_t g = 0; g < shape_.group; ++g) {
    for (int64_t p = 0; p < panels_per_group_; ++p) {
      const int64_t first = p * kPanelRows;
      const int64_t rows = std::min<int64_t>(kPanelRows, shape_.dictionary_size - first);
      for (int64_t i = 0; i < depth; ++i, panels += kPanelRows) {
        for (int64_t row = 0; row < rows; ++row) {
          panels[row] = dictionary[(g * shape_.dictionary_size + first + row) * depth + i];
        }
      }
    }
  }
  return buffer;
}

void PackedWeights::PackEntries(const LookupConvConstants& constants) {
  const std::vector<uint32_t>& gaps = constants.gaps;
  if (gaps.size() != constants.coefficients.size()) {
    Fail("gaps has " + std::to_string(gaps.size()) + " entries and coefficients has " +
         std::to_string(constants.coefficients.size()) + "; they must be as many");
  }
  RequireRange("number of entries", static_cast<int64_t>(gaps.size()), 0, kMaxInt32);
  const int64_t taps = shape_.height.kernel * shape_.width.kernel;
  const int64_t per_filter = CheckedMul(taps, shape_.dictionary_size, 0xffffffffLL, "filter");
  const int64_t positions = per_filter * shape_.out_channels;
  std::vector<Entry> entries;
  int64_t position = 0;
  for (size_t e = 0; e < gaps.size(); ++e) {
    if (e > 0 && gaps[e] == 0) {
      Fail("gaps holds 0 at entry " + std::to_string(e) +
           "; only the first may be 0; the model file is damaged or was edited");
    }
    position += gaps[e];
    if (position >= positions) {
      Fail("gaps lead to position " + std::to_string(position) + " at entry " + std::to_string(e) +
           ", outside [0, " + std::to_string(positions) +
           "); the model file is damaged or was edited");
    }
    if (constants.coefficients[e] == 0) continue;
    const int64_t row = position % shape_.dictionary_size;
    const int64_t tap = position % per_filter / shape_.dictionary_size;
    entries.push_back({position / per_filter, static_cast<uint32_t>(row * taps + tap),
                       constants.coefficients[e]});
  }
  lookups_ = static_cast<int64_t>(entries.size());
  ChooseListFilters(entries);
  if (list_filters_ == 1) ChooseParts();
  StoreLists(std::move(entries));
}

// Chooses how many filters share a list, by the time all multiply-adds take.
void PackedWeights::ChooseListFilters(const std::vector<Entry>& entries) {
  const int64_t filters = shape_.out_channels / shape_.group;
  const int64_t places = shape_.height.kernel * shape_.width.kernel * shape_.dictionary_size;
  if (places > kMaxSharedPlaces) return;
  auto least = static_cast<double>(lookups_);
  for (int i = 0; i < kSharedKernels; ++i) {
    const int64_t shared = kSharedFilters[i];
    if (shape_.group > 1 && filters % shared != 0) break;
    std::vector<int64_t> last_list(static_cast<size_t>(places), -1);
    int64_t distinct = 0;
    for (const Entry& entry : entries) {  // filter by filter
      int64_t& last = last_list[entry.position];
      distinct += last != entry.filter / shared;
      last = entry.filter / shared;
    }
    const double time = kSharedCost[i] * static_cast<double>(shared * distinct);
    if (time >= least) continue;
    least = time;
    list_filters_ = shared;
  }
}

const LookupKernel& PackedWeights::KernelOf(const LookupKernels& kernels) const {
  const auto* const found =
      std::find(kSharedFilters, kSharedFilters + kSharedKernels, list_filters_);
  return list_filters_ == 1 ? kernels.own : kernels.shared[found - kSharedFilters];
}

void PackedWeights::ChooseParts() {
  const int64_t taps = shape_.height.kernel * shape_.width.kernel;
  const int64_t entries = lookups_;
  if (shape_.group > 1 || taps > kMaxCopiedPlaces || entries == 0) return;
  // Taps of large kernels share fewer copies.
  const int64_t rows = taps <= kManyTaps ? kMaxCopiedPlaces / taps : 1;
  const int64_t parts = CeilDiv(shape_.dictionary_size, rows);
  if (entries < kMinReaders * taps * shape_.dictionary_size) return;
  if (entries < kMinPartEntries * parts * shape_.out_channels) return;
  cut_ = true;
  parts_ = parts;
}

int64_t PackedWeights::PartOf(int64_t row) const {
  int64_t part = row * parts_ / shape_.dictionary_size;
  while (row >= part_row(part + 1)) ++part;
  return part;
}

// In a part entries are put list by list, those of a list by dictionary row: neighbours read the
// same part of S.
void PackedWeights::StoreLists(std::vector<Entry> entries) {
  const int64_t taps = shape_.height.kernel * shape_.width.kernel;
  const auto list_of = [&](const Entry& e) {
    return PartOf(e.position / taps) * lists() + e.filter / list_filters_;
  };
  std::sort(entries.begin(), entries.end(), [&](const Entry& a, const Entry& b) {
    return std::make_pair(list_of(a), a.position) < std::make_pair(list_of(b), b.position);
  });
  entry_begin_.assign(static_cast<size_t>(parts_ * lists()) + 1, 0);
  int64_t last_list = -1;
  for (const Entry& entry : entries) {
    const int64_t list = list_of(entry);
    if (list != last_list || positions_.back() != entry.position) {
      coefficients_.resize(coefficients_.size() + static_cast<size_t>(list_filters_));
      positions_.push_back(entry.position);
      ++entry_begin_[static_cast<size_t>(list) + 1];
      last_list = list;
    }
    const int64_t place = entry.filter % list_filters_ - list_filters_;  // from the end
    *(coefficients_.end() + place) = entry.coefficient;
  }
  std::partial_sum(entry_begin_.begin(), entry_begin_.end(), entry_begin_.begin());
  coefficients_.shrink_to_fit();
  positions_.shrink_to_fit();
}

}  // namespace lcnn
