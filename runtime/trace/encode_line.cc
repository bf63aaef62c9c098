#include <nlohmann/json.hpp>

#include "runtime/trace/trace_line.h"

namespace airlock {
namespace {

using Json = nlohmann::ordered_json;

Json tensors_json(const std::vector<TraceTensor>& tensors) {
  Json array = Json::array();
  for (const TraceTensor& tensor : tensors) {
    const auto extents = tensor.desc.shape.extents();
    Json json = {{"dtype", name_of(tensor.desc.dtype)},
                 {"shape", std::vector<std::int64_t>(extents.begin(), extents.end())},
                 {"bytes", tensor.desc.bytes()}};
    json["path"] = !tensor.path ? Json() : Json(name_of(*tensor.path));
    if (!tensor.sha256.empty()) json["sha256"] = tensor.sha256;
    array.push_back(std::move(json));
  }
  return array;
}

Json config_json(const ModelDims& dims) {
  return {{"hidden_size", dims.hidden},
          {"intermediate_size", dims.intermediate},
          {"num_hidden_layers", dims.layers},
          {"num_attention_heads", dims.heads},
          {"num_key_value_heads", dims.kv_heads},
          {"head_dim", dims.head_dim},
          {"vocab_size", dims.vocab}};
}

Json optional_json(const std::optional<std::uint64_t>& value) {
  return value ? Json(*value) : Json();
}

/// A host's name and a model's may hold anything: what is not UTF-8 is replaced, not thrown over.
std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

bool is_payload_name(std::string_view name) {
  if (name.empty() || name.size() > 255 || name[0] == '.' ||
      name.find_first_of(std::string_view("/\0", 2)) != std::string_view::npos) {
    return false;
  }
  try {
    (void)Json(name).dump();
  } catch (const Json::exception&) {  // no UTF-8
    return false;
  }
  return true;
}

std::string encode_trace_line(const TraceHeader& header) {
  Json json;
  json["airlock_trace"] = kTraceSchemaVersion;
  json["source"] = name_of(header.source);
  json["build"] = header.build;
  json["host"] = {{"name", header.host.name},
                  {"cpu", header.host.cpu},
                  {"cores", header.host.cores},
                  {"device", header.host.device}};
  json["started_at"] = header.started_at;
  json["model"] = {
      {"name", header.model}, {"config", config_json(header.dims)}, {"digest", header.digest}};
  json["tokens"] = header.tokens;
  json["runs"] = header.runs;
  json["wire"] = name_of(header.wire);
  json["dtype"] = name_of(header.dtype);
  json["attention"] = header.attention;
  json["backend"] = header.backend;
  json["path_limit_bytes"] = header.path_limit_bytes;
  json["ring_slots"] = header.ring_slots;
  json["digests"] = header.digests;
  json["payload"] = header.payload.empty() ? Json() : Json(header.payload);
  json["assumed"] = header.assumed;
  json["wall_ns"] = optional_json(header.wall_ns);
  json["records"] = optional_json(header.records);
  json["dropped"] = header.dropped;
  return line_of(json);
}

std::string encode_trace_line(const TraceRecord& record) {
  Json json;
  json["seq"] = record.seq;
  json["run"] = record.run;
  json["op"] = name_of(record.op);
  json["layer"] = record.layer ? Json(*record.layer) : Json();
  if (!record.weights.empty()) {
    json["weights"] = Json::array();
    for (const WeightId& weight : record.weights) {
      json["weights"].push_back(Json::array({weight.layer, name_of(weight.kind)}));
    }
  }
  if (record.op == Op::kMatmul) json["transpose"] = name_of(record.transpose);
  json["inputs"] = tensors_json(record.inputs);
  json["outputs"] = tensors_json(record.outputs);
  json["slots"] = record.slots_in_use;
  json["start_ns"] = record.start_ns;
  json["total_ns"] = record.total_ns;
  json["tee_ns"] = record.tee_ns;
  json["wire_ns"] = record.wire_ns;
  json["queue_ns"] = record.queue_ns;
  json["server_ns"] = record.server_ns;
  return line_of(json);
}

}  // namespace airlock
