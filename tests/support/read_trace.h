#pragma once

#include <string>
#include <utility>
#include <vector>

#include "runtime/trace/trace_reader.h"

namespace airlock {

/// All of a trace, in memory.
struct Trace {
  TraceHeader header;
  std::vector<TraceRecord> records;
  std::string cut;  // as TraceReader::cut()
};

inline Result<Trace> read_trace(const std::string& path) {
  ASSIGN_OR_RETURN(TraceReader reader, TraceReader::open(path));
  Trace trace;
  trace.header = reader.header();
  for (;;) {
    ASSIGN_OR_RETURN(std::optional<TraceRecord> record, reader.next());
    if (!record) break;
    trace.records.push_back(std::move(*record));
  }
  trace.cut = reader.cut();
  return trace;
}

}  // namespace airlock
