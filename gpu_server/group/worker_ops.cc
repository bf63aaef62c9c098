#include "gpu_server/group/worker_ops.h"

#include <utility>

#include "base/thread.h"

namespace airlock {

WorkerOps::~WorkerOps() {
  {
    const std::lock_guard lock(mutex_);
    stopping_.store(true, std::memory_order_relaxed);
    given_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

Status WorkerOps::give(Job job) {
  bool is_busy = false;
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(job));
    is_busy = resting_ < queue_.size();
    given_.notify_one();
  }
  if (!is_busy || threads_.size() >= kMostThreads) return {};
  auto thread = start_thread("an op", [this] { work(); });
  if (thread.ok()) {
    threads_.push_back(std::move(thread).value());
  } else if (threads_.empty()) {
    return thread.status();
  }
  return {};
}

Status WorkerOps::run(Compute& compute, WorkerJob& job, const std::atomic<bool>& stopping) {
  OpMemory memory;
  for (std::size_t i = 0; i < job.spec.inputs.size(); ++i)
    memory.inputs.push_back({job.input_memory[i].owner.get(), job.spec.inputs[i]});
  for (std::size_t i = 0; i < job.results.size(); ++i)
    memory.results.push_back({job.result_memory[i].owner.get(), job.results[i]});
  const OpLife life(job.deadline, [&]() -> Status {
    if (!job.cancelled.load(std::memory_order_relaxed) && !stopping.load(std::memory_order_relaxed))
      return {};
    return {StatusCode::kCancelled, "nobody waits for the result any more"};
  });
  RETURN_IF_ERROR(life.check());
  ASSIGN_OR_RETURN(const auto computation, compute.prepare(job.spec, std::move(memory), life));
  const std::uint64_t start_ns = now_ns();
  RETURN_IF_ERROR(computation->submit());
  RETURN_IF_ERROR(computation->wait());
  job.times = computation->times();
  job.times.queue_ns += start_ns - job.received_ns;
  return {};
}

void WorkerOps::work() {
  std::unique_ptr<Compute> compute;
  for (;;) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      ++resting_;
      given_.wait(lock,
                  [this] { return !queue_.empty() || stopping_.load(std::memory_order_relaxed); });
      --resting_;
      if (stopping_.load(std::memory_order_relaxed)) return;
      job = std::move(queue_.front());
      queue_.pop_front();
    }
    job->status = without_exceptions([&]() -> Status {
      if (!compute) {
        ASSIGN_OR_RETURN(compute, model_.make_compute({}));
      }
      return run(*compute, *job, stopping_);
    });
    ended_(std::move(job));
  }
}

}  // namespace airlock
