#include "runtime/trace/trace_writer.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/deadline.h"
#include "base/file.h"
#include "base/thread.h"
#include "runtime/trace/trace_line.h"

namespace airlock {
namespace {

/// About 100 MB of records: seconds of a disk that hangs.
constexpr std::size_t kMaxQueuedRecords = std::size_t{1} << 16;
constexpr std::size_t kFlushBytes = std::size_t{256} << 10;
/// For wall_ns, records and dropped, which are null and 0 in the header that is written first.
constexpr std::size_t kHeaderRoomBytes = 96;
/// How long close() and a waiting add() bear with a disk or a pipe's reader that takes nothing, and
/// how often that is looked at.
constexpr std::uint64_t kPatienceNs = 5'000'000'000;
constexpr int kLookMs = 50;

class Writer final : public TraceWriter {
 public:
  Writer(std::string path, std::unique_ptr<OutputDraft> file, TraceHeader header,
         WhenFull when_full)
      : path_(std::move(path)),
        file_(std::move(file)),
        header_(std::move(header)),
        when_full_(when_full) {
    header_.wall_ns.reset();
    header_.records.reset();
    header_.dropped = 0;
    buffer_ = encode_trace_line(header_);
    buffer_.append(kHeaderRoomBytes, ' ');
    header_bytes_ = buffer_.size();
    buffer_ += '\n';
  }
  /// Writes the header, so that a full disk shows before the run, and starts the thread; only then
  /// does a new file take the place of an older one.
  Status start() {
    while (!buffer_.empty()) {
      const ssize_t count = ::write(file_->fd(), buffer_.data(), buffer_.size());
      if (count >= 0) {
        buffer_.erase(0, static_cast<std::size_t>(count));
      } else if (errno == EAGAIN) {
        break;
      } else if (errno != EINTR) {
        return os_error("write the trace " + path_, errno);
      }
    }
    ASSIGN_OR_RETURN(thread_, start_thread("the trace", [this] {
                       const Status status = without_exceptions([this]() -> Status {
                         write_queue();
                         return {};
                       });
                       if (!status.ok()) fail(status);
                     }));
    return file_->take_place();
  }
  ~Writer() override { stop(); }

  void add(TraceRecord record) override {
    {
      std::unique_lock lock(mutex_);
      if (when_full_ == WhenFull::kWait) wait_for_room(lock);
      if (failed_ || queue_.size() >= kMaxQueuedRecords) {
        ++dropped_;
        return;
      }
      queue_.push_back(std::move(record));
    }
    work_.notify_one();
  }

  Status close(std::optional<std::uint64_t> wall_ns) override {
    stop();
    if (status_.ok() && is_set(failed_)) fail(ETIMEDOUT);
    if (!status_.ok()) return status_;
    if (!file_->is_new_file()) return {};
    header_.wall_ns = wall_ns;
    header_.records = written_;
    header_.dropped = dropped_;
    std::string line = encode_trace_line(header_);
    CHECK(line.size() <= header_bytes_);  // kHeaderRoomBytes is for the longest numbers
    line.resize(header_bytes_, ' ');
    const ssize_t count = ::pwrite(file_->fd(), line.data(), line.size(), 0);
    if (count == static_cast<ssize_t>(line.size())) return {};
    return os_error("write the trace " + path_, count < 0 ? errno : ENOSPC);
  }

  std::uint64_t dropped() const override {
    const std::lock_guard lock(mutex_);
    return dropped_;
  }

 private:
  void stop() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_one();
    thread_.join();
  }

  /// Or until nothing was written for so long that the writer counts as failed.
  void wait_for_room(std::unique_lock<std::mutex>& lock) {
    const auto ready = [this] { return queue_.size() < kMaxQueuedRecords || failed_; };
    for (std::uint64_t before = progress_;; before = progress_) {
      if (room_.wait_for(lock, std::chrono::nanoseconds(kPatienceNs), ready)) return;
      if (progress_ == before) {
        failed_ = true;
        return;
      }
    }
  }

  void write_queue() {
    std::vector<TraceRecord> batch;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
        if (queue_.empty() && stopping_) break;
        batch.swap(queue_);
      }
      room_.notify_one();
      for (const TraceRecord& record : batch) {
        buffer_ += encode_trace_line(record);
        buffer_ += '\n';
        ++written_;
        if (buffer_.size() >= kFlushBytes) flush();
      }
      flush();  // what is there now survives this process
      batch.clear();
    }
    flush();
  }

  void flush() {
    std::string_view left = buffer_;
    std::uint64_t patience_end_ns = 0;  // once the run is over
    while (status_.ok() && !left.empty()) {
      const ssize_t count = ::write(file_->fd(), left.data(), left.size());
      const int error = errno;
      if (is_set(failed_)) {
        fail(ETIMEDOUT);
      } else if (count >= 0) {
        left.remove_prefix(static_cast<std::size_t>(count));
        patience_end_ns = 0;
        const std::lock_guard lock(mutex_);
        ++progress_;
      } else if (error == EAGAIN) {
        if (patience_end_ns == 0 && is_set(stopping_)) patience_end_ns = now_ns() + kPatienceNs;
        if (patience_end_ns != 0 && now_ns() > patience_end_ns) fail(ETIMEDOUT);
        pollfd room{file_->fd(), POLLOUT, 0};
        ::poll(&room, 1, kLookMs);
      } else if (error != EINTR) {
        fail(error);
      }
    }
    buffer_.clear();
  }

  bool is_set(const bool& guarded) const {
    const std::lock_guard lock(mutex_);
    return guarded;
  }
  void fail(int error) { fail(os_error("write the trace " + path_, error)); }
  void fail(Status status) {
    status_ = std::move(status);
    const std::lock_guard lock(mutex_);
    failed_ = true;
    room_.notify_one();
  }

  const std::string path_;
  const std::unique_ptr<OutputDraft> file_;
  TraceHeader header_;
  const WhenFull when_full_;
  std::size_t header_bytes_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::condition_variable room_;
  std::vector<TraceRecord> queue_;  // guarded by mutex_, as are the next four
  std::uint64_t dropped_ = 0;
  std::uint64_t progress_ = 0;  // writes that took something
  bool failed_ = false;
  bool stopping_ = false;

  // The thread's own; close() reads them once it has ended.
  std::string buffer_;
  std::uint64_t written_ = 0;
  Status status_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<TraceWriter>> TraceWriter::create(const OutputFile& place,
                                                         TraceHeader header, WhenFull when_full) {
  // What is written through is never waited for here; a pipe's slow reader is, by the writer's
  // thread.
  ASSIGN_OR_RETURN(auto file, place.begin());
  auto writer =
      std::make_unique<Writer>(place.path(), std::move(file), std::move(header), when_full);
  RETURN_IF_ERROR(writer->start());
  return std::unique_ptr<TraceWriter>(std::move(writer));
}

}  // namespace airlock
