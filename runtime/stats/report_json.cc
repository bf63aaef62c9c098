#include <nlohmann/json.hpp>

#include "runtime/stats/report.h"

namespace airlock {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;

Json direction_json(const DirectionSnapshot& direction) {
  return {
      {"messages", direction.messages}, {"tensors", direction.tensors}, {"bytes", direction.bytes}};
}

Json latency_json(const HistogramSnapshot& latency) {
  Json buckets = Json::array();
  for (const auto& [upper_ns, count] : latency.buckets())
    buckets.push_back(Json::array({upper_ns, count}));
  return {{"p50", latency.percentile(0.50)},
          {"p90", latency.percentile(0.90)},
          {"p99", latency.percentile(0.99)},
          {"max", latency.max},
          {"buckets", std::move(buckets)}};
}

Json path_json(const PathSnapshot& path) {
  return {{"sent", direction_json(path.sent)},
          {"received", direction_json(path.received)},
          {"errors", path.errors},
          {"slot_waits", path.slot_waits},
          {"spins", path.spins},
          {"parks", path.parks},
          {"latency_ns", latency_json(path.latency_ns)}};
}

Json paths_json(const TransportSnapshot& transport) {
  return {{"ring", path_json(transport.path(Path::kRing))},
          {"zmq", path_json(transport.path(Path::kZmq))}};
}

Json op_json(const OpSnapshot& op) {
  Json json = {{"calls", op.calls},     {"total_ns", op.total_ns}, {"tee_ns", op.tee_ns},
               {"wire_ns", op.wire_ns}, {"queue_ns", op.queue_ns}, {"server_ns", op.server_ns}};
  if (op.device != DeviceSnapshot{}) {
    json["device"] = {{"copy_in_ns", op.device.copy_in_ns},
                      {"compute_ns", op.device.compute_ns},
                      {"copy_out_ns", op.device.copy_out_ns}};
  }
  return json;
}

Json ops_json(const OpSnapshotTable& table) {
  Json ops = Json::object();
  for (std::size_t i = 0; i < kCountOf<Op>; ++i)
    ops[std::string(name_of(kOps[i]))] = op_json(table.ops[i]);
  return ops;
}

Json tee_json(const TeeSnapshotTable& table) {
  Json tee = Json::object();
  for (std::size_t i = 0; i < kCountOf<TeeKernel>; ++i) {
    tee[name_of(static_cast<TeeKernel>(i))] = {{"calls", table[i].calls},
                                               {"total_ns", table[i].total_ns}};
  }
  return tee;
}

Json session_object(const SessionReport& session) {
  return {{"id", session.id},
          {"client", session.client},
          {"sessions", session.sessions},
          {"paths", paths_json(session.transport)},
          {"ops", ops_json(session.ops)}};
}

/// A client's name and a path may hold anything: what is not UTF-8 is replaced, not thrown over.
std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string session_json(const SessionReport& session) { return line_of(session_object(session)); }

std::string report_json(const SideReport& report) {
  Json json;
  json["schema_version"] = kSchemaVersion;
  json["side"] = report.side;
  json["host"] = {{"name", report.host.name},
                  {"cpu", report.host.cpu},
                  {"cores", report.host.cores},
                  {"device", report.host.device}};
  if (report.host.gpu) {
    json["host"]["driver"] = report.host.gpu->driver;
    json["host"]["cuda_runtime"] = report.host.gpu->cuda_runtime;
    json["host"]["cublas"] = report.host.gpu->cublas;
    json["host"]["device_memory_bytes"] = report.host.gpu->memory_bytes;
  }
  json["config"] = Json::object();
  for (const auto& [key, value] : report.config) json["config"][key] = value;
  json["paths"] = paths_json(report.transport);
  json["ops"] = ops_json(report.ops);
  if (report.side == "tee_runner") json["tee"] = tee_json(report.tee);
  json["wall_ns"] = report.wall_ns;
  if (report.side == "gpu_server") {
    json["sessions"] = Json::array();
    for (const SessionReport& session : report.sessions)
      json["sessions"].push_back(session_object(session));
  }
  return line_of(json);
}

}  // namespace airlock
