#include "narrow_conv/packed_lists.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/geometry.h"

namespace lcnn {
namespace {

// Results of so many filters at the positions of a tile stay in the second-level cache.
constexpr int64_t kListPartFilters = 64;
constexpr int64_t kMaxListTaps = 256;
constexpr int64_t kMaxQuads = 65536;

// The weights of a quad at a tap; zeros behind the last entry.
int32_t QuadAt(const DotWeights& w, int64_t filter, int64_t tap, int64_t quad) {
  const int64_t taps = w.height.kernel * w.width.kernel;
  int8_t values[kQuad] = {};
  const int64_t begin = quad * kQuad;
  std::copy_n(w.values + (filter * taps + tap) * w.depth + begin, std::min(kQuad, w.depth - begin),
              values);
  int32_t packed;
  std::memcpy(&packed, values, sizeof(packed));
  return packed;
}

// Calls visit(tap, quad, weights of each filter) for the entries of a group's list.
template <class Visit>
void ForEntries(const DotWeights& w, int64_t share, int64_t first, const Visit& visit) {
  for (int64_t tap = 0; tap < w.height.kernel * w.width.kernel; ++tap) {
    for (int64_t quad = 0; quad < CeilDiv(w.depth, kQuad); ++quad) {
      std::array<int32_t, 1 << (kListShares - 1)> weights = {};
      bool any = false;
      for (int64_t f = 0; f < share; ++f) {
        weights[static_cast<size_t>(f)] = QuadAt(w, first + f, tap, quad);
        any = any || weights[static_cast<size_t>(f)] != 0;
      }
      if (any) visit(tap, quad, weights);
    }
  }
}

}  // namespace

std::optional<int64_t> ListShare(const DotWeights& w, const ListKernels& kernels, double dot_cost) {
  const int64_t taps = w.height.kernel * w.width.kernel;
  if (w.group != 1 || w.height.stride != 1 || w.width.stride != 1 || w.filters == 0 ||
      w.filters % kQuad != 0 || taps > kMaxListTaps || CeilDiv(w.depth, kQuad) > kMaxQuads) {
    return std::nullopt;
  }
  std::optional<int64_t> best;
  // In products of 16 filters with a quad, as PackedDots count.
  double best_cost = dot_cost;
  for (int s = 0; s < kListShares; ++s) {
    if (kernels.cost[s] == 0) continue;
    const int64_t share = int64_t{1} << s;
    int64_t products = 0;
    for (int64_t first = 0; first < w.filters; first += share) {
      ForEntries(w, share, first, [&](auto&&...) { products += share; });
    }
    const double cost =
        (static_cast<double>(products) * static_cast<double>(kernels.cost[s]) +
         static_cast<double>(w.filters) * static_cast<double>(kernels.filter_cost)) /
        static_cast<double>(kListLanes);
    if (cost < best_cost) {
      best_cost = cost;
      best = share;
    }
  }
  return best;
}

PackedLists::PackedLists(const DotWeights& weights, const FilterValues& values,
                         const ListKernels& kernels, int64_t share)
    : kernels_(kernels),
      share_(share),
      quads_(CeilDiv(weights.depth, kQuad)),
      pairs_fit_(true),
      start_(values.start),
      scale_(values.scale),
      bias_(values.bias) {
  for (int64_t first = 0; first < weights.filters; first += kListPartFilters) {
    const int64_t filters = std::min(kListPartFilters, weights.filters - first);
    parts_.push_back({first, filters, entries_.size()});
    for (int64_t f = first; f < first + filters; f += share) {
      const size_t begin = entries_.size();
      ForEntries(weights, share, f, [&](int64_t tap, int64_t quad, const auto& quads) {
        entries_.push_back({static_cast<uint16_t>(tap), static_cast<uint16_t>(quad)});
        weights_.insert(weights_.end(), quads.begin(), quads.begin() + share);
      });
      counts_.push_back(static_cast<int64_t>(entries_.size() - begin));
    }
  }
  for (const int32_t& weight : weights_) {
    int8_t quad[kQuad];
    std::memcpy(quad, &weight, sizeof(quad));
    pairs_fit_ = pairs_fit_ && PairsFit(quad);
  }
}

ListTask PackedLists::Task(const ListPart& part) const {
  ListTask task = {};
  task.entries = entries_.data() + part.entries;
  task.weights = weights_.data() + part.entries * static_cast<size_t>(share_);
  task.counts = counts_.data() + part.first / share_;
  task.groups = part.filters / share_;
  task.share = share_;
  task.pairs_fit = pairs_fit_;
  task.start = start_.data() + part.first;
  task.scale = scale_.data() + part.first;
  task.bias = bias_.data() + part.first;
  return task;
}

}  // namespace lcnn
