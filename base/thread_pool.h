#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/status.h"

namespace airlock {

/// A fixed set of threads for loops over independent items; the caller's thread is one of them. One
/// thread calls it at a time. Its threads look for work for some microseconds after the last, then
/// sleep: an idle pool takes no CPU time.
class ThreadPool {
 public:
  /// `thread_count` >= 1 in all, the caller's included. kResourceExhausted where the system gives
  /// fewer; none is left behind then.
  static Result<std::unique_ptr<ThreadPool>> create(std::size_t thread_count);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t thread_count() const { return workers_.size() + 1; }
  /// Calls body(begin, end) on contiguous, disjoint parts of [0, count), one part a thread; returns
  /// when all are done. The split depends on count and thread_count only. What a body throws is
  /// thrown here, once all are done; of several the first.
  void parallel_for(std::size_t count,
                    const std::function<void(std::size_t begin, std::size_t end)>& body);

 private:
  explicit ThreadPool(std::uint64_t spin_ns) : spin_ns_(spin_ns) {}
  void work(std::size_t index);
  void run_part(std::size_t index);

  const std::uint64_t spin_ns_;
  std::vector<std::thread> workers_;
  // Written by the caller before it counts up `generation_`, and by nobody while `running_` > 0.
  const std::function<void(std::size_t, std::size_t)>* body_ = nullptr;
  std::size_t count_ = 0;
  bool stopping_ = false;
  // Counted up (release) for each loop; a worker's load (acquire) sees the loop.
  std::atomic<std::uint32_t> generation_{0};
  // Workers that are not through with the loop: each counts down (release) once its part is
  // written, and the caller's load of 0 (acquire) sees all parts.
  std::atomic<std::uint32_t> running_{0};
  std::mutex mutex_;
  std::exception_ptr thrown_;  // guarded by mutex_
};

}  // namespace airlock
