#include "runtime/trace/trace_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "runtime/trace/trace_line.h"

namespace airlock {

std::string TraceReader::place() const { return fmt::format("{}:{}", file_.path(), read_.lines); }

/// A line without its newline; the last one may lack it.
Result<TraceReader::Line> TraceReader::read_line(std::string& line) {
  std::string& buffer = read_.buffer;
  for (;;) {
    const std::size_t newline = buffer.find('\n', read_.position);
    const std::size_t end = std::min(newline, buffer.size());
    if (end - read_.position > kMaxTraceLineBytes) {
      ++read_.lines;
      return Status(StatusCode::kInvalidInput, "{}: a line over {} bytes", place(),
                    kMaxTraceLineBytes);
    }
    const bool whole = newline != std::string::npos;
    if (whole || read_.end_of_file) {
      line.assign(buffer, read_.position, end - read_.position);
      read_.position = whole ? newline + 1 : end;
      // An editor may have left blank lines, and carriage returns, which JSON takes for white
      // space.
      const bool blank = line.find_first_not_of(" \t\r") == std::string::npos;
      if (!whole && blank) return Line::kNone;
      ++read_.lines;
      if (blank) continue;
      read_.without_end = !whole;
      return whole ? Line::kWhole : Line::kWithoutEnd;
    }
    constexpr std::size_t kReadBytes = std::size_t{256} << 10;
    buffer.erase(0, read_.position);
    read_.position = 0;
    const std::size_t kept = buffer.size();
    buffer.resize(kept + kReadBytes);
    ASSIGN_OR_RETURN(
        const std::size_t count,
        file_.read_some(read_.bytes, std::as_writable_bytes(std::span(buffer)).subspan(kept)));
    buffer.resize(kept + count);
    read_.bytes += count;
    read_.end_of_file = count < kReadBytes;
  }
}

Result<TraceReader> TraceReader::open(const std::string& path) {
  ASSIGN_OR_RETURN(ReadableFile file, ReadableFile::open(path));
  TraceReader reader(std::move(file));
  std::string line;
  ASSIGN_OR_RETURN(const Line kind, reader.read_line(line));
  if (kind == Line::kNone) {
    return Status(StatusCode::kInvalidInput, "{}: no trace: it is empty", path);
  }
  ASSIGN_OR_RETURN(reader.header_, decode_trace_header(line, reader.place()));
  return reader;
}

std::string TraceReader::cut_at_end() const {
  const std::string& path = file_.path();
  const std::uint64_t stated = header_.records.value_or(0);
  if (!header_.records)
    return fmt::format("{} was cut off: it ends after {} ops", path, read_.records);
  if (stated > read_.records)
    return fmt::format("{} was cut off: it has {} of {} ops", path, read_.records, stated);
  if (stated < read_.records)
    return fmt::format("{} has {} ops, its header says {}", path, read_.records, stated);
  if (read_.without_end)
    return fmt::format("{} was cut off: line {}, its last, has no end", path, read_.lines);
  return {};
}

Result<std::optional<TraceRecord>> TraceReader::next() {
  std::string line;
  ASSIGN_OR_RETURN(const Line kind, read_line(line));
  if (kind == Line::kNone) {
    if (read_.cut.empty()) read_.cut = cut_at_end();
    return std::optional<TraceRecord>();
  }
  auto record = decode_trace_record(line, header_, place());
  if (!record.ok()) {
    if (kind == Line::kWhole) return record.status();
    read_.cut = fmt::format("{} was cut off: it ends in the middle of line {}, after {} ops",
                            file_.path(), read_.lines, read_.records);
    return std::optional<TraceRecord>();
  }
  ++read_.records;
  return std::optional<TraceRecord>(std::move(record).value());
}

Status TraceReader::rewind() {
  read_ = {};
  std::string line;
  return read_line(line).status();  // the header, which is known
}

}  // namespace airlock
