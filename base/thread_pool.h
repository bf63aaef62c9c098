#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace airlock {

/// A fixed set of threads for loops over independent items; the caller's thread is one of them. One
/// thread calls it.
class ThreadPool {
 public:
  /// `thread_count` >= 1 in all, the caller's included.
  explicit ThreadPool(std::size_t thread_count);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t thread_count() const { return workers_.size() + 1; }
  /// Calls body(begin, end) on contiguous, disjoint parts of [0, count), one part a thread; returns
  /// when all are done. The split depends on count and thread_count only.
  void parallel_for(std::size_t count,
                    const std::function<void(std::size_t begin, std::size_t end)>& body);

 private:
  void work(std::size_t index);
  void run_part(std::size_t index) const;

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  const std::function<void(std::size_t, std::size_t)>* body_ = nullptr;
  std::size_t count_ = 0;
  std::uint64_t generation_ = 0;
  std::size_t running_ = 0;
  bool stopping_ = false;
};

}  // namespace airlock
