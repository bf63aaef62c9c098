#include "base/sink.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <utility>

#include "base/deadline.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread.h"

namespace airlock {
namespace {

std::string lost_lines(std::uint64_t count) {
  return log_line(LogLevel::kWarning,
                  fmt::format("{} lines were lost: nothing took them from stderr", count));
}

std::string lost_tables(std::uint64_t count) {
  return fmt::format("({} texts were lost: nothing took them from stdout)\n", count);
}

}  // namespace

Sink::~Sink() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  if (writer_.joinable()) writer_.join();
}

Status Sink::start_writer() {
  if (writer_.joinable()) return {};
  ASSIGN_OR_RETURN(writer_, start_thread("a stream's writer", [this] { write_queue(); }));
  const std::lock_guard lock(mutex_);
  has_writer_ = true;
  return {};
}

void Sink::write(std::string_view text) noexcept {
  std::unique_lock lock(mutex_);
  try {
    if (!has_writer_) return write_directly(text);
    if (!wait_for_room(lock, text.size())) {
      ++lost_;
      return;
    }
    queue_lost_text();
    queue({std::string(text)});
  } catch (const std::bad_alloc&) {
    ++lost_;
    return;
  }
  work_.notify_one();
  wait(lock, kPatience, [this, own = queued_] { return done_ >= own; });
}

bool Sink::flush() {
  std::unique_lock lock(mutex_);
  if (!has_writer_) return true;
  try {
    queue_lost_text();
  } catch (const std::bad_alloc&) {
    // They stay counted, and untold.
  }
  work_.notify_one();
  const Deadline end = Deadline::after(10 * kStandstill);
  const auto empty = [this] { return queue_.empty(); };
  for (std::uint64_t before = moved_;; before = moved_) {
    if (progress_.wait_for(lock, kStandstill, empty)) return true;
    if (moved_ == before || end.expired()) return false;
  }
}

void Sink::queue(Entry entry) {
  const std::size_t bytes = entry.text.size();
  queue_.push_back(std::move(entry));
  queued_bytes_ += bytes;
  ++queued_;
}

void Sink::queue_lost_text() {
  if (lost_ == 0) return;
  queue({lost_text_(lost_), lost_});
  lost_ = 0;
}

void Sink::write_directly(std::string_view text) {
  if (lost_ > 0 && put(lost_text_(lost_))) lost_ = 0;
  if (!put(text)) ++lost_;
}

// As much of `budget` as this second has left.
template <typename Condition>
void Sink::wait(std::unique_lock<std::mutex>& lock, std::chrono::nanoseconds budget,
                const Condition& condition) {
  const auto start = Clock::now();
  if (start - second_began_ >= std::chrono::seconds(1)) {
    second_began_ = start;
    waited_ = {};
  }
  if (waited_ >= budget) return;
  progress_.wait_for(lock, budget - waited_, condition);
  waited_ += Clock::now() - start;
}

bool Sink::wait_for_room(std::unique_lock<std::mutex>& lock, std::size_t bytes) {
  // A text that nothing is before is taken whatever its size.
  const auto has_room = [this, bytes] {
    return queue_.empty() || queued_bytes_ + bytes <= kMaxQueuedBytes;
  };
  if (has_room()) return true;
  // Nothing has moved since the last one gave up: nor waits this one.
  if (stood_at_ == moved_) return false;
  wait(lock, kPatienceForRoom, has_room);
  if (has_room()) return true;
  stood_at_ = moved_;
  return false;
}

// The writer's root: nothing in it throws.
void Sink::write_queue() {
  std::unique_lock lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    // More may be queued behind it meanwhile: it stays where it is.
    std::string_view left = queue_.front().text;
    bool taken = true;
    while (taken && !left.empty()) {
      const std::string_view piece = left.substr(0, PIPE_BUF);
      lock.unlock();
      taken = put(piece);
      lock.lock();
      if (taken) ++moved_;
      left.remove_prefix(piece.size());
    }
    if (!taken) lost_ += queue_.front().stands_for;
    queued_bytes_ -= queue_.front().text.size();
    queue_.pop_front();
    ++done_;
    progress_.notify_all();
  }
}

Status Sink::refusal(std::string_view name) const {
  const int error = refusal_.load(std::memory_order_relaxed);
  return error == 0 ? Status() : os_error(fmt::format("write to {}", name), error);
}

bool Sink::put(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(fd_, text.data(), std::min<std::size_t>(text.size(), PIPE_BUF));
    if (count > 0) {
      text.remove_prefix(static_cast<std::size_t>(count));
    } else if (count < 0 && errno == EAGAIN) {
      pollfd room{fd_, POLLOUT, 0};
      ::poll(&room, 1, -1);
    } else if (count == 0 || errno != EINTR) {
      int none = 0;
      refusal_.compare_exchange_strong(none, count == 0 ? EIO : errno, std::memory_order_relaxed);
      return false;
    }
  }
  return true;
}

Sink& stderr_sink() {
  static Sink& sink = *new Sink(STDERR_FILENO, lost_lines);
  return sink;
}

Sink& stdout_sink() {
  static Sink& sink = *new Sink(STDOUT_FILENO, lost_tables);
  return sink;
}

void flush_sinks() {
  (void)stdout_sink().flush();
  (void)stderr_sink().flush();
}

void exit_at_once(int code) {
  flush_sinks();
  ::_exit(code);
}

}  // namespace airlock
