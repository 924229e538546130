#include "base/run_units.h"

#include <thread>

namespace lcnn {

int64_t MachineThreads() {
  constexpr int64_t kUnknown = 16;
  const int64_t threads = std::thread::hardware_concurrency();
  return threads > 0 ? threads : kUnknown;
}

ThreadScratch::ThreadScratch(float* begin, int64_t parts, int64_t floats) : any_(parts > 0) {
  free_.reserve(static_cast<size_t>(parts));
  for (int64_t part = parts; part-- > 0;) free_.push_back(begin + part * floats);
}

float* ThreadScratch::Take() {
  if (!any_) return nullptr;
  std::unique_lock<std::mutex> lock(mutex_);
  given_back_.wait(lock, [this] { return !free_.empty(); });
  float* const part = free_.back();
  free_.pop_back();
  return part;
}

void ThreadScratch::GiveBack(float* part) {
  if (!any_) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(part);  // within what was reserved
  }
  given_back_.notify_one();
}

}  // namespace lcnn
