#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "runtime/trace/trace.h"
#include "runtime/trace/trace_reader.h"

namespace airlock {

/// The ops to replay, one after the other: some that are kept, or a file's. One thread.
class RecordSource {
 public:
  /// The records outlive it; `cut` is what they lack.
  RecordSource(std::span<const TraceRecord> kept, std::string cut)
      : kept_(kept), cut_(std::move(cut)) {}
  explicit RecordSource(TraceReader reader) : reader_(std::move(reader)) {}

  /// Lives until the next call; nullptr at the end. Errors as TraceReader::next().
  Result<const TraceRecord*> next();
  Status rewind();
  /// After the end: what is missing; empty where the trace is whole.
  const std::string& cut() const { return reader_ ? reader_->cut() : cut_; }

 private:
  std::span<const TraceRecord> kept_;
  std::string cut_;
  std::size_t next_ = 0;
  // Where nothing is kept.
  std::optional<TraceReader> reader_;
  std::optional<TraceRecord> record_;
};

inline constexpr std::size_t kReplayRecordsKept = 16384;

/// A trace for several readers at once, in bounded memory: a small one is read once and kept, of a
/// longer one each source reads the file. Thread-safe once it is open.
class ReplayTrace {
 public:
  /// As TraceReader::open(); a bad line among the first `most_kept` ops is found here.
  static Result<std::unique_ptr<ReplayTrace>> open(const std::string& path,
                                                   std::size_t most_kept = kReplayRecordsKept);

  const TraceHeader& header() const { return header_; }
  /// The trace outlives it. kInvalidInput where the file is another than it was.
  Result<std::unique_ptr<RecordSource>> make_source() const;

 private:
  std::string path_;
  TraceHeader header_;
  bool kept_ = false;
  // Both where kept_.
  std::vector<TraceRecord> records_;
  std::string cut_;
};

}  // namespace airlock
