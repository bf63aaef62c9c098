#include "runtime/trace/trace_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/file.h"
#include "runtime/trace/trace_line.h"

namespace airlock {
namespace {

constexpr std::size_t kReadBytes = std::size_t{256} << 10;

Status file_error(std::string_view what, const std::string& path, int error) {
  return os_error(fmt::format("{} the trace {}", what, path), error);
}

}  // namespace

std::string TraceReader::place() const { return fmt::format("{}:{}", path_, line_number_); }

/// A line without its newline; the last one may lack it.
Result<TraceReader::Line> TraceReader::read_line(std::string& line) {
  for (;;) {
    const std::size_t newline = buffer_.find('\n', position_);
    const std::size_t end = newline == std::string::npos ? buffer_.size() : newline;
    if (end - position_ > kMaxTraceLineBytes) {
      ++line_number_;
      return Status(StatusCode::kInvalidInput, "{}: a line over {} bytes", place(),
                    kMaxTraceLineBytes);
    }
    if (newline != std::string::npos) {
      line.assign(buffer_, position_, newline - position_);
      position_ = newline + 1;
      ++line_number_;
      return Line::kWhole;
    }
    if (end_of_file_) {
      line.assign(buffer_, position_);
      position_ = buffer_.size();
      if (line.empty()) return Line::kNone;
      ++line_number_;
      without_end_ = true;
      return Line::kWithoutEnd;
    }
    buffer_.erase(0, position_);
    position_ = 0;
    const std::size_t kept = buffer_.size();
    buffer_.resize(kept + kReadBytes);
    ssize_t count = -1;
    do {
      count = ::read(fd_.get(), buffer_.data() + kept, kReadBytes);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return file_error("read", path_, errno);
    buffer_.resize(kept + static_cast<std::size_t>(count));
    end_of_file_ = count == 0;
  }
}

Result<TraceReader> TraceReader::open(const std::string& path) {
  // Without waiting: a fifo without a writer would be waited for forever.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  if (!fd.valid()) return file_error("open", path, errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return file_error("open", path, errno);
  if (!S_ISREG(info.st_mode)) {
    return Status(StatusCode::kInvalidInput, "{} is no regular file", path);
  }
  TraceReader reader(path, std::move(fd));
  std::string line;
  ASSIGN_OR_RETURN(const Line kind, reader.read_line(line));
  if (kind == Line::kNone) {
    return Status(StatusCode::kInvalidInput, "{}: no trace: it is empty", path);
  }
  ASSIGN_OR_RETURN(reader.header_, decode_trace_header(line, reader.place()));
  return reader;
}

std::string TraceReader::cut_at_end() const {
  if (!header_.records) {
    return fmt::format("{} was cut off: it ends after {} ops", path_, records_read_);
  }
  if (*header_.records > records_read_) {
    return fmt::format("{} was cut off: it has {} of {} ops", path_, records_read_,
                       *header_.records);
  }
  if (*header_.records < records_read_) {
    return fmt::format("{} has {} ops, its header says {}", path_, records_read_, *header_.records);
  }
  if (without_end_) {
    return fmt::format("{} was cut off: line {}, its last, has no end", path_, line_number_);
  }
  return {};
}

Result<std::optional<TraceRecord>> TraceReader::next() {
  const std::optional<TraceRecord> end;
  std::string line;
  ASSIGN_OR_RETURN(const Line kind, read_line(line));
  if (kind == Line::kNone) {
    if (cut_.empty()) cut_ = cut_at_end();
    return end;
  }
  auto record = decode_trace_record(line, header_, place());
  if (!record.ok()) {
    if (kind == Line::kWhole) return record.status();
    cut_ = fmt::format("{} was cut off: it ends in the middle of line {}, after {} ops", path_,
                       line_number_, records_read_);
    return end;
  }
  ++records_read_;
  return std::optional<TraceRecord>(std::move(record).value());
}

Status TraceReader::rewind() {
  if (::lseek(fd_.get(), 0, SEEK_SET) != 0) return file_error("rewind", path_, errno);
  buffer_.clear();
  position_ = 0;
  end_of_file_ = false;
  without_end_ = false;
  line_number_ = 0;
  records_read_ = 0;
  cut_.clear();
  std::string line;
  return read_line(line).status();  // the header, which is known
}

}  // namespace airlock
