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

/// Mapped shared memory, zeroed when created. The creator holds a lock on a named file until
/// unlink(), which tells its segments from a dead owner's. Not movable; rings point into it and
/// must not outlive it. faulted() from any thread, the rest from one.
class Segment {
 public:
  /// A new file below /dev/shm, 0600. kInUse where the name is taken.
  static Result<std::unique_ptr<Segment>> create(const std::string& name, std::size_t bytes);
  /// New memory without a name, for descriptor() to pass on. Its size is sealed: no peer can
  /// truncate it. `name` shows in /proc/PID/maps.
  static Result<std::unique_ptr<Segment>> create_sealed(const std::string& name, std::size_t bytes);
  /// A peer's file. kProtocolError unless the name is well formed and the file is a regular one of
  /// exactly `bytes`, ours (the effective uid; so root's only if we are root) and 0600;
  /// kUnavailable where it is not there.
  static Result<std::unique_ptr<Segment>> open(const std::string& name, std::size_t bytes);
  /// A peer's memory. kProtocolError unless it has exactly `bytes` and its size is sealed.
  static Result<std::unique_ptr<Segment>> open_sealed(const UniqueFd& descriptor,
                                                      std::size_t bytes);

  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;
  /// Unlinks first, where create() made it.
  ~Segment();

  /// Takes all the memory that until now was only promised: from here on no access finds that there
  /// is none. Creator only. kResourceExhausted where the system lacks room (the
  /// message names the need, what is free, and the options that help). `check`, if any, is asked
  /// every 16 MiB, and ends it when not ok.
  Status reserve(const WaitCheck& check = {});
  /// Maps what is reserved, so that the first messages need not fault it in page by page.
  void populate() const;
  /// Gives the memory back to the system, whoever still maps it: from here on everybody reads
  /// zeros. Creator only.
  void discard() const;
  /// Removes the name and drops the lock; both mappings live on. Does nothing the second time, or
  /// where there is no name of ours.
  void unlink();
  std::span<std::byte> bytes() const { return {data_, bytes_}; }
  /// The creator's, while this lives.
  int descriptor() const { return owned_fd_.get(); }
  /// The peer truncated the file.
  bool faulted() const { return guard_ && guard_->faulted(); }
  const std::string& name() const { return name_; }

 private:
  Segment(const std::string& name, UniqueFd owned_fd);
  Status map(int fd, std::size_t bytes);

  std::string name_;
  /// Empty where there is no name.
  std::string path_;
  /// The creator's; holds its lock until unlink().
  UniqueFd owned_fd_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  std::optional<SegmentGuard> guard_;
};

/// Removes this user's segments whose owner is dead (nobody holds their lock); returns how many.
/// Of more than 65536 entries it looks at so many. Call it at start.
std::size_t sweep_stale_segments();

}  // namespace airlock
