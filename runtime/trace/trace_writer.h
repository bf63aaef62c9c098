#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/output_file.h"
#include "base/status.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// Writes a trace file from a thread of its own: a new one of mode 0600 in the place of what was
/// there, in which each whole op can be read while the run is under way and after a kill; a pipe or
/// a device is written to as it is. One thread adds.
class TraceWriter {
 public:
  /// What add() does when the disk cannot keep up.
  enum class WhenFull : std::uint8_t { kDrop, kWait };

  /// The header's wall_ns, records and dropped are written by close(). kInvalidInput where the file
  /// cannot be made, kResourceExhausted where the disk is full already or there is no thread; what
  /// was there then stays.
  static Result<std::unique_ptr<TraceWriter>> create(const OutputFile& place, TraceHeader header,
                                                     WhenFull when_full);
  /// Without a close() the trace stays as one that was cut off.
  virtual ~TraceWriter() = default;

  /// Takes a record; kDrop never waits. kWait waits for room, but where nothing was written for 5 s
  /// the writer has failed. After a failure records are dropped.
  virtual void add(TraceRecord record) = 0;
  /// Writes what is left, then the header's last fields. kInvalidInput, or kResourceExhausted where
  /// the disk is full: with the first failure of any write. A pipe's reader that takes nothing is
  /// waited for 5 s. Nothing is added afterwards.
  virtual Status close(std::optional<std::uint64_t> wall_ns) = 0;
  /// Records that did not get into the file so far.
  virtual std::uint64_t dropped() const = 0;
};

}  // namespace airlock
