#pragma once

#include <string_view>

#include "base/check.h"
#include "runtime/trace/trace_line.h"
#include "tools/airlock_trace/import.h"

namespace airlock {

/// A model of two layers, so that a short text can be a whole prefill.
inline trace::ImportChoice two_layers() {
  trace::ImportChoice choice;
  choice.dims = {.hidden = 64,
                 .intermediate = 128,
                 .layers = 2,
                 .heads = 4,
                 .kv_heads = 2,
                 .head_dim = 16,
                 .vocab = 100};
  return choice;
}

/// Gives any text to the importer of the prototype's logs. What it accepts must be a trace that a
/// reader accepts, with parts that sum; a broken promise ends the process.
inline void import_anything(std::string_view text) {
  const auto log = trace::parse_prototype_log(text, "log");
  if (!log.ok()) {
    CHECK(log.status().code() == StatusCode::kInvalidInput);
    return;
  }
  CHECK(log->calls.size() <= trace::kMaxLogCalls);
  trace::ImportChoice last;  // of LLaMA-3.2-1B
  last.run = trace::kLastRun;
  for (const trace::ImportChoice& choice : {two_layers(), last}) {
    const auto imported = trace::import_log(*log, choice, "log");
    if (!imported.ok()) continue;
    const auto header = decode_trace_header(encode_trace_line(imported->header), "header");
    CHECK(header.ok());
    CHECK(*header == imported->header);
    std::uint64_t end_ns = 0;
    for (const TraceRecord& record : imported->records) {
      const auto decoded = decode_trace_record(encode_trace_line(record), *header, "record");
      CHECK(decoded.ok());
      CHECK(*decoded == record);
      CHECK(record.start_ns == end_ns);
      end_ns += record.times.total_ns;
    }
    CHECK(!header->wall_ns || *header->wall_ns >= end_ns);
  }
}

}  // namespace airlock
