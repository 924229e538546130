#include "narrow_conv/list_units.h"

#include <algorithm>
#include <cstring>

#include "base/geometry.h"
#include "base/run_units.h"
#include "base/transpose.h"

namespace lcnn {
namespace {

// Vectors of a unit, of bytes and of floats: results are kept on the stack until they are stored.
constexpr int64_t kByteVectors = 12;
constexpr int64_t kFloatVectors = 6;
// Multiply-adds that take less time than waking threads.
constexpr int64_t kThreadMacs = 2 * 1000 * 1000;

struct Cut {
  const ListJob& job;
  int64_t vectors;  // of an image
  int64_t chunks;
};

// Pixels of a row that are among some positions.
struct Segment {
  int64_t position;  // from the first of those
  int64_t pixel;     // of the image
  int64_t pixels;
};

// Calls visit(segment) for the pixels among positions [begin, end) of an image.
template <class Visit>
void ForSegments(const ListJob& job, int64_t begin, int64_t end, const Visit& visit) {
  const int64_t pitch = job.planes.columns;
  for (int64_t row = begin / pitch; row < job.grid.height && row * pitch < end; ++row) {
    const int64_t first = std::max(begin, row * pitch);
    const int64_t last = std::min(end, row * pitch + job.grid.width);
    if (first >= last) continue;
    visit(Segment{first - begin, row * job.grid.width + first - row * pitch, last - first});
  }
}

struct ByteUnit {
  const ListJob& job;
  int64_t image;
  const ListPart& part;
  int64_t begin;
  int64_t end;

  // Of a pixel of the image, the part's first filter.
  int64_t Place(int64_t pixel) const {
    return (image * job.grid.height * job.grid.width + pixel) * job.filters + part.first;
  }
  void Run(ListTask task) const {
    constexpr int64_t kBytes = kByteVectors * kListLanes * kPartFilters;
    alignas(kCacheLine) uint8_t results[kBytes], added[kBytes];
    const int64_t quads = part.filters / kQuad;
    if (job.residual != nullptr) {
      std::memset(added, 0, static_cast<size_t>(quads * task.pitch * kQuad));
      ForSegments(job, begin, end, [&](const Segment& s) {
        TransposeWords(job.residual + Place(s.pixel), job.filters / kQuad, s.pixels, quads,
                       added + s.position * kQuad, task.pitch);
      });
      task.residual = added;
    }
    task.y = results;
    job.lists.kernels().to_narrow(task);
    ForSegments(job, begin, end, [&](const Segment& s) {
      TransposeWords(results + s.position * kQuad, task.pitch, quads, s.pixels,
                     job.bytes + Place(s.pixel), job.filters / kQuad);
    });
  }
};

struct FloatUnit {
  const ListJob& job;
  int64_t image;
  const ListPart& part;
  int64_t begin;
  int64_t end;

  void Run(ListTask task) const {
    alignas(kCacheLine) float results[kFloatVectors * kListLanes * kPartFilters];
    task.y = results;
    job.lists.kernels().to_floats(task);
    const int64_t plane = job.grid.height * job.grid.width;
    for (int64_t f = 0; f < part.filters; ++f) {
      float* const y = job.floats + (image * job.filters + part.first + f) * plane;
      ForSegments(job, begin, end, [&](const Segment& s) {
        std::memcpy(y + s.pixel, results + f * task.pitch + s.position,
                    static_cast<size_t>(s.pixels) * sizeof(float));
      });
    }
  }
};

void Unit(const Cut& cut, size_t unit) {
  const ListJob& job = cut.job;
  const auto parts = static_cast<int64_t>(job.lists.parts().size());
  const auto i = static_cast<int64_t>(unit);
  const int64_t image = i / (parts * cut.chunks), chunk = i / parts % cut.chunks;
  const ListPart& part = job.lists.parts()[static_cast<size_t>(i % parts)];
  // Equally many vectors in each chunk but for one.
  const int64_t first = cut.vectors * chunk / cut.chunks;
  const int64_t last = cut.vectors * (chunk + 1) / cut.chunks;
  ListTask task = job.lists.Task(part);
  task.x = job.x + image * job.lists.quads() * job.planes.image_bytes + first * kListLanes * kQuad;
  task.plane_bytes = job.planes.image_bytes;
  task.tap_bytes = job.tap_bytes;
  task.vectors = last - first;
  task.low = job.limits.low;
  task.high = job.limits.high;
  task.zero = job.limits.zero;
  task.residual_scale = job.limits.residual_scale;
  task.residual_zero = job.limits.residual_zero;
  task.pitch = task.vectors * kListLanes;
  if (job.bytes != nullptr) {
    ByteUnit{job, image, part, first * kListLanes, last * kListLanes}.Run(task);
  } else {
    FloatUnit{job, image, part, first * kListLanes, last * kListLanes}.Run(task);
  }
}

}  // namespace

std::vector<int32_t> TapBytes(const PaddedPlanes& planes, const Axis& height, const Axis& width) {
  std::vector<int32_t> bytes;
  for (int64_t r = 0; r < height.kernel; ++r) {
    for (int64_t c = 0; c < width.kernel; ++c) {
      bytes.push_back(static_cast<int32_t>(r * height.dilation * planes.row_bytes() +
                                           c * width.dilation * planes.pixel));
    }
  }
  return bytes;
}

int64_t ListBytesBeyond(const Axis& width) {
  return (kListLanes + width.dilation * (width.kernel - 1)) * kQuad;
}

void RunLists(const ListJob& job, const ParallelFor& parallel_for) {
  if (job.grid.pixels() == 0) return;
  const int64_t positions = job.grid.height * job.planes.columns;
  const int64_t vectors = CeilDiv(positions, kListLanes);
  const int64_t chunks = CeilDiv(vectors, job.bytes != nullptr ? kByteVectors : kFloatVectors);
  const Cut cut = {job, vectors, chunks};
  const int64_t units = job.grid.images * chunks * static_cast<int64_t>(job.lists.parts().size());
  RunUnits<Cut>(parallel_for, job.lists.macs() * positions * job.grid.images >= kThreadMacs,
                static_cast<size_t>(units), Unit, cut);
}

}  // namespace lcnn
