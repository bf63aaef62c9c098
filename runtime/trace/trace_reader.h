#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "base/readable_file.h"
#include "base/status.h"
#include "runtime/trace/trace.h"

namespace airlock {

/// Reads a trace file record by record, in bounded memory. The file is untrusted: every line is
/// bounded and checked. One thread.
class TraceReader {
 public:
  /// kInvalidInput, naming the file, for one that cannot be read or has no valid header.
  static Result<TraceReader> open(const std::string& path);

  const TraceHeader& header() const { return header_; }
  /// The next op; nullopt at the end. kInvalidInput with FILE:LINE for a line that is no record of
  /// this trace, unless it is the last and has no end: then the trace was cut off there. A last
  /// line without an end that is a whole record is taken; cut() tells of it.
  Result<std::optional<TraceRecord>> next();
  /// Back to the first record.
  Status rewind();

  /// After the end: what is missing, or that there is more than the header says, for a warning;
  /// empty where the trace is whole.
  const std::string& cut() const { return read_.cut; }

 private:
  explicit TraceReader(ReadableFile file) : file_(std::move(file)) {}
  enum class Line : std::uint8_t { kWhole, kWithoutEnd, kNone };
  Result<Line> read_line(std::string& line);
  std::string place() const;
  std::string cut_at_end() const;

  /// How far the file was read.
  struct Progress {
    std::uint64_t bytes = 0;
    bool end_of_file = false;
    // What was read of it and is still wanted begins at `position`.
    std::string buffer;
    std::size_t position = 0;
    std::uint64_t lines = 0;
    std::uint64_t records = 0;
    // The last line has no newline.
    bool without_end = false;
    std::string cut;
  };

  ReadableFile file_;
  TraceHeader header_;
  Progress read_;
};

}  // namespace airlock
