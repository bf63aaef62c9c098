#pragma once

#include <string>

#include "runtime/stats/report.h"
#include "runtime/trace/trace.h"

namespace airlock::report {

/// Adds a few values to a histogram.
inline HistogramSnapshot histogram_of(std::initializer_list<std::uint64_t> values) {
  Histogram histogram;
  for (const std::uint64_t value : values) histogram.record(value);
  return histogram.snapshot();
}

/// A runner's statistics with something in every part.
inline SideReport sample_runner() {
  SideReport report;
  report.side = "tee_runner";
  report.host = {"box", "AMD EPYC", 2, "cpu"};
  report.config = {{"backend", "remote"}, {"epoch", "abc"}, {"model", "tiny.json"}};
  report.transport.path(Path::kRing).sent = {60, 6, 5136};
  report.transport.path(Path::kRing).received = {60, 3, 6144};
  report.transport.path(Path::kRing).latency_ns = histogram_of({3, 60'000, 61'000, 81'080});
  report.transport.path(Path::kZmq).sent = {0, 72, 23'328'000};
  report.transport.path(Path::kZmq).latency_ns = histogram_of({147'000, 2'106'996});
  report.ops.of(Op::kMatmul) = {18, 21'246'250, 53'218, 16'303'145, 6'908, 4'882'979};
  report.tee[0] = {21, 798'478};
  report.wall_ns = 66'112'807;
  return report;
}

/// What its server says of the same session.
inline SideReport sample_server() {
  SideReport report;
  report.side = "gpu_server";
  report.host = {"box", "AMD EPYC", 2, "cpu"};
  SessionReport session;
  session.id = "abc";
  session.client = "tee_runner pid 7";
  session.transport.path(Path::kRing).sent = {60, 3, 6144};
  session.transport.path(Path::kRing).received = {60, 6, 5136};
  session.transport.path(Path::kZmq).received = {0, 72, 23'328'000};
  session.ops.of(Op::kMatmul) = {
      18, 4'990'207, 0, 100'320, 6'908, 4'882'979, {1'011, 4'000'022, 2'033}};
  report.merge(session);
  report.sessions.push_back(session);
  report.wall_ns = 367'997'672;
  return report;
}

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
  record.times.wire_ns = wire_ns;
  record.times.total_ns = wire_ns;
  return record;
}

}  // namespace airlock::report
