#include "narrow_conv/packed_dots.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/geometry.h"

namespace lcnn {
namespace {

// Bytes that follow each other in the rows of X and, for a filter, in W.
struct Run {
  int64_t row;     // of X, from the window's first
  int64_t column;  // bytes from the window's first pixel
  int64_t weight;  // of a filter's first
  int64_t bytes;
};

std::vector<Run> RunsOf(const DotWeights& w, int64_t group) {
  std::vector<Run> runs;
  const int64_t pixel = w.group * w.depth;
  const bool whole_rows = w.group == 1 && w.width.dilation == 1;
  const int64_t taps = whole_rows ? w.width.kernel : 1;
  for (int64_t r = 0; r < w.height.kernel; ++r) {
    for (int64_t c = 0; c < w.width.kernel; c += taps) {
      runs.push_back({r * w.height.dilation, c * w.width.dilation * pixel + group * w.depth,
                      (r * w.width.kernel + c) * w.depth, taps * w.depth});
    }
  }
  return runs;
}

// Filters [first, first + filters) of a group.
struct Part {
  int64_t group;
  int64_t first;
  int64_t filters;
};

// Time of starting on a span, relative to a quad of a block: measured where they are about 4 quads
// long and of no regular length.
constexpr int64_t kSpanCost = 2;

// The parts of a layer, and what is read in each.
struct Parts {
  std::vector<Part> parts;
  std::vector<std::vector<DotSpan>> spans;
  int64_t cost = 0;
};

// Equally many blocks in each but for one.
std::vector<Part> PartsOf(const DotWeights& w, int64_t most_blocks) {
  std::vector<Part> parts;
  const int64_t of_group = w.filters / w.group;
  const int64_t blocks = CeilDiv(of_group, kBlockFilters);
  for (int64_t g = 0; g < w.group; ++g) {
    int64_t begin = 0;
    for (int64_t left = CeilDiv(blocks, most_blocks); left > 0; --left) {
      const int64_t take = CeilDiv(blocks - begin / kBlockFilters, left) * kBlockFilters;
      const int64_t end = std::min(of_group, begin + take);
      parts.push_back({g, g * of_group + begin, end - begin});
      begin = end;
    }
  }
  return parts;
}

// Quads of the chunks into which a run is cut: as few chunks as can be, and equal ones.
int64_t ChunkQuads(const std::vector<Run>& runs, const DotKernels& kernels) {
  const int64_t quads = runs.empty() ? 1 : std::max<int64_t>(1, CeilDiv(runs.front().bytes, kQuad));
  return CeilDiv(quads, CeilDiv(quads, kernels.most_quads));
}

// The weights of a quad of a run; zeros behind its end.
void CopyQuad(const DotWeights& w, const Run& run, int64_t quad, int64_t filter, int8_t* to) {
  const int64_t window = w.height.kernel * w.width.kernel * w.depth;
  const int64_t begin = quad * kQuad;
  const int64_t count = std::clamp<int64_t>(run.bytes - begin, 0, kQuad);
  std::copy_n(w.values + filter * window + run.weight + begin, count, to);
  std::fill(to + count, to + kQuad, int8_t{0});
}

bool AnyWeight(const DotWeights& w, const Part& part, const Run& run, int64_t quad, int64_t quads) {
  const int64_t window = w.height.kernel * w.width.kernel * w.depth;
  const int64_t begin = quad * kQuad, end = std::min(run.bytes, begin + quads * kQuad);
  for (int64_t f = 0; f < part.filters; ++f) {
    const int8_t* const values = w.values + (part.first + f) * window + run.weight;
    if (std::any_of(values + begin, values + end, [](int8_t v) { return v != 0; })) return true;
  }
  return false;
}

// Chunks in which a filter of the part has weights, as spans.
std::vector<DotSpan> SpansOf(const DotWeights& w, const Part& part, const std::vector<Run>& runs,
                             int64_t chunk) {
  std::vector<DotSpan> spans;
  for (const Run& run : runs) {
    bool follows = false;
    for (int64_t q = 0; q < CeilDiv(run.bytes, kQuad); q += chunk) {
      const bool any = AnyWeight(w, part, run, q, chunk);
      if (any && follows) {
        spans.back().quads += static_cast<int32_t>(chunk);
      } else if (any) {
        spans.push_back({static_cast<int32_t>(run.row),
                         static_cast<int32_t>(run.column + q * kQuad),
                         static_cast<int32_t>(chunk)});
      }
      follows = any;
    }
  }
  return spans;
}

// Chunks take the time of full ones.
Parts MakeParts(const DotWeights& w, const DotKernels& kernels, int64_t most_blocks) {
  Parts made;
  made.parts = PartsOf(w, most_blocks);
  for (const Part& part : made.parts) {
    const std::vector<Run> runs = RunsOf(w, part.group);
    const int64_t chunk = ChunkQuads(runs, kernels);
    made.spans.push_back(SpansOf(w, part, runs, chunk));
    const int64_t blocks = CeilDiv(part.filters, kBlockFilters);
    for (const DotSpan& span : made.spans.back()) {
      made.cost += kSpanCost + span.quads / chunk * kernels.most_quads * blocks;
    }
  }
  return made;
}

// Fewer filters to a part leave out more zeros, and have more spans.
Parts CheapestParts(const DotWeights& w, const DotKernels& kernels) {
  Parts best = MakeParts(w, kernels, kMaxBlocks);
  for (int64_t most_blocks = kMaxBlocks / 2; most_blocks >= 1; most_blocks /= 2) {
    Parts narrow = MakeParts(w, kernels, most_blocks);
    if (narrow.cost < best.cost) best = std::move(narrow);
  }
  return best;
}

int64_t QuadsOf(const std::vector<DotSpan>& spans) {
  return std::accumulate(spans.begin(), spans.end(), int64_t{0},
                         [](int64_t n, const DotSpan& span) { return n + span.quads; });
}

// The weights of filters [begin, end) of a part, in the order of its spans. Returns their end.
int8_t* CopyWeights(const DotWeights& w, const DotPart& part, const DotSpan* spans,
                    const std::vector<Run>& runs, int64_t begin, int64_t end, int8_t* to) {
  for (const DotSpan *span = spans, *last = spans + part.n_spans; span != last; ++span) {
    // The run that the span is a part of.
    const auto run = std::find_if(runs.begin(), runs.end(), [&](const Run& r) {
      return r.row == span->row && r.column <= span->column && span->column < r.column + r.bytes;
    });
    const int64_t first = (span->column - run->column) / kQuad;
    for (int64_t q = first; q < first + span->quads; ++q) {
      for (int64_t f = begin; f < end; ++f, to += kQuad) {
        if (f < part.filters) CopyQuad(w, *run, q, part.first + f, to);
      }
    }
  }
  return to;
}

}  // namespace

// Two passes: sizes first.
PackedDots::PackedDots(const DotWeights& weights, const FilterValues& values,
                       const DotKernels& kernels)
    : weights_(0),
      start_(0),
      scale_(0),
      bias_(0),
      chunk_(ChunkQuads(RunsOf(weights, 0), kernels)),
      cost_(0),
      bytes_beyond_(0),
      pairs_fit_(true) {
  const Parts made = CheapestParts(weights, kernels);
  const std::vector<Part>& parts = made.parts;
  cost_ = static_cast<double>(made.cost) * static_cast<double>(kernels.cost);
  size_t bytes = 0, lanes = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    const Part& part = parts[p];
    const std::vector<Run> runs = RunsOf(weights, part.group);
    const std::vector<DotSpan>& spans = made.spans[p];
    DotPart packed = {part.first,
                      part.filters,
                      CeilDiv(part.filters, kBlockFilters),
                      spans_.size(),
                      static_cast<int64_t>(spans.size()),
                      QuadsOf(spans),
                      bytes,
                      lanes};
    spans_.insert(spans_.end(), spans.begin(), spans.end());
    bytes += static_cast<size_t>(packed.quads * packed.blocks * kBlockFilters * kQuad);
    lanes += static_cast<size_t>(packed.blocks * kBlockFilters);
    parts_.push_back(packed);
    if (!runs.empty()) {
      bytes_beyond_ = RoundUp(runs.front().bytes, chunk_ * kQuad) - runs.front().bytes;
    }
  }
  weights_ = AlignedBuffer<int8_t>(bytes);
  start_ = AlignedBuffer<int32_t>(lanes);
  scale_ = AlignedBuffer<float>(lanes);
  bias_ = AlignedBuffer<float>(lanes);
  for (size_t p = 0; p < parts.size(); ++p) {
    const DotPart& packed = parts_[p];
    const std::vector<Run> runs = RunsOf(weights, parts[p].group);
    int8_t* to = weights_.data() + packed.weights;
    const int64_t filters = packed.blocks * kBlockFilters;
    const int64_t together = kernels.most_quads > 1 ? kBlockFilters : filters;
    for (int64_t f = 0; f < filters; f += together) {
      to = CopyWeights(weights, packed, spans_.data() + packed.spans, runs, f, f + together, to);
    }
    for (const int8_t* quad = weights_.data() + packed.weights; quad != to; quad += kQuad) {
      pairs_fit_ = pairs_fit_ && PairsFit(quad);
    }
    for (int64_t f = 0; f < packed.filters; ++f) {
      const auto filter = static_cast<size_t>(packed.first + f);
      const size_t lane = packed.values + static_cast<size_t>(f);
      start_.data()[lane] = values.start[filter];
      scale_.data()[lane] = values.scale[filter];
      bias_.data()[lane] = values.bias[filter];
    }
  }
}

DotTask PackedDots::Task(const DotPart& part) const {
  DotTask task = {};
  task.spans = spans_.data() + part.spans;
  task.n_spans = part.n_spans;
  task.quads = part.quads;
  task.chunk = chunk_;
  task.weights = weights_.data() + part.weights;
  task.pairs_fit = pairs_fit_;
  task.blocks = part.blocks;
  task.filters = part.filters;
  task.start = start_.data() + part.values;
  task.scale = scale_.data() + part.values;
  task.bias = bias_.data() + part.values;
  return task;
}

}  // namespace lcnn
