#include <fmt/format.h>
#include <prometheus/metric_family.h>

#include <functional>
#include <initializer_list>
#include <string>
#include <utility>

#include "base/version.h"
#include "gpu_server/metrics.h"
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

void add(MetricFamily& to, Labels labels, double value) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (to.type == MetricType::Gauge ? metric.gauge.value : metric.counter.value) = value;
  to.metric.push_back(std::move(metric));
}

MetricFamily single(const char* name, const char* help, MetricType type, double value,
                    Labels labels = {}) {
  MetricFamily made{name, help, type, {}};
  add(made, std::move(labels), value);
  return made;
}

/// Of each row of a table (by path, by op) one counter, or one for each part: a label's value and
/// what it is worth.
template <typename Row>
using Parts = std::initializer_list<std::pair<const char*, std::function<double(const Row&)>>>;

template <typename Key, typename Row>
MetricFamily table(const char* name, const char* help, const char* key_label,
                   const PerValue<Key, Row>& rows, const char* part_label, Parts<Row> parts) {
  MetricFamily made{name, help, MetricType::Counter, {}};
  for (const Key key : kValuesOf<Key>) {
    for (const auto& [part, value] : parts) {
      Labels labels{{key_label, std::string(name_of(key))}};
      if (part_label != nullptr) labels.push_back({part_label, part});
      add(made, std::move(labels), value(rows[key]));
    }
  }
  return made;
}

MetricFamily path_counter(const char* name, const char* help, const TransportSnapshot& paths,
                          std::uint64_t PathSnapshot::*field) {
  return table(name, help, "path", paths, nullptr, {{"", field}});
}

MetricFamily direction_counter(const char* name, const char* help, const TransportSnapshot& paths,
                               std::uint64_t DirectionSnapshot::*field) {
  return table(name, help, "path", paths, "direction",
               {{"sent", [&](const PathSnapshot& path) { return path.sent.*field; }},
                {"received", [&](const PathSnapshot& path) { return path.received.*field; }}});
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

MetricFamily service_times(const CountersSnapshot& snapshot) {
  MetricFamily made{"airlock_op_service_seconds",
                    "How long each op took here, from the whole request to the reply's send.",
                    MetricType::Histogram,
                    {}};
  for (const Op op : kOps) {
    ClientMetric metric;
    metric.label = {{"op", std::string(name_of(op))}};
    metric.histogram = histogram(snapshot.service_ns[op], snapshot.report.ops[op].times.total_ns);
    made.metric.push_back(std::move(metric));
  }
  return made;
}

}  // namespace

std::vector<MetricFamily> metric_families(const CountersSnapshot& snapshot) {
  const TransportSnapshot& paths = snapshot.report.transport;
  const OpSnapshotTable& ops = snapshot.report.ops;
  const auto count = [](std::uint64_t value) { return static_cast<double>(value); };
  // Of the durations of one op.
  const auto time = [](std::uint64_t OpTimes::*part) {
    return [part](const OpSnapshot& op) { return seconds(op.times.*part); };
  };
  const auto device_time = [](std::uint64_t DeviceTimes::*part) {
    return [part](const OpSnapshot& op) { return seconds(op.times.device.*part); };
  };
  return {
      single("airlock_build_info",
             "Always 1; device and dtype are empty while the model is loading.", MetricType::Gauge,
             1,
             {{"version", kVersion},
              {"protocol", fmt::format("{}.{}", kProtocolMajor, kProtocolMinor)},
              {"device", snapshot.server.host.device},
              {"dtype", snapshot.server.dtype}}),
      single("process_start_time_seconds", "When the server started, since 1970.",
             MetricType::Gauge, seconds(snapshot.server.start_unix_ns)),
      single("airlock_heartbeat_age_seconds",
             "Since the control thread's last sign of life; over 1: it hangs.", MetricType::Gauge,
             seconds(snapshot.heartbeat_age_ns)),
      single("airlock_sessions", "Sessions under way.", MetricType::Gauge,
             count(snapshot.sessions_active)),
      single("airlock_sessions_limit", "Sessions that may be under way at once.", MetricType::Gauge,
             count(snapshot.server.max_clients)),
      single("airlock_sessions_total", "Sessions that were begun.", MetricType::Counter,
             count(snapshot.sessions_started)),
      single("airlock_sessions_refused_total", "Clients that got no session.", MetricType::Counter,
             count(snapshot.sessions_refused)),
      direction_counter("airlock_transport_messages_total",
                        "Requests and replies, on the path of their header.", paths,
                        &DirectionSnapshot::messages),
      direction_counter("airlock_transport_tensors_total", "Tensors, on the path that each took.",
                        paths, &DirectionSnapshot::tensors),
      direction_counter("airlock_transport_bytes_total", "Payload bytes of those tensors.", paths,
                        &DirectionSnapshot::bytes),
      path_counter("airlock_transport_errors_total", "Faults that ended a session.", paths,
                   &PathSnapshot::errors),
      path_counter("airlock_transport_slot_waits_total",
                   "Waits for a slot of the ring that was not free at once.", paths,
                   &PathSnapshot::slot_waits),
      path_counter("airlock_transport_fallbacks_total",
                   "Tensors that the pool had no room for; they took another path.", paths,
                   &PathSnapshot::fallbacks),
      path_counter("airlock_transport_spins_total", "Waits that ended while spinning.", paths,
                   &PathSnapshot::spins),
      path_counter("airlock_transport_parks_total", "Times a wait went to sleep.", paths,
                   &PathSnapshot::parks),
      table("airlock_op_calls_total", "Replies that were made, errors included.", "op", ops,
            nullptr, {{"", &OpSnapshot::calls}}),
      table("airlock_op_seconds_total",
            "Time from the whole request to the reply's send, by part: waiting for a turn, "
            "computing, the rest.",
            "op", ops, "part",
            {{"queue", time(&OpTimes::queue_ns)},
             {"compute", time(&OpTimes::server_ns)},
             {"wire", time(&OpTimes::wire_ns)}}),
      table("airlock_op_device_seconds_total",
            "Time on the device by its own clock, by part: copying operands in, computing, "
            "copying results out. 0 on a CPU.",
            "op", ops, "part",
            {{"copy_in", device_time(&DeviceTimes::copy_in_ns)},
             {"compute", device_time(&DeviceTimes::compute_ns)},
             {"copy_out", device_time(&DeviceTimes::copy_out_ns)}}),
      service_times(snapshot),
  };
}

}  // namespace airlock
