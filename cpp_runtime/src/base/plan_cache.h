// The plans of the last few input sizes.
#ifndef LCNN_SRC_BASE_PLAN_CACHE_H_
#define LCNN_SRC_BASE_PLAN_CACHE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace lcnn {

struct InputSize {
  int64_t batch;
  int64_t height;
  int64_t width;

  bool operator==(const InputSize& other) const {
    return batch == other.batch && height == other.height && width == other.width;
  }
};

// One object may be used in many threads at once.
template <class Plan>
class PlanCache {
 public:
  // Null: there is none.
  std::shared_ptr<const Plan> Find(const InputSize& size) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find_if(plans_.begin(), plans_.end(),
                                    [&](const auto& plan) { return plan.first == size; });
    if (found == plans_.end()) return nullptr;
    std::rotate(plans_.begin(), found, found + 1);
    return plans_.front().second;
  }

  void Add(const InputSize& size, std::shared_ptr<const Plan> plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (plans_.size() == kCapacity) plans_.pop_back();
    plans_.emplace(plans_.begin(), size, std::move(plan));
  }

 private:
  static constexpr size_t kCapacity = 8;
  std::mutex mutex_;
  std::vector<std::pair<InputSize, std::shared_ptr<const Plan>>> plans_;  // most recent first
};

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_PLAN_CACHE_H_
