#pragma once

#include <initializer_list>

#include "runtime/stats/report.h"

namespace airlock {

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
  report.transport[Path::kRing].sent = {60, 6, 5136};
  report.transport[Path::kRing].received = {60, 3, 6144};
  report.transport[Path::kRing].latency_ns = histogram_of({3, 60'000, 61'000, 81'080});
  report.transport[Path::kZmq].sent = {0, 72, 23'328'000};
  report.transport[Path::kZmq].latency_ns = histogram_of({147'000, 2'106'996});
  report.ops[Op::kMatmul] = {18, {21'246'250, 53'218, 16'303'145, 6'908, 4'882'979}};
  report.tee[TeeKernel::kRmsNorm] = {21, 798'478};
  report.wall_ns = 66'112'807;
  return report;
}

/// What a runner counted that wrote text.
inline TextSnapshot sample_text() {
  TextSnapshot text{30, 10, 25, 3, 2, 65'536, {}, {}};
  text.ttft_ns = histogram_of({200'000, 210'000, 900'000});
  text.itl_ns = histogram_of({40'000, 41'000});
  return text;
}

/// What its server says of the same session.
inline SideReport sample_server() {
  SideReport report;
  report.side = "gpu_server";
  report.host = {"box", "AMD EPYC", 2, "cpu"};
  SessionReport session;
  session.id = "abc";
  session.client = "tee_runner pid 7";
  session.transport[Path::kRing].sent = {60, 3, 6144};
  session.transport[Path::kRing].received = {60, 6, 5136};
  session.transport[Path::kZmq].received = {0, 72, 23'328'000};
  session.ops[Op::kMatmul] = {18,
                              {4'990'207, 0, 100'320, 6'908, 4'882'979, {1'011, 4'000'022, 2'033}}};
  report.merge(session);
  report.sessions.push_back(session);
  report.wall_ns = 367'997'672;
  return report;
}

}  // namespace airlock
