#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "base/status.h"

namespace airlock {

/// A stream for people and collectors, stderr or stdout, that may stand still: a full pipe, a
/// stopped terminal, a disk that hangs. Whole texts go out in their order; one of up to PIPE_BUF
/// bytes in one write(2), so that another process that shares a pipe does not cut it. Thread-safe.
///
/// Without a writer the thread that brings a text writes it, and waits as long as the stream does.
/// With one, which a program starts whose threads must not wait, a thread of the sink's own writes
/// and is the only one that may be held up for long. What it has not written yet is queued, up to
/// kMaxQueuedBytes; beyond that the oldest texts stay, the newest are dropped and counted, and the
/// next one that fits comes behind a line that says how many were lost. Why a thread, and not
/// O_NONBLOCK or poll(2): docs/adr/0013-a-thread-that-may-wait-for-a-stream.md.
class Sink {
 public:
  static constexpr std::size_t kMaxQueuedBytes = std::size_t{256} << 10;
  /// With a writer write() still waits until its text is out, so that a stream that works has each
  /// text whatever ends the process next; but no longer than this in any second, in all calls
  /// together.
  static constexpr std::chrono::milliseconds kPatience{10};
  /// The same of waiting for room in the queue, which only a stream that moves is given: texts that
  /// come for a moment faster than they go are not lost.
  static constexpr std::chrono::milliseconds kPatienceForRoom{100};
  /// flush() gives up where the stream has taken nothing for so long, and after ten times as long
  /// in any case.
  static constexpr std::chrono::milliseconds kStandstill{200};

  /// `fd` blocks (one that somebody else has made non-blocking is waited for) and outlives this.
  /// `lost_text` is the line that tells of so many lost texts, with its newline.
  Sink(int fd, std::string (*lost_text)(std::uint64_t count)) : fd_(fd), lost_text_(lost_text) {}
  /// Waits until the writer has written what is queued, or has found the stream closed.
  ~Sink();
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  /// Starts the writer, once. kResourceExhausted as start_thread(). A process that has one does not
  /// fork().
  Status start_writer();
  /// Takes `text`, which ends with a newline unless it is to be continued. What the stream refuses
  /// (it is closed, the disk is full) counts as lost. Never throws.
  void write(std::string_view text) noexcept;
  /// Why the stream, `name`, has refused a text so far (it is closed, the disk is full); ok where
  /// it has not, also where it merely stands still.
  Status refusal(std::string_view name) const;
  /// Waits until all that was brought is out. false: given up.
  bool flush();

 private:
  struct Entry {
    std::string text;
    // Texts that are lost where this one is.
    std::uint64_t stands_for = 1;
  };
  void queue(Entry entry);
  void queue_lost_text();
  void write_directly(std::string_view text);
  template <typename Condition>
  void wait(std::unique_lock<std::mutex>& lock, std::chrono::nanoseconds budget,
            const Condition& condition);
  bool wait_for_room(std::unique_lock<std::mutex>& lock, std::size_t bytes);
  void write_queue();
  bool put(std::string_view text);

  const int fd_;
  // Of the first write that was refused; 0: none was.
  std::atomic<int> refusal_{0};
  std::string (*const lost_text_)(std::uint64_t);

  // All up to has_writer_ are guarded by mutex_.
  std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable progress_;
  // The writer works on the first.
  std::deque<Entry> queue_;
  std::size_t queued_bytes_ = 0;
  std::uint64_t queued_ = 0;
  std::uint64_t done_ = 0;
  // Writes that the stream took.
  std::uint64_t moved_ = 0;
  std::uint64_t lost_ = 0;
  // moved_ when somebody last waited for room in vain.
  std::optional<std::uint64_t> stood_at_;
  // What was waited in the second that began then.
  std::chrono::steady_clock::time_point second_began_;
  std::chrono::nanoseconds waited_{};
  bool stopping_ = false;
  bool has_writer_ = false;
  std::thread writer_;
};

/// Of the process; never destroyed, for a writer may stand still to the end.
Sink& stderr_sink();
Sink& stdout_sink();
/// Both, before a process ends: what is due goes out, or is given up as Sink::flush() does.
void flush_sinks();
/// flush_sinks() and _exit(2): for an end at which other threads cannot be waited for.
[[noreturn]] void exit_at_once(int code);

}  // namespace airlock
