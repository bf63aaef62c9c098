#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "runtime/model/config.h"
#include "runtime/trace/trace_writer.h"
#include "tests/support/read_trace.h"
#include "tests/support/synthesise_records.h"

namespace airlock::trace::test {

inline std::string data_path(const std::string& name) {
  return std::string(AIRLOCK_SOURCE_DIR) + "/tests/data/" + name;
}

inline LlamaConfig config_of(const std::string& name) {
  auto config = load_config(data_path("configs/" + name));
  CHECK(config.ok());
  return *config;
}

inline ModelDims tiny_dims() { return config_of("tiny.json").dims; }

/// A prefill of the tiny model with times of our own: op after op, or two at a time where
/// `overlap_ns` is not 0.
inline Trace timed_trace(std::int64_t tokens, std::uint64_t runs = 1,
                         std::uint64_t overlap_ns = 0) {
  Trace trace;
  TraceHeader& header = trace.header;
  header.source = TraceSource::kRecorded;
  header.build = build_name();
  header.model = "tiny.json";
  header.dims = tiny_dims();
  header.tokens = tokens;
  header.runs = runs;
  header.attention = "offload";
  header.backend = "remote";
  header.path_limit_bytes = 65536;
  header.ring_slots = 8;
  trace.records =
      synthesise_records(header.dims, {tokens, DType::kF32, Attention::kOffload, Logits::kLast},
                         {true, 65536, 8}, runs);
  std::uint64_t start_ns = 500;
  for (TraceRecord& record : trace.records) {
    record.start_ns = start_ns;
    record.times.tee_ns = 101 + record.seq;
    record.times.wire_ns = 2003;
    record.times.queue_ns = record.seq % 3 == 0 ? 0 : 40;
    record.times.server_ns = 5000;
    record.times.total_ns =
        record.times.tee_ns + record.times.wire_ns + record.times.queue_ns + record.times.server_ns;
    record.slots_in_use = 1;
    start_ns += record.times.total_ns + 1000 - overlap_ns;
  }
  header.records = trace.records.size();
  header.wall_ns = trace.records.back().start_ns + trace.records.back().times.total_ns + 300;
  return trace;
}

inline void write(const Trace& trace, const std::string& path) {
  auto writer = TraceWriter::create(OutputFile::open(path).value(), trace.header,
                                    TraceWriter::WhenFull::kWait);
  CHECK(writer.ok());
  for (const TraceRecord& record : trace.records) (*writer)->add(record);
  CHECK((*writer)->close(trace.header.wall_ns).ok());
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

}  // namespace airlock::trace::test
