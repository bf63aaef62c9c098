#include "runtime/replay/records.h"

#include <utility>

namespace airlock {

Result<const TraceRecord*> RecordSource::next() {
  if (!reader_) return next_ == kept_.size() ? nullptr : &kept_[next_++];
  ASSIGN_OR_RETURN(record_, reader_->next());
  return record_ ? &*record_ : nullptr;
}

Status RecordSource::rewind() {
  next_ = 0;
  return reader_ ? reader_->rewind() : Status();
}

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
  if (kept_) return std::make_unique<RecordSource>(records_, cut_);
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path_));
  if (!(reader.header() == header_)) {
    return Status(StatusCode::kInvalidInput, "{} changed while it was read", path_);
  }
  return std::make_unique<RecordSource>(std::move(reader));
}

}  // namespace airlock
