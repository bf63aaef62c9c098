#pragma once

#include "runtime/trace/trace.h"
#include "tests/stats/sample_reports.h"

namespace airlock::report {

inline TraceHeader sample_header() {
  TraceHeader header;
  header.build = "airlock 0.1.0";
  header.host = {"box", "AMD EPYC", 2, "cpu"};
  header.model = "tiny.json";
  header.dims = {64, 128, 2, 4, 2, 16, 256};
  header.tokens = 8;
  header.attention = "offload";
  header.backend = "remote";
  header.path_limit_bytes = 4096;
  header.ring_slots = 8;
  return header;
}

/// A product of [4, 8, 16] and [2, 8, 16]: 2048 and 1024 bytes in by the ring, 1024 out by
/// `result`.
inline TraceRecord sample_record(std::uint64_t seq, std::uint64_t start_ns, std::uint64_t wire_ns,
                                 Path result = Path::kRing) {
  TraceRecord record;
  record.seq = seq;
  record.op = Op::kMatmul;
  record.layer = 0;
  record.transpose = Transpose::kB;
  record.inputs = {{{DType::kF32, {4, 8, 16}}, Path::kRing, {}},
                   {{DType::kF32, {2, 8, 16}}, Path::kRing, {}}};
  record.outputs = {{{DType::kF32, {4, 8, 8}}, result, {}}};
  record.slots_in_use = 2;
  record.start_ns = start_ns;
  record.wire_ns = wire_ns;
  record.total_ns = wire_ns;
  return record;
}

}  // namespace airlock::report
