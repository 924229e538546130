#include "lcnn/narrow_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/dispatch.h"
#include "base/geometry.h"
#include "base/run_units.h"

namespace lcnn {
namespace {

// Bytes of a unit of work, and as many as are worth waking threads for.
constexpr int64_t kUnitBytes = 16 * 1024;
constexpr int64_t kThreadBytes = 256 * 1024;

const ByteMapKernels& KernelsOf(Isa isa) { return LastWithin(FeaturesFor(isa), ByteMapRows()); }

const Bfloat16MapKernels& HalfKernelsOf(Isa isa) {
  return LastWithin(FeaturesFor(isa), Bfloat16MapRows());
}

[[noreturn]] void Fail(const std::string& message) { throw std::invalid_argument(message); }

float Ratio(const char* name, double value) {
  if (value > static_cast<double>(std::numeric_limits<float>::max())) {
    Fail(std::string(name) + " is " + std::to_string(value) +
         " in units of Y, more than the largest float; the scales do not fit together");
  }
  return static_cast<float>(value);
}

// Units of some pixels of one image.
struct PixelUnits {
  int64_t pixels;
  int64_t unit_pixels;
  int64_t units_of_image;

  explicit PixelUnits(const ImageSize& size)
      : pixels(size.height * size.width),
        unit_pixels(std::max<int64_t>(64, kUnitBytes / size.channels / 64 * 64)),
        units_of_image(CeilDiv(pixels, unit_pixels)) {}
  size_t Count(const ImageSize& size) const {
    return static_cast<size_t>(size.batch * units_of_image);
  }
};

bool Empty(const ImageSize& size) {
  return size.batch == 0 || size.channels == 0 || size.height == 0 || size.width == 0;
}

int64_t Elements(const ImageSize& size) {
  return size.batch * size.channels * size.height * size.width;
}

struct CastJob {
  ImageSize size;
  PixelUnits units;
};

struct ByteCastJob : CastJob {
  const ByteMapKernels& kernels;
  ByteScale scale;
  const float* floats_in;
  float* floats_out;
  const uint8_t* bytes_in;
  uint8_t* bytes_out;
};

struct HalfCastJob : CastJob {
  const Bfloat16MapKernels& kernels;
  const float* floats_in;
  float* floats_out;
  const uint16_t* halves_in;
  uint16_t* halves_out;
};

struct CastUnit {
  int64_t begin;  // pixel of the image
  int64_t pixels;
  int64_t floats;  // offset of the first pixel's first channel
  int64_t narrow;

  CastUnit(const CastJob& job, size_t unit) {
    const auto i = static_cast<int64_t>(unit);
    const int64_t image = i / job.units.units_of_image;
    begin = i % job.units.units_of_image * job.units.unit_pixels;
    pixels = std::min(job.units.unit_pixels, job.units.pixels - begin);
    const int64_t first = image * job.size.channels * job.units.pixels;
    floats = first + begin;
    narrow = first + begin * job.size.channels;
  }
};

struct Range {
  int64_t begin;
  int64_t end;
};

// The pixels of a window that exist.
Range Inside(const Axis& axis, int64_t output, int64_t extent) {
  const int64_t begin = output * axis.stride - axis.pad_begin;
  return {std::max<int64_t>(0, begin), std::min(extent, begin + axis.kernel)};
}

template <class T, class Kernels>
struct PoolJob {
  const Kernels& kernels;
  MaxPoolShape shape;
  ImageSize size;
  int64_t out_height;
  int64_t out_width;
  T lowest;
  const T* x;
  T* y;
};

template <class T, class Kernels>
void PoolRow(const PoolJob<T, Kernels>& job, size_t unit) {
  const auto row = static_cast<int64_t>(unit);
  const int64_t channels = job.size.channels;
  const int64_t image = row / job.out_height;
  const Range rows = Inside(job.shape.height, row % job.out_height, job.size.height);
  const int64_t of_row = job.size.width * channels;
  const T* const x = job.x + image * job.size.height * of_row;
  // The largest of each column first: neighbouring windows share it.
  std::vector<T> line(static_cast<size_t>(of_row), job.lowest);
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    job.kernels.max({x + r * of_row, of_row, line.data()});
  }
  T* y = job.y + row * job.out_width * channels;
  for (int64_t o = 0; o < job.out_width; ++o, y += channels) {
    const Range columns = Inside(job.shape.width, o, job.size.width);
    std::fill_n(y, channels, job.lowest);
    for (int64_t c = columns.begin; c < columns.end; ++c) {
      job.kernels.max({line.data() + c * channels, channels, y});
    }
  }
}

template <class T, class Kernels>
void Pool(const MaxPoolShape& shape, const ImageSize& size, const Kernels& kernels, T lowest,
          const T* x, T* y, const ParallelFor& parallel_for) {
  RequireRange("input height", size.height, 1, kMaxExtent);
  RequireRange("input width", size.width, 1, kMaxExtent);
  const PoolJob<T, Kernels> job = {kernels,
                                   shape,
                                   size,
                                   OutputExtent(shape.height, size.height, "height"),
                                   OutputExtent(shape.width, size.width, "width"),
                                   lowest,
                                   x,
                                   y};
  RunUnits<PoolJob<T, Kernels>>(parallel_for, Elements(size) >= kThreadBytes,
                                static_cast<size_t>(size.batch * job.out_height), PoolRow, job);
}

// Numbers in order, from one type to the other.
template <class Task>
struct OrderedJob {
  void (*cast)(const Task&);
  Task task;
};

template <class Task>
void CastUnitOf(const OrderedJob<Task>& job, size_t unit) {
  Task task = job.task;
  const int64_t begin = static_cast<int64_t>(unit) * kUnitBytes;
  task.x += begin;
  task.y += begin;
  task.count = std::min(kUnitBytes, task.count - begin);
  job.cast(task);
}

template <class Task>
void CastInOrder(const OrderedJob<Task>& job, const ParallelFor& parallel_for) {
  const int64_t count = job.task.count;
  RunUnits<OrderedJob<Task>>(parallel_for, count >= kThreadBytes,
                             static_cast<size_t>(CeilDiv(count, kUnitBytes)), CastUnitOf<Task>,
                             job);
}

struct AddJob {
  const ByteMapKernels& kernels;
  AddBytesTask task;
};

void AddUnit(const AddJob& job, size_t unit) {
  AddBytesTask task = job.task;
  const int64_t begin = static_cast<int64_t>(unit) * kUnitBytes;
  task.a += begin;
  task.b += begin;
  task.y += begin;
  task.count = std::min(kUnitBytes, task.count - begin);
  job.kernels.add(task);
}

}  // namespace

