#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/status.h"
#include "base/unique_fd.h"
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

  std::uint64_t records_read() const { return records_read_; }
  /// After the end: what is missing, or that there is more than the header says, for a warning;
  /// empty where the trace is whole.
  const std::string& cut() const { return cut_; }

 private:
  TraceReader(std::string path, UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}
  enum class Line : std::uint8_t { kWhole, kWithoutEnd, kNone };
  Result<Line> read_line(std::string& line);
  std::string place() const;
  std::string cut_at_end() const;

  std::string path_;
  UniqueFd fd_;
  TraceHeader header_;
  std::string buffer_;
  std::size_t position_ = 0;  // in buffer_
  bool end_of_file_ = false;
  bool without_end_ = false;  // the last line has no newline
  std::uint64_t line_number_ = 0;
  std::uint64_t records_read_ = 0;
  std::string cut_;
};

}  // namespace airlock
