#include "base/thread_pool.h"

#include <sched.h>

#include <utility>

#include "base/check.h"
#include "base/cpu_count.h"
#include "base/deadline.h"
#include "base/thread.h"

namespace airlock {

namespace {

// Longer than the steps between two loops of one op, shorter than what a wake-up costs twice.
constexpr std::uint64_t kSpinNs = 20'000;

/// Until `word` is no longer `old`: a look after another, each time giving way to whoever wants
/// this CPU, then asleep.
void wait_while(const std::atomic<std::uint32_t>& word, std::uint32_t old, std::uint64_t spin_ns) {
  const std::uint64_t start_ns = now_ns();
  while (word.load(std::memory_order_acquire) == old) {
    if (now_ns() - start_ns >= spin_ns) return word.wait(old, std::memory_order_acquire);
    ::sched_yield();
  }
}

}  // namespace

Result<std::unique_ptr<ThreadPool>> ThreadPool::create(std::size_t thread_count) {
  CHECK(thread_count >= 1);
  std::unique_ptr<ThreadPool> pool;
  RETURN_IF_ERROR(without_exceptions([&]() -> Status {
    // On a single CPU a look takes the time from what is looked for.
    pool.reset(new ThreadPool(usable_cpu_count() > 1 ? kSpinNs : 0));
    pool->workers_.reserve(thread_count - 1);
    for (std::size_t index = 1; index < thread_count; ++index) {
      ASSIGN_OR_RETURN(
          std::thread worker,
          start_thread(fmt::format("compute thread {} of {} (--threads)", index + 1, thread_count),
                       [raw = pool.get(), index] { raw->work(index); }));
      pool->workers_.push_back(std::move(worker));
    }
    return {};
  }));
  return pool;
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_part(std::size_t index) {
  const std::size_t parts = thread_count();
  const std::size_t begin = count_ * index / parts;
  const std::size_t end = count_ * (index + 1) / parts;
  if (begin == end) return;
  try {
    (*body_)(begin, end);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!thrown_) thrown_ = std::current_exception();
  }
}

void ThreadPool::parallel_for(std::size_t count,
                              const std::function<void(std::size_t, std::size_t)>& body) {
  if (workers_.empty() || count <= 1) {
    if (count > 0) body(0, count);
    return;
  }
  body_ = &body;
  count_ = count;
  running_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  run_part(0);
  for (std::uint32_t left = 0; (left = running_.load(std::memory_order_acquire)) != 0;) {
    wait_while(running_, left, spin_ns_);
  }
  std::exception_ptr thrown;
  {
    const std::lock_guard lock(mutex_);
    thrown = std::exchange(thrown_, nullptr);
  }
  if (thrown) std::rethrow_exception(thrown);
}

void ThreadPool::work(std::size_t index) {
  for (std::uint32_t seen = 0;; ++seen) {
    wait_while(generation_, seen, spin_ns_);
    if (stopping_) return;
    run_part(index);
    if (running_.fetch_sub(1, std::memory_order_release) == 1) running_.notify_one();
  }
}

}  // namespace airlock
