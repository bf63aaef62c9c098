#include "runtime/replay/records.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "runtime/trace/trace_reader.h"

namespace airlock {
namespace {

class KeptSource final : public RecordSource {
 public:
  KeptSource(const std::vector<TraceRecord>& records, const std::string& cut)
      : records_(records), cut_(cut) {}
  Result<const TraceRecord*> next() override {
    return next_ == records_.size() ? nullptr : &records_[next_++];
  }
  Status rewind() override {
    next_ = 0;
    return {};
  }
  std::string cut() const override { return cut_; }

 private:
  const std::vector<TraceRecord>& records_;
  const std::string& cut_;
  std::size_t next_ = 0;
};

class FileSource final : public RecordSource {
 public:
  explicit FileSource(TraceReader reader) : reader_(std::move(reader)) {}
  Result<const TraceRecord*> next() override {
    ASSIGN_OR_RETURN(record_, reader_.next());
    return record_ ? &*record_ : nullptr;
  }
  Status rewind() override { return reader_.rewind(); }
  std::string cut() const override { return reader_.cut(); }

 private:
  TraceReader reader_;
  std::optional<TraceRecord> record_;
};

}  // namespace

Result<std::unique_ptr<ReplayTrace>> ReplayTrace::open(const std::string& path,
                                                       std::size_t most_kept) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path));
  auto trace = std::make_unique<ReplayTrace>();
  trace->path_ = path;
  trace->header_ = reader.header();
  while (!trace->kept_) {
    ASSIGN_OR_RETURN(std::optional<TraceRecord> record, reader.next());
    if (!record) {
      trace->kept_ = true;
      trace->cut_ = reader.cut();
    } else if (trace->records_.size() == most_kept) {
      trace->records_ = {};
      break;
    } else {
      trace->records_.push_back(std::move(*record));
    }
  }
  return trace;
}

Result<std::unique_ptr<RecordSource>> ReplayTrace::make_source() const {
  if (kept_) return std::unique_ptr<RecordSource>(std::make_unique<KeptSource>(records_, cut_));
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path_));
  if (!(reader.header() == header_)) {
    return Status(StatusCode::kInvalidInput, fmt::format("{} changed while it was read", path_));
  }
  return std::unique_ptr<RecordSource>(std::make_unique<FileSource>(std::move(reader)));
}

}  // namespace airlock
