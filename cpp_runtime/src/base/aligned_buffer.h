// A fixed block of numbers that starts on a cache line.
#ifndef LCNN_SRC_BASE_ALIGNED_BUFFER_H_
#define LCNN_SRC_BASE_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lcnn {

constexpr size_t kCacheLine = 64;

template <class T>
T* AlignToCacheLine(T* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return reinterpret_cast<T*>((address + kCacheLine - 1) / kCacheLine * kCacheLine);
}

template <class T>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t count) : storage_(count + kCacheLine / sizeof(T)) {}
  size_t size() const { return storage_.size() - kCacheLine / sizeof(T); }
  T* data() { return AlignToCacheLine(storage_.data()); }
  const T* data() const { return AlignToCacheLine(storage_.data()); }

 private:
  std::vector<T> storage_;
};

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_ALIGNED_BUFFER_H_
