// The layer that callers see: creation, and a run, which for each group of images pads or projects,
// then multiplies.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/geometry.h"
#include "lcnn/narrow_conv.h"
#include "narrow_conv/dot_units.h"
#include "narrow_conv/list_units.h"

namespace lcnn {
namespace {

// Scratch of a group of images, one at least: part of the second-level cache.
constexpr int64_t kGroupBytes = 512 * 1024;

// How a layer runs for an input size.
struct Plan {
  Grid out;          // of one group
  bool copies_x;     // X is read from a copy in scratch
  PaddedPlanes x;    // of one group: that copy or X itself
  PaddedPlanes s;    // responses, where there is a lookup: pixels, or quads if lists read them
  int64_t quads;     // of a pixel, where lists read them; else 1
  int64_t row_step;  // from one row of responses to the next, in rows of X
  int64_t column_step;
  Axis height;  // with which results read `s` or `x`
  Axis width;
  int64_t x_bytes;  // of the copy, for one group, a multiple of a cache line
  int64_t s_bytes;

  void SetImages(int64_t images) {
    out.images = x.inside.images = images;
    s.inside.images = images * quads;
  }
};

// Responses that no window of a kernel of 1 reads are not made: the stride is that of stage 1.
bool Skips(const Axis& axis) {
  return axis.kernel == 1 && axis.pad_begin == 0 && axis.pad_end == 0 && axis.stride > 1;
}

PaddedPlanes Planes(const Grid& inside, const Axis& height, const Axis& width, int64_t pixel) {
  PaddedPlanes planes = {inside, height.pad_begin, width.pad_begin, 0, 0, pixel, 0};
  planes.rows = inside.height + height.pad_begin + height.pad_end;
  planes.columns = inside.width + width.pad_begin + width.pad_end;
  const int64_t row = CheckedMul(planes.columns, pixel, kMaxExtent, "a padded row");
  planes.image_bytes = CheckedMul(planes.rows, row, kMaxExtent, "a padded image");
  return planes;
}

// Planes of quads. The border right of a row serves as the next one's left one as well; at the end
// there is some more. Planes are an odd number of cache lines apart, so that the same place of all
// does not fall into the same cache sets.
PaddedPlanes QuadPlanes(const Grid& inside, const Axis& height, const Axis& width,
                        int64_t out_width) {
  PaddedPlanes planes = Planes(inside, height, width, kQuad);
  planes.columns = std::max(out_width, inside.width + std::max(width.pad_begin, width.pad_end));
  const int64_t bytes =
      planes.rows * planes.row_bytes() + std::min(width.pad_begin, width.pad_end) * kQuad;
  constexpr auto kLine = static_cast<int64_t>(kCacheLine);
  planes.image_bytes = (CeilDiv(bytes, kLine) | 1) * kLine;
  return planes;
}

bool Padded(const Axis& axis) { return axis.pad_begin > 0 || axis.pad_end > 0; }

// With what is read behind the last pixel.
int64_t BytesOf(const PaddedPlanes& planes, int64_t beyond) {
  return RoundUp(planes.inside.images * planes.image_bytes + beyond,
                 static_cast<int64_t>(kCacheLine));
}

Plan PlanFor(const PackedConv& packed, int64_t batch, int64_t height, int64_t width) {
  const NarrowConvShape& shape = packed.shape();
  const int64_t bytes = packed.element_bytes();
  RequireRange("batch", batch, 0, kMaxExtent);
  Plan plan = {};
  plan.height = shape.height;
  plan.width = shape.width;
  plan.out = {1, OutputExtent(shape.height, height, "height"),
              OutputExtent(shape.width, width, "width")};
  CheckedMul(CheckedMul(plan.out.height, plan.out.width, kMaxExtent, "an output plane"),
             std::max<int64_t>(1, shape.out_channels), kMaxExtent, "an output image");
  const Grid in = {1, height, width};
  plan.row_step = plan.column_step = plan.quads = 1;
  if (packed.project() == nullptr) {
    plan.copies_x =
        Padded(shape.height) || Padded(shape.width) || packed.result().bytes_beyond() > 0;
    plan.x = Planes(in, shape.height, shape.width, shape.channels * bytes);
  } else {
    plan.copies_x = packed.project()->bytes_beyond() > 0;
    plan.x = Planes(in, {}, {}, shape.channels * bytes);
    Grid inside = in;
    if (Skips(shape.height)) {
      plan.row_step = std::exchange(plan.height.stride, 1);
      inside.height = plan.out.height;
    }
    if (Skips(shape.width)) {
      plan.column_step = std::exchange(plan.width.stride, 1);
      inside.width = plan.out.width;
    }
    plan.s = Planes(inside, plan.height, plan.width, shape.group * shape.dictionary_size * bytes);
    if (packed.result().lists() != nullptr) {
      plan.quads = packed.result().lists()->quads();
      plan.s = QuadPlanes(inside, plan.height, plan.width, plan.out.width);
    }
  }
  const int64_t image = std::max<int64_t>(
      1, (plan.copies_x ? plan.x.image_bytes : 0) + plan.quads * plan.s.image_bytes);
  const int64_t images = std::clamp<int64_t>(kGroupBytes / image, 1, std::max<int64_t>(1, batch));
  plan.SetImages(images);
  if (packed.project() != nullptr) {
    const bool lists = packed.result().lists() != nullptr;
    plan.s_bytes =
        BytesOf(plan.s, lists ? ListBytesBeyond(plan.width) : packed.result().bytes_beyond());
  }
  if (plan.copies_x) {
    const bool lookup = packed.project() != nullptr;
    const PackedStage& reader = lookup ? *packed.project() : packed.result();
    plan.x_bytes = BytesOf(plan.x, reader.bytes_beyond());
  }
  return plan;
}

// Where the windows of a layer begin in padded planes.
Places Windows(const PaddedPlanes& planes, const Axis& height, const Axis& width) {
  return {0, planes.image_bytes, height.stride * planes.row_bytes(), width.stride * planes.pixel};
}

// Sets what is read behind planes to 0: no weight makes up for NaN.
void ClearBehind(const PaddedPlanes& planes, const PackedStage& reader, uint8_t* begin) {
  if (reader.element_bytes() == 1) return;
  std::memset(begin + planes.inside.images * planes.image_bytes, 0,
              static_cast<size_t>(reader.bytes_beyond()));
}

// Stage 1: responses of X, with a border that stands for zero.
void Project(const PackedConv& packed, const Plan& plan, const uint8_t* x, uint8_t* s,
             const ParallelFor& parallel_for) {
  Pad(plan.s, packed.response_zero(), nullptr, s, {});
  ClearBehind(plan.s, packed.result(), s);
  const Places from = {0, plan.x.image_bytes, plan.row_step * plan.x.row_bytes(),
                       plan.column_step * plan.x.pixel};
  Grid grid = plan.s.inside;
  grid.images = plan.out.images;
  Places to = plan.s.Inside();
  to.image *= plan.quads;
  const NarrowConvShape& shape = packed.shape();
  const bool lists = packed.result().lists() != nullptr;
  RunDots({*packed.project(), packed.response_limits(), grid, x, from, plan.x.row_bytes(),
           lists ? Result::kQuads : Result::kNarrow, s, to, nullptr, nullptr,
           shape.group * shape.dictionary_size, plan.s.image_bytes},
          parallel_for);
}

struct Buffers {
  const uint8_t* x;
  const uint8_t* residual;
  uint8_t* narrow;
  float* floats;
};

void RunGroup(const PackedConv& packed, const Plan& plan, const Buffers& buffers, uint8_t* scratch,
              const ParallelFor& parallel_for) {
  const NarrowConvShape& shape = packed.shape();
  const uint8_t* read = buffers.x;
  if (plan.copies_x) {
    Pad(plan.x, packed.x_zero(), buffers.x, scratch, parallel_for);
    ClearBehind(plan.x, packed.project() != nullptr ? *packed.project() : packed.result(), scratch);
    read = scratch;
  }
  const PaddedPlanes* planes = &plan.x;
  if (packed.project() != nullptr) {
    uint8_t* const s = scratch + plan.x_bytes;
    Project(packed, plan, read, s, parallel_for);
    read = s;
    planes = &plan.s;
  }
  const int64_t o = shape.out_channels;
  if (const PackedLists* lists = packed.result().lists()) {
    const std::vector<int32_t> taps = TapBytes(plan.s, plan.height, plan.width);
    RunLists({*lists, packed.limits(), plan.out, read, plan.s, taps.data(), buffers.narrow,
              buffers.residual, buffers.floats, o},
             parallel_for);
    return;
  }
  const int64_t pixel = o * packed.result_bytes();
  Result result = shape.to_narrow ? Result::kNarrow : Result::kFloats;
  if (shape.to_bfloat16) result = Result::kHalves;
  const Places to = {0, plan.out.height * plan.out.width * pixel, plan.out.width * pixel, pixel};
  RunDots({packed.result(), packed.limits(), plan.out, read,
           Windows(*planes, plan.height, plan.width), planes->row_bytes(), result, buffers.narrow,
           to, buffers.residual, buffers.floats, o, 0, &packed.halves()},
          parallel_for);
}

}  // namespace

NarrowConv::NarrowConv(const NarrowConvShape& shape, const ByteConvConstants& constants, Isa isa)
    : packed_(std::make_unique<const PackedConv>(shape, constants, isa)) {}

NarrowConv::NarrowConv(const NarrowConvShape& shape, const Bfloat16ConvConstants& constants,
                       Isa isa)
    : packed_(std::make_unique<const PackedConv>(shape, constants, isa)) {}

NarrowConv::~NarrowConv() = default;

const NarrowConvShape& NarrowConv::shape() const { return packed_->shape(); }

size_t NarrowConv::ScratchBytes(int64_t batch, int64_t height, int64_t width) const {
  const Plan plan = PlanFor(*packed_, batch, height, width);
  return static_cast<size_t>(plan.x_bytes + plan.s_bytes) + kCacheLine;
}

void NarrowConv::Run(const NarrowConvInput& input, void* y, void* scratch,
                     const ParallelFor& parallel_for) const {
  Plan plan = PlanFor(*packed_, input.batch, input.height, input.width);
  const int64_t images = plan.out.images, bytes = packed_->element_bytes();
  const int64_t in = input.height * input.width * shape().channels;
  const int64_t out = plan.out.height * plan.out.width * shape().out_channels;
  uint8_t* const aligned = AlignToCacheLine(static_cast<uint8_t*>(scratch));
  for (int64_t first = 0; first < input.batch; first += images) {
    const int64_t here = std::min(images, input.batch - first);
    plan.SetImages(here);
    Buffers buffers = {};
    buffers.x = static_cast<const uint8_t*>(input.x) + first * in * bytes;
    if (input.residual != nullptr) {
      buffers.residual = static_cast<const uint8_t*>(input.residual) + first * out * bytes;
    }
    if (shape().to_narrow || shape().to_bfloat16) {
      buffers.narrow = static_cast<uint8_t*>(y) + first * out * packed_->result_bytes();
    } else {
      buffers.floats = static_cast<float*>(y) + first * out;
    }
    RunGroup(*packed_, plan, buffers, aligned, parallel_for);
  }
}

}  // namespace lcnn
