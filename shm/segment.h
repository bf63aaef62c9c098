#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/status.h"
#include "base/unique_fd.h"
#include "shm/segment_guard.h"
#include "shm/wait.h"

namespace airlock {

enum class SegmentDirection { kRequest, kReply };

/// "airlock-<uid>-<epoch, 16 hex digits>-req|rep": the one place where names are made.
std::string make_segment_name(uid_t uid, std::uint64_t epoch, SegmentDirection direction);

/// A mapped file below /dev/shm, zeroed when created, guarded against truncation by the peer. The
/// creator holds a lock on the file until unlink(), which tells its segments from a dead owner's.
/// Not movable; rings point into it and must not outlive it. faulted() from any thread, the rest
/// from one.
class Segment {
 public:
  /// A new file, 0600, all its memory reserved. kResourceExhausted where /dev/shm lacks room (the
  /// message names the need, what is free, and the options that help); kInUse where the name is
  /// taken. `check`, if any, is asked every 16 MiB, and ends it when not ok.
  static Result<std::unique_ptr<Segment>> create(const std::string& name, std::size_t bytes,
                                                 const WaitCheck& check = {});
  /// A peer's file. kProtocolError unless the name is well formed and the file is a regular one of
  /// exactly `bytes`, ours (the effective uid; so root's only if we are root) and 0600;
  /// kUnavailable where it is not there.
  static Result<std::unique_ptr<Segment>> open(const std::string& name, std::size_t bytes);

  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  /// Unlinks first, where create() made it.
  ~Segment();

  /// Removes the name and drops the lock; both mappings live on. Does nothing the second time, or
  /// after open().
  void unlink();
  std::span<std::byte> bytes() const { return {data_, bytes_}; }
  /// The peer truncated the file.
  bool faulted() const { return guard_ && guard_->faulted(); }
  const std::string& name() const { return name_; }

 private:
  Segment(const std::string& name, UniqueFd owned_fd);
  Status map(int fd, std::size_t bytes);

  std::string name_;
  std::string path_;
  /// Holds the creator's lock; not valid after unlink() or open().
  UniqueFd owned_fd_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::optional<SegmentGuard> guard_;
};

/// Removes this user's segments whose owner is dead (nobody holds their lock); returns how many.
/// Call it at start.
std::size_t sweep_stale_segments();

}  // namespace airlock
