#pragma once

#include <cstddef>
#include <optional>

#include "base/status.h"

namespace airlock {

/// Keeps this process alive when the peer truncates a mapped file, or no page is left for shared
/// memory that was only promised: the SIGBUS handler maps
/// anonymous pages over the whole of a guarded range and marks it faulted, so that the access goes
/// on (on zeros) and the ring can report a protocol error. Faults outside guarded ranges go to the
/// handler that was there before. Process-wide table of fixed size; registering is thread-safe, the
/// handler async-signal-safe.
class SegmentGuard {
 public:
  static constexpr std::size_t kMaxRanges = 1024;

  /// kResourceExhausted where the table is full. The range must be a mapping that outlives the
  /// guard.
  static Result<SegmentGuard> create(void* begin, std::size_t bytes);
  SegmentGuard(SegmentGuard&& other) noexcept;
  SegmentGuard& operator=(SegmentGuard&&) = delete;
  ~SegmentGuard();  // before the range is unmapped

  /// The file behind the range became too short at some time; what was read since may be zeros. Any
  /// thread.
  bool faulted() const;

 private:
  explicit SegmentGuard(std::size_t index) : index_(index) {}
  std::optional<std::size_t> index_;
};

}  // namespace airlock