void CheckScale(const char* name, float scale) {
  if (!(scale > 0) || !std::isfinite(scale)) {
    Fail(std::string(name) + " is " + std::to_string(scale) +
         "; a scale must be positive and finite; the model file is damaged or was edited");
  }
}

void QuantizeNhwc(const ImageSize& size, const ByteScale& y_scale, Isa isa, const float* x,
                  uint8_t* y, const ParallelFor& parallel_for) {
  if (Empty(size)) return;
  const PixelUnits units(size);
  const auto unit = [](const ByteCastJob& job, size_t i) {
    const CastUnit at(job, i);
    job.kernels.quantize({job.floats_in + at.floats, job.units.pixels, job.size.channels, at.pixels,
                          job.scale.scale, job.scale.zero_point, job.bytes_out + at.narrow});
  };
  RunUnits<ByteCastJob>(parallel_for, Elements(size) >= kThreadBytes, units.Count(size), unit,
                        {{size, units}, KernelsOf(isa), y_scale, x, nullptr, nullptr, y});
}

void DequantizeNhwc(const ImageSize& size, const ByteScale& x_scale, Isa isa, const uint8_t* x,
                    float* y, const ParallelFor& parallel_for) {
  if (Empty(size)) return;
  const PixelUnits units(size);
  const auto unit = [](const ByteCastJob& job, size_t i) {
    const CastUnit at(job, i);
    job.kernels.dequantize({job.bytes_in + at.narrow, job.size.channels, at.pixels, job.scale.scale,
                            job.scale.zero_point, job.floats_out + at.floats, job.units.pixels});
  };
  RunUnits<ByteCastJob>(parallel_for, Elements(size) >= kThreadBytes, units.Count(size), unit,
                        {{size, units}, KernelsOf(isa), x_scale, nullptr, y, x, nullptr});
}

void QuantizeBfloat16(const ByteScale& y_scale, Isa isa, int64_t count, const uint16_t* x,
                      uint8_t* y, const ParallelFor& parallel_for) {
  CastInOrder<QuantizeHalvesTask>(
      {KernelsOf(isa).quantize_halves, {x, count, y_scale.scale, y_scale.zero_point, y}},
      parallel_for);
}

void DequantizeBfloat16(const ByteScale& x_scale, Isa isa, int64_t count, const uint8_t* x,
                        uint16_t* y, const ParallelFor& parallel_for) {
  CastInOrder<DequantizeHalvesTask>(
      {KernelsOf(isa).dequantize_halves, {x, count, x_scale.scale, x_scale.zero_point, y}},
      parallel_for);
}

void NhwcMaxPool(const MaxPoolShape& shape, const ImageSize& size, Isa isa, const uint8_t* x,
                 uint8_t* y, const ParallelFor& parallel_for) {
  Pool<uint8_t>(shape, size, KernelsOf(isa), 0, x, y, parallel_for);
}

