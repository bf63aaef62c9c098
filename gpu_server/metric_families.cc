#include "gpu_server/metric_families.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "base/version.h"
#include "proto/handshake.h"

namespace airlock {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

// Edges of the latency histogram: 2^13 ns (8 us) to 2^34 ns (17 s), a factor of two apart.
constexpr int kFirstEdgeBit = 13;
constexpr int kLastEdgeBit = 34;

double seconds(std::uint64_t ns) { return static_cast<double>(ns) / 1e9; }

MetricFamily family(std::string name, std::string help, MetricType type) {
  MetricFamily made;
  made.name = std::move(name);
  made.help = std::move(help);
  made.type = type;
  return made;
}

void add(MetricFamily& to, Labels labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (to.type == MetricType::Gauge ? metric.gauge.value : metric.counter.value) = value;
  to.metric.push_back(std::move(metric));
}

MetricFamily single(std::string name, std::string help, MetricType type, double value) {
  MetricFamily made = family(std::move(name), std::move(help), type);
  add(made, {}, value);
  return made;
}

template <typename E>
std::string label(E value) {
  return std::string(name_of(value));
}

MetricFamily direction_family(const CountersSnapshot& snapshot, std::string name, std::string help,
                              std::uint64_t DirectionSnapshot::*field) {
  MetricFamily made = family(std::move(name), std::move(help), MetricType::Counter);
  for (const Path path : kPaths) {
    const PathSnapshot& stats = snapshot.report.transport[path];
    add(made, {{"path", label(path)}, {"direction", "sent"}},
        static_cast<double>(stats.sent.*field));
    add(made, {{"path", label(path)}, {"direction", "received"}},
        static_cast<double>(stats.received.*field));
  }
  return made;
}

MetricFamily path_family(const CountersSnapshot& snapshot, std::string name, std::string help,
                         std::uint64_t PathSnapshot::*field) {
  MetricFamily made = family(std::move(name), std::move(help), MetricType::Counter);
  for (const Path path : kPaths)
    add(made, {{"path", label(path)}}, static_cast<double>(snapshot.report.transport[path].*field));
  return made;
}

MetricFamily calls_family(const OpSnapshotTable& ops) {
  MetricFamily made = family("airlock_op_calls_total", "Replies that were made, errors included.",
                             MetricType::Counter);
  for (const Op op : kOps) add(made, {{"op", label(op)}}, static_cast<double>(ops[op].calls));
  return made;
}

MetricFamily op_time_family(const OpSnapshotTable& ops) {
  MetricFamily made = family("airlock_op_seconds_total",
                             "Time from the whole request to the reply's send, by part: waiting "
                             "for a turn, computing, the rest.",
                             MetricType::Counter);
  for (const Op op : kOps) {
    const OpTimes& times = ops[op].times;
    add(made, {{"op", label(op)}, {"part", "queue"}}, seconds(times.queue_ns));
    add(made, {{"op", label(op)}, {"part", "compute"}}, seconds(times.server_ns));
    add(made, {{"op", label(op)}, {"part", "wire"}}, seconds(times.wire_ns));
  }
  return made;
}

MetricFamily device_time_family(const OpSnapshotTable& ops) {
  MetricFamily made = family("airlock_op_device_seconds_total",
                             "Time on the device by its own clock, by part: copying operands in, "
                             "computing, copying results out. 0 on a CPU.",
                             MetricType::Counter);
  for (const Op op : kOps) {
    const DeviceTimes& device = ops[op].times.device;
    add(made, {{"op", label(op)}, {"part", "copy_in"}}, seconds(device.copy_in_ns));
    add(made, {{"op", label(op)}, {"part", "compute"}}, seconds(device.compute_ns));
    add(made, {{"op", label(op)}, {"part", "copy_out"}}, seconds(device.copy_out_ns));
  }
  return made;
}

// Our own buckets end at each power of two less one nanosecond, so these counts are exact.
ClientMetric::Histogram histogram(const HistogramSnapshot& from, std::uint64_t sum_ns) {
  ClientMetric::Histogram made;
  const auto buckets = from.buckets();
  std::size_t next = 0;
  std::uint64_t below = 0;
  for (int bit = kFirstEdgeBit; bit <= kLastEdgeBit; ++bit) {
    const std::uint64_t edge_ns = (std::uint64_t{1} << bit) - 1;
    for (; next < buckets.size() && buckets[next].first <= edge_ns; ++next)
      below += buckets[next].second;
    made.bucket.push_back({below, seconds(edge_ns)});
  }
  made.sample_count = from.count();
  made.sample_sum = seconds(sum_ns);
  return made;
}

MetricFamily service_family(const CountersSnapshot& snapshot) {
  MetricFamily made =
      family("airlock_op_service_seconds",
             "How long each op took here, from the whole request to the reply's send.",
             MetricType::Histogram);
  for (const Op op : kOps) {
    ClientMetric metric;
    metric.label = {{"op", label(op)}};
    metric.histogram = histogram(snapshot.service_ns[op], snapshot.report.ops[op].times.total_ns);
    made.metric.push_back(std::move(metric));
  }
  return made;
}

MetricFamily build_info(const CountersSnapshot& snapshot) {
  MetricFamily made =
      family("airlock_build_info",
             "Always 1; device and dtype are empty while the model is loading.", MetricType::Gauge);
  add(made,
      {{"version", kVersion},
       {"protocol", fmt::format("{}.{}", kProtocolMajor, kProtocolMinor)},
       {"device", snapshot.server.host.device},
       {"dtype", snapshot.server.dtype}},
      1);
  return made;
}

void add_sessions(std::vector<MetricFamily>& to, const CountersSnapshot& snapshot) {
  to.push_back(single("airlock_sessions", "Sessions under way.", MetricType::Gauge,
                      static_cast<double>(snapshot.sessions_active)));
  to.push_back(single("airlock_sessions_limit", "Sessions that may be under way at once.",
                      MetricType::Gauge, static_cast<double>(snapshot.server.max_clients)));
  to.push_back(single("airlock_sessions_total", "Sessions that were begun.", MetricType::Counter,
                      static_cast<double>(snapshot.sessions_started)));
  to.push_back(single("airlock_sessions_refused_total", "Clients that got no session.",
                      MetricType::Counter, static_cast<double>(snapshot.sessions_refused)));
}

}  // namespace

