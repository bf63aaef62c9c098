#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "proto/op.h"
#include "runtime/channel/buffer_pool.h"
#include "runtime/compute.h"

namespace airlock {

/// An op that a worker has received. Until it is given to WorkerOps and after that it is the link
/// thread's, in between a compute thread's; `cancelled` is anybody's.
struct WorkerJob {
  std::uint64_t number = 0;
  OpSpec spec;
  std::vector<TensorDesc> results;
  std::vector<PooledBuffer> input_memory;
  std::vector<PooledBuffer> result_memory;
  std::size_t to_come = 0;  // inputs
  Deadline deadline = Deadline::now();
  std::uint64_t received_ns = 0;
  std::atomic<bool> cancelled{false};
  Status status;
  OpTimes times;
};

/// Runs jobs on up to kMostThreads threads, each with a Compute of its own, in the order in which
/// they come.
class WorkerOps {
 public:
  static constexpr std::size_t kMostThreads = 8;
  using Job = std::shared_ptr<WorkerJob>;

  /// `ended` is called on a compute thread, once a job is over.
  WorkerOps(ComputeModel& model, std::function<void(Job)> ended)
      : model_(model), ended_(std::move(ended)) {}
  /// Ends what is under way, and waits for it.
  ~WorkerOps();
  WorkerOps(const WorkerOps&) = delete;
  WorkerOps& operator=(const WorkerOps&) = delete;

  /// kResourceExhausted: there is no thread for it.
  Status give(Job job);

 private:
  void work();
  static Status run(Compute& compute, WorkerJob& job, const std::atomic<bool>& stopping);

  ComputeModel& model_;
  const std::function<void(Job)> ended_;
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::condition_variable given_;
  std::deque<Job> queue_;  // guarded by mutex_, as is what follows
  std::size_t resting_ = 0;
  std::vector<std::thread> threads_;  // the link thread's
};

}  // namespace airlock
