#include "tools/airlock_stat/own_session.h"

#include <fmt/format.h>

#include <string>

#include "runtime/json/json.h"

namespace airlock {
namespace {

Status bad(std::string_view key) {
  return {StatusCode::kProtocolError,
          fmt::format("the server's statistics: '{}' is missing or of the wrong kind", key)};
}

/// The member of an object, or kProtocolError.
Result<const Json*> member(const Json& object, std::string_view key, Json::Kind kind) {
  const Json* found = object.is_object() ? object.find(key) : nullptr;
  if (found == nullptr || found->kind != kind) return bad(key);
  return found;
}

Status read_count(const Json& object, std::string_view key, std::uint64_t& count) {
  ASSIGN_OR_RETURN(const Json* found, member(object, key, Json::Kind::kInteger));
  if (found->integer < 0) return bad(key);
  count = static_cast<std::uint64_t>(found->integer);
  return {};
}

Status read_text(const Json& object, std::string_view key, std::string& text) {
  ASSIGN_OR_RETURN(const Json* found, member(object, key, Json::Kind::kString));
  text = printable(found->text);
  return {};
}

Status read_direction(const Json& path, std::string_view key, DirectionSnapshot& direction) {
  ASSIGN_OR_RETURN(const Json* found, member(path, key, Json::Kind::kObject));
  RETURN_IF_ERROR(read_count(*found, "messages", direction.messages));
  RETURN_IF_ERROR(read_count(*found, "tensors", direction.tensors));
  return read_count(*found, "bytes", direction.bytes);
}

Status read_path(const Json& paths, std::string_view key, PathSnapshot& path) {
  ASSIGN_OR_RETURN(const Json* found, member(paths, key, Json::Kind::kObject));
  RETURN_IF_ERROR(read_direction(*found, "sent", path.sent));
  RETURN_IF_ERROR(read_direction(*found, "received", path.received));
  RETURN_IF_ERROR(read_count(*found, "errors", path.errors));
  RETURN_IF_ERROR(read_count(*found, "slot_waits", path.slot_waits));
  RETURN_IF_ERROR(read_count(*found, "spins", path.spins));
  return read_count(*found, "parks", path.parks);  // latency is the runner's
}

/// Only a server with a device says it.
Status read_device(const Json& op, DeviceSnapshot& device) {
  if (op.find("device") == nullptr) return {};
  ASSIGN_OR_RETURN(const Json* found, member(op, "device", Json::Kind::kObject));
  RETURN_IF_ERROR(read_count(*found, "copy_in_ns", device.copy_in_ns));
  RETURN_IF_ERROR(read_count(*found, "compute_ns", device.compute_ns));
  return read_count(*found, "copy_out_ns", device.copy_out_ns);
}

Status read_ops(const Json& ops, OpSnapshotTable& table) {
  for (std::size_t i = 0; i < kCountOf<Op>; ++i) {
    ASSIGN_OR_RETURN(const Json* found, member(ops, name_of(kOps[i]), Json::Kind::kObject));
    OpSnapshot& op = table.ops[i];
    RETURN_IF_ERROR(read_count(*found, "calls", op.calls));
    RETURN_IF_ERROR(read_count(*found, "total_ns", op.total_ns));
    RETURN_IF_ERROR(read_count(*found, "tee_ns", op.tee_ns));
    RETURN_IF_ERROR(read_count(*found, "wire_ns", op.wire_ns));
    RETURN_IF_ERROR(read_count(*found, "queue_ns", op.queue_ns));
    RETURN_IF_ERROR(read_count(*found, "server_ns", op.server_ns));
    RETURN_IF_ERROR(read_device(*found, op.device));
  }
  return {};
}

}  // namespace

Result<SideReport> parse_own_session(std::string_view json) {
  auto parsed = parse_json(json, "the server's statistics");
  if (!parsed.ok()) return Status(StatusCode::kProtocolError, parsed.status().message());
  SideReport report;
  report.side = "gpu_server";
  ASSIGN_OR_RETURN(const Json* host, member(*parsed, "host", Json::Kind::kObject));
  RETURN_IF_ERROR(read_text(*host, "name", report.host.name));
  RETURN_IF_ERROR(read_text(*host, "cpu", report.host.cpu));
  RETURN_IF_ERROR(read_text(*host, "device", report.host.device));
  std::uint64_t cores = 0;
  RETURN_IF_ERROR(read_count(*host, "cores", cores));
  report.host.cores = cores;
  RETURN_IF_ERROR(read_count(*parsed, "wall_ns", report.wall_ns));
  ASSIGN_OR_RETURN(const Json* paths, member(*parsed, "paths", Json::Kind::kObject));
  RETURN_IF_ERROR(read_path(*paths, "ring", report.transport.path(Path::kRing)));
  RETURN_IF_ERROR(read_path(*paths, "zmq", report.transport.path(Path::kZmq)));
  ASSIGN_OR_RETURN(const Json* ops, member(*parsed, "ops", Json::Kind::kObject));
  RETURN_IF_ERROR(read_ops(*ops, report.ops));
  return report;
}

}  // namespace airlock
