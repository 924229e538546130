// One parallel loop over units of work, and the scratch memory of the threads that run them.
#ifndef LCNN_SRC_BASE_RUN_UNITS_H_
#define LCNN_SRC_BASE_RUN_UNITS_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "lcnn/types.h"

namespace lcnn {

// As many threads as can run at the same time.
int64_t MachineThreads();

// Parts of scratch memory, one for each thread that runs a unit: units need more than a thread's
// stack may have to offer.
class ThreadScratch {
 public:
  // `parts` parts of `floats` floats each from `begin` on, which start on cache lines if `floats`
  // is a multiple of one.
  ThreadScratch(float* begin, int64_t parts, int64_t floats);

  // A part of the calling thread's own while the object lives; waits until one is free. Null where
  // there are no parts at all.
  class Part {
   public:
    explicit Part(ThreadScratch* all) : all_(*all), data_(all->Take()) {}
    ~Part() { all_.GiveBack(data_); }
    Part(const Part&) = delete;
    Part& operator=(const Part&) = delete;
    float* data() const { return data_; }

   private:
    ThreadScratch& all_;
    float* const data_;
  };

 private:
  float* Take();
  void GiveBack(float* part);

  const bool any_;
  std::mutex mutex_;
  std::condition_variable given_back_;
  std::vector<float*> free_;  // the last one is taken first, so that few parts are touched
};

inline bool InThreads(const ParallelFor& parallel_for, bool worth_threads, size_t units) {
  return parallel_for.run != nullptr && worth_threads && units > 1;
}

// Calls unit(job, i) for every i in [0, units): in the calling thread unless `worth_threads`, which
// says that a parallel loop gains more than it costs.
template <class Job>
void RunUnits(const ParallelFor& parallel_for, bool worth_threads, size_t units,
              void (*unit)(const Job& job, size_t i), const Job& job) {
  if (!InThreads(parallel_for, worth_threads, units)) {
    for (size_t i = 0; i < units; ++i) unit(job, i);
    return;
  }
  struct Call {
    void (*unit)(const Job& job, size_t i);
    const Job& job;
  };
  Call call = {unit, job};
  const auto task = [](void* argument, size_t i) {
    const Call& one = *static_cast<const Call*>(argument);
    one.unit(one.job, i);
  };
  parallel_for.run(parallel_for.context, units, task, &call);
}

// As above, with a part of scratch for each unit: the same one for all of them in the calling
// thread.
template <class Job>
void RunUnits(const ParallelFor& parallel_for, bool worth_threads, size_t units,
              ThreadScratch* scratch, void (*unit)(const Job& job, float* part, size_t i),
              const Job& job) {
  if (!InThreads(parallel_for, worth_threads, units)) {
    const ThreadScratch::Part part(scratch);
    for (size_t i = 0; i < units; ++i) unit(job, part.data(), i);
    return;
  }
  struct Call {
    ThreadScratch* scratch;
    void (*unit)(const Job& job, float* part, size_t i);
    const Job& job;
  };
  const Call call = {scratch, unit, job};
  const auto run = [](const Call& one, size_t i) {
    const ThreadScratch::Part part(one.scratch);
    one.unit(one.job, part.data(), i);
  };
  RunUnits<Call>(parallel_for, worth_threads, units, run, call);
}

}  // namespace lcnn

#endif  // LCNN_SRC_BASE_RUN_UNITS_H_
