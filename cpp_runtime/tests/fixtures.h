// Guarded buffers, random layers and a small pool of threads.
#ifndef LCNN_TESTS_FIXTURES_H_
#define LCNN_TESTS_FIXTURES_H_

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "base/dispatch.h"
#include "lcnn/lookup_conv.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LCNN_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define LCNN_ASAN 1
#endif
#if defined(LCNN_ASAN)
#include <sanitizer/asan_interface.h>
#endif

// The type a dictionary comes in.
enum class Stored { kFloat, kHalf, kByte };

// What walls are made of: NaN, or a byte that is no zero point of the tests.
template <class T>
constexpr T kWallOf = static_cast<T>(0xa5);
template <>
constexpr float kWallOf<float> = std::numeric_limits<float>::quiet_NaN();

// Elements between two walls: using what was read from a wall spoils the result, writing one
// is found by WallsIntact, and with AddressSanitizer any access to one stops the test. `misalign`
// elements off a cache line, so that nothing works by luck.
template <class T>
class GuardedOf {
 public:
  explicit GuardedOf(size_t count, size_t misalign = 1)
      : storage_(count + 2 * kWall + misalign, kWallOf<T>),
        count_(count),
        offset_(kWall + misalign) {
    SetWallsAccessible(false);
  }
  GuardedOf(const GuardedOf& other) : GuardedOf(other.count_, other.offset_ - kWall) {
    std::copy(other.data(), other.data() + count_, data());
  }
  GuardedOf& operator=(const GuardedOf&) = delete;
  ~GuardedOf() { SetWallsAccessible(true); }

  T* data() { return storage_.data() + offset_; }
  const T* data() const { return storage_.data() + offset_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) { return data()[i]; }
  T operator[](size_t i) const { return data()[i]; }
  bool WallsIntact() const {
    SetWallsAccessible(true);
    bool intact = true;
    const T wall = kWallOf<T>;
    for (size_t i = 0; i < storage_.size(); ++i) {
      const bool inside = i >= offset_ && i < offset_ + count_;
      intact = intact && (inside || std::memcmp(&storage_[i], &wall, sizeof(T)) == 0);
    }
    SetWallsAccessible(false);
    return intact;
  }

 private:
  static constexpr size_t kWall = 64;

  void SetWallsAccessible([[maybe_unused]] bool accessible) const {
#if defined(LCNN_ASAN)
    const auto set = accessible ? __asan_unpoison_memory_region : __asan_poison_memory_region;
    const T* const end = data() + count_;
    set(storage_.data(), offset_ * sizeof(T));
    set(end, static_cast<size_t>(storage_.data() + storage_.size() - end) * sizeof(T));
#endif
  }

  std::vector<T> storage_;
  size_t count_;
  size_t offset_;
};
using Guarded = GuardedOf<float>;
using GuardedBytes = GuardedOf<uint8_t>;

inline void Fill(Guarded* buffer, std::mt19937* random) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (size_t i = 0; i < buffer->size(); ++i) (*buffer)[i] = uniform(*random);
}

// The list form of a dense P; gaps above `max_gap` are bridged by zero coefficients, as in a file.
inline void Encode(const std::vector<float>& kernel, uint32_t max_gap,
                   lcnn::LookupConvConstants* constants) {
  uint32_t gap = 0;
  for (size_t position = 0; position < kernel.size(); ++position, ++gap) {
    const bool bridge = gap == max_gap;
    if (kernel[position] == 0 && !bridge) continue;
    constants->gaps.push_back(gap);
    constants->coefficients.push_back(kernel[position]);
    gap = 0;
  }
}

// Takes units in no fixed order on `threads` threads.
class Threads {
 public:
  explicit Threads(int threads) : threads_(threads) {}
  lcnn::ParallelFor Loop() { return {threads_ > 1 ? &Threads::Run : nullptr, this}; }

 private:
  static void Run(void* context, size_t count, void (*task)(void*, size_t), void* argument) {
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i = next++; i < count; i = next++) task(argument, i);
    };
    std::vector<std::thread> others;
    for (int t = 1; t < static_cast<Threads*>(context)->threads_; ++t) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  }
  int threads_;
};

// Supported instruction sets; says aloud which are not tested.
inline std::vector<lcnn::Isa> IsasToTest() {
  std::vector<lcnn::Isa> isas;
  for (const lcnn::Isa isa : lcnn::BuiltIsas()) {
    if (lcnn::IsaSupported(isa)) {
      isas.push_back(isa);
    } else {
      std::printf("SKIPPED: %s is not supported by this machine\n", lcnn::IsaName(isa));
    }
  }
  return isas;
}

// Rows of a family that this machine has; says aloud which are not tested.
template <class Kernels>
lcnn::KernelRows<Kernels> RowsToTest(const char* family, const lcnn::KernelRows<Kernels>& rows) {
  lcnn::KernelRows<Kernels> supported;
  for (const lcnn::KernelRow<Kernels>& row : rows) {
    if (lcnn::Contains(lcnn::DetectCpuFeatures(), row.needs)) {
      supported.push_back(row);
    } else {
      std::printf("SKIPPED: %s %s is not supported by this machine\n", family, row.suffix);
    }
  }
  return supported;
}

#endif  // LCNN_TESTS_FIXTURES_H_