void Bfloat16NhwcMaxPool(const MaxPoolShape& shape, const ImageSize& size, Isa isa,
                         const uint16_t* x, uint16_t* y, const ParallelFor& parallel_for) {
  constexpr uint16_t kMinusInfinity = 0xff80;
  Pool<uint16_t>(shape, size, HalfKernelsOf(isa), kMinusInfinity, x, y, parallel_for);
}

void ToBfloat16Nhwc(const ImageSize& size, Isa isa, const float* x, uint16_t* y,
                    const ParallelFor& parallel_for) {
  if (Empty(size)) return;
  const PixelUnits units(size);
  const auto unit = [](const HalfCastJob& job, size_t i) {
    const CastUnit at(job, i);
    job.kernels.to_halves({job.units.pixels, job.size.channels, at.pixels},
                          job.floats_in + at.floats, job.halves_out + at.narrow);
  };
  RunUnits<HalfCastJob>(parallel_for, Elements(size) >= kThreadBytes, units.Count(size), unit,
                        {{size, units}, HalfKernelsOf(isa), x, nullptr, nullptr, y});
}

void FromBfloat16Nhwc(const ImageSize& size, Isa isa, const uint16_t* x, float* y,
                      const ParallelFor& parallel_for) {
  if (Empty(size)) return;
  const PixelUnits units(size);
  const auto unit = [](const HalfCastJob& job, size_t i) {
    const CastUnit at(job, i);
    job.kernels.to_floats({job.units.pixels, job.size.channels, at.pixels},
                          job.halves_in + at.narrow, job.floats_out + at.floats);
  };
  RunUnits<HalfCastJob>(parallel_for, Elements(size) >= kThreadBytes, units.Count(size), unit,
                        {{size, units}, HalfKernelsOf(isa), nullptr, y, x, nullptr});
}

void GlobalAveragePool(const ImageSize& size, const ByteScale& x_scale, const ByteScale& y_scale,
                       Isa isa, const uint8_t* x, uint8_t* y) {
  const int64_t pixels = size.height * size.width;
  RequireRange("pixels to average", pixels, 1, kMaxAveraged);
  const ByteMapKernels& kernels = KernelsOf(isa);
  const float scale =
      Ratio("x_scale", static_cast<double>(x_scale.scale) /
                           (static_cast<double>(y_scale.scale) * static_cast<double>(pixels)));
  const auto low = -static_cast<float>(y_scale.zero_point), high = low + 255.0f;
  std::vector<int32_t> sums(static_cast<size_t>(size.channels));
  for (int64_t image = 0; image < size.batch; ++image, y += size.channels) {
    std::fill(sums.begin(), sums.end(), -x_scale.zero_point * static_cast<int32_t>(pixels));
    for (int64_t p = 0; p < pixels; ++p, x += size.channels) {
      kernels.sum({x, size.channels, sums.data()});
    }
    for (size_t c = 0; c < sums.size(); ++c) {
      const float v = std::clamp(static_cast<float>(sums[c]) * scale, low, high);
      y[c] = static_cast<uint8_t>(static_cast<int32_t>(std::nearbyint(v)) + y_scale.zero_point);
    }
  }
}

void CheckByteSum(const ByteSum& sum) {
  CheckScale("a_scale", sum.a.scale);
  CheckScale("b_scale", sum.b.scale);
  CheckScale("y_scale", sum.y.scale);
  if (!(sum.clip_min <= sum.clip_max)) {
    Fail("clip_min is " + std::to_string(sum.clip_min) + " and clip_max is " +
         std::to_string(sum.clip_max) + "; clip_min must not exceed clip_max");
  }
  const auto unit = static_cast<double>(sum.y.scale);
  Ratio("a_scale", static_cast<double>(sum.a.scale) / unit);
  Ratio("b_scale", static_cast<double>(sum.b.scale) / unit);
}

void AddBytes(const ByteSum& sum, Isa isa, int64_t count, const uint8_t* a, const uint8_t* b,
              uint8_t* y, const ParallelFor& parallel_for) {
  const auto unit = static_cast<double>(sum.y.scale);
  const double low = -static_cast<double>(sum.y.zero_point), high = low + 255;
  const auto bound = [&](float clip) {
    return static_cast<float>(std::clamp(static_cast<double>(clip) / unit, low, high));
  };
  const AddBytesTask task = {a,
                             b,
                             sum.a.zero_point,
                             sum.b.zero_point,
                             Ratio("a_scale", static_cast<double>(sum.a.scale) / unit),
                             Ratio("b_scale", static_cast<double>(sum.b.scale) / unit),
                             bound(sum.clip_min),
                             bound(sum.clip_max),
                             sum.y.zero_point,
                             count,
                             y};
  RunUnits<AddJob>(parallel_for, count >= kThreadBytes,
                   static_cast<size_t>(CeilDiv(count, kUnitBytes)), AddUnit,
                   {KernelsOf(isa), task});
}

}  // namespace lcnn