std::vector<MetricFamily> metric_families(const CountersSnapshot& snapshot) {
  std::vector<MetricFamily> families;
  families.push_back(build_info(snapshot));
  families.push_back(single("process_start_time_seconds", "When the server started, since 1970.",
                            MetricType::Gauge, seconds(snapshot.server.start_unix_ns)));
  families.push_back(single("airlock_heartbeat_age_seconds",
                            "Since the control thread's last sign of life; over 1: it hangs.",
                            MetricType::Gauge, seconds(snapshot.heartbeat_age_ns)));
  add_sessions(families, snapshot);
  families.push_back(direction_family(snapshot, "airlock_transport_messages_total",
                                      "Requests and replies, on the path of their header.",
                                      &DirectionSnapshot::messages));
  families.push_back(direction_family(snapshot, "airlock_transport_tensors_total",
                                      "Tensors, on the path that each took.",
                                      &DirectionSnapshot::tensors));
  families.push_back(direction_family(snapshot, "airlock_transport_bytes_total",
                                      "Payload bytes of those tensors.",
                                      &DirectionSnapshot::bytes));
  families.push_back(path_family(snapshot, "airlock_transport_errors_total",
                                 "Faults that ended a session.", &PathSnapshot::errors));
  families.push_back(path_family(snapshot, "airlock_transport_slot_waits_total",
                                 "Waits for a slot of the ring that was not free at once.",
                                 &PathSnapshot::slot_waits));
  families.push_back(path_family(snapshot, "airlock_transport_spins_total",
                                 "Waits that ended while spinning.", &PathSnapshot::spins));
  families.push_back(path_family(snapshot, "airlock_transport_parks_total",
                                 "Times a wait went to sleep.", &PathSnapshot::parks));
  families.push_back(calls_family(snapshot.report.ops));
  families.push_back(op_time_family(snapshot.report.ops));
  families.push_back(device_time_family(snapshot.report.ops));
  families.push_back(service_family(snapshot));
  return families;
}

}  // namespace airlock
