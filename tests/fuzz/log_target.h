#pragma once

#include <string>
#include <string_view>
#include <vector>

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

inline const std::string kTop =
    "ZeroMQ Performance Log - Transport: IPC+SHM\n=====\n"
    "ID Method Ser(ms) Send(ms) Recv(ms) Deser(ms) Comm(ms) GPU(ms) Total(ms) Sent(KB) Recv(KB)\n"
    "1 Init 0.123 0.027 3.636 0.073 3.866 0.000 3.871 0.05 134.84\n";
inline const std::string kSummary =
    "\n=====\nSUMMARY (Ours)\n=====\nTotal RPC Calls: 14\n\nPrefill Wall-Clock Time:\n  Total: "
    "10.3433 s\n\nCommunication Time:\n  Total: 0.0560 s (4.000 ms/call)\n\nGPU Computation Time:\n"
    "  Total: 0.0140 s (1.000 ms/call)\n\nTEE Computation Time (Prefill - GPU - Comm):\n  Total: "
    "9.4238 s (96.161 ms/call)\n\nOperation Statistics:\n  Linear (count=112):\n    Avg Total: "
    "81.057 ms\n=====\n";

/// A prefill of two layers.
inline std::string prefill(unsigned first_id) {
  static constexpr const char* kMethods[] = {
      "Embedding",   "BatchLinear", "Matmul",      "Matmul", "BatchLinear",
      "BatchLinear", "BatchLinear", "BatchLinear", "Matmul", "Matmul",
      "BatchLinear", "BatchLinear", "BatchLinear", "LMHead"};
  std::string text;
  for (const char* method : kMethods) {
    text.append(std::to_string(first_id++)).append(" ").append(method);
    text.append(" 0.5 1 2 0.5 4.013 1 4.014 0.10 0.10\n");
  }
  return text;
}

inline std::vector<std::string> valid_logs() {
  return {kTop + prefill(2) + prefill(1) + kSummary, kTop + prefill(2), prefill(1) + kSummary};
}

/// Gives any text to the importer of the prototype's logs. What it accepts must be a trace that a
/// reader accepts, with parts that sum; a broken promise ends the process. Returns why it was
/// refused for each of two models, if it was.
inline Status import_anything(std::string_view text) {
  const auto log = trace::parse_prototype_log(text, "log");
  if (!log.ok()) {
    CHECK(log.status().code() == StatusCode::kInvalidInput);
    return log.status();
  }
  CHECK(log->calls.size() <= trace::kMaxLogCalls);
  Status refused;
  bool accepted = false;
  trace::ImportChoice last;  // of LLaMA-3.2-1B
  last.run = trace::kLastRun;
  for (const trace::ImportChoice& choice : {two_layers(), last}) {
    const auto imported = trace::import_log(*log, choice, "log");
    if (!imported.ok()) {
      CHECK(imported.status().code() == StatusCode::kInvalidInput);
      refused = imported.status();
      continue;
    }
    accepted = true;
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
  return accepted ? Status() : refused;
}

}  // namespace airlock
