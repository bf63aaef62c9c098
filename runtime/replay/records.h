#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// The ops to replay, one after the other. One thread.
class RecordSource {
 public:
  virtual ~RecordSource() = default;
  /// Lives until the next call; nullptr at the end. Errors as TraceReader::next().
  virtual Result<const TraceRecord*> next() = 0;
  virtual Status rewind() = 0;
  /// After the end: what is missing; empty where the trace is whole.
  virtual std::string cut() const = 0;
};

inline constexpr std::size_t kReplayRecordsKept = 16384;

/// A trace for several readers at once, in bounded memory: a small one is read once and kept, of a
/// longer one each source reads the file. Thread-safe once it is open.
class ReplayTrace {
 public:
  /// As TraceReader::open(); a bad line among the first `most_kept` ops is found here.
  static Result<std::unique_ptr<ReplayTrace>> open(const std::string& path,
                                                   std::size_t most_kept = kReplayRecordsKept);

  const std::string& path() const { return path_; }
  const TraceHeader& header() const { return header_; }
  /// The trace outlives it. kInvalidInput where the file is another than it was.
  Result<std::unique_ptr<RecordSource>> make_source() const;

 private:
  std::string path_;
  TraceHeader header_;
  bool kept_ = false;
  std::vector<TraceRecord> records_;  // where kept_
  std::string cut_;                   // where kept_
};

}  // namespace airlock
