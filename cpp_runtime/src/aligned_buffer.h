// A fixed block of floats that starts on a cache line.
#ifndef LCNN_SRC_ALIGNED_BUFFER_H_
#define LCNN_SRC_ALIGNED_BUFFER_H_

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

class AlignedFloats {
 public:
  explicit AlignedFloats(size_t count) : storage_(count + kCacheLine / sizeof(float)) {}
  float* data() { return AlignToCacheLine(storage_.data()); }
  const float* data() const { return AlignToCacheLine(storage_.data()); }

 private:
  std::vector<float> storage_;
};

}  // namespace lcnn

#endif  // LCNN_SRC_ALIGNED_BUFFER_H_
