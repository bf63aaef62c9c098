#include <fmt/format.h>

#include <algorithm>

#include "proto/limits.h"
#include "runtime/json/reader.h"
#include "runtime/trace/trace_line.h"

namespace airlock {
namespace {

constexpr std::size_t kMaxAssumed = 32;
constexpr std::int64_t kMaxCount = std::int64_t{1} << 40;
constexpr std::int64_t kMaxCores = 1 << 20;

bool is_sha256(std::string_view text) {
  return text.size() == 64 && std::ranges::all_of(text, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

void read_dims(const JsonReader& config, ModelDims& dims) {
  config.read("hidden_size", dims.hidden, kMaxCount);
  config.read("intermediate_size", dims.intermediate, kMaxCount);
  config.read("num_hidden_layers", dims.layers, kMaxCount);
  config.read("num_attention_heads", dims.heads, kMaxCount);
  config.read("num_key_value_heads", dims.kv_heads, kMaxCount);
  config.read("head_dim", dims.head_dim, kMaxCount);
  config.read("vocab_size", dims.vocab, kMaxCount);
  if (const Status checked = dims.check(); !checked.ok()) config.fail(checked.message());
}

void read_word(const JsonReader& fields, std::string_view key, std::string& word,
               std::initializer_list<std::string_view> known) {
  fields.read(key, word);
  if (std::ranges::find(known, word) == known.end())
    fields.at(key).refuse(fmt::format("one of: {}", fmt::join(known, ", ")));
}

void read_float_type(const JsonReader& fields, std::string_view key, DType& dtype) {
  fields.read(key, dtype);
  if (!is_float(dtype)) fields.at(key).fail("is no float type");
}

TraceTensor read_tensor(const JsonReader& fields, const TraceHeader& header) {
  TraceTensor tensor;
  fields.read("dtype", tensor.desc.dtype);
  std::vector<std::int64_t> extents;
  for (const JsonReader& extent : fields.at("shape").items(Shape::kMaxRank))
    extent.get(extents.emplace_back());
  const auto shape = Shape::make(extents);
  const auto bytes = shape ? shape->byte_count(tensor.desc.dtype) : std::nullopt;
  if (!bytes || *bytes > limits::kMaxTensorBytes) {
    fields.at("shape").fail(fmt::format("is of a tensor over {} bytes", limits::kMaxTensorBytes));
    return tensor;
  }
  tensor.desc.shape = *shape;
  std::uint64_t stated = 0;
  fields.read("bytes", stated);
  if (stated != *bytes) {
    fields.at("bytes").fail(fmt::format("is not {}, what {} of {} takes", *bytes,
                                        shape->to_string(), name_of(tensor.desc.dtype)));
  }
  fields.read("path", tensor.path);
  if (header.digests) {
    fields.read("sha256", tensor.sha256);
    if (!is_sha256(tensor.sha256)) fields.at("sha256").fail("is not 64 hex digits");
  }
  return tensor;
}

WeightId read_weight(const JsonReader& pair) {
  WeightId weight;
  const auto parts = pair.items(2);
  if (parts.size() == 2) {
    parts[0].get(weight.layer, limits::kMaxLayers - 1);
    parts[1].get(weight.kind);
  } else {
    pair.refuse("[layer, name of a projection]");
  }
  return weight;
}

void read_times(const JsonReader& fields, TraceRecord& record) {
  fields.read("slots", record.slots_in_use, limits::kMaxSlotCount);
  fields.read("start_ns", record.start_ns, kMaxTraceTimeNs);
  fields.read("total_ns", record.total_ns, kMaxTraceTimeNs);
  fields.read("tee_ns", record.tee_ns, kMaxTraceTimeNs);
  fields.read("wire_ns", record.wire_ns, kMaxTraceTimeNs);
  fields.read("queue_ns", record.queue_ns, kMaxTraceTimeNs);
  fields.read("server_ns", record.server_ns, kMaxTraceTimeNs);
  const std::uint64_t parts = record.tee_ns + record.wire_ns + record.queue_ns + record.server_ns;
  if (parts != record.total_ns) {
    fields.at("total_ns").fail(fmt::format("is {}, its parts make {}", record.total_ns, parts));
  }
}

Status check_record(const TraceRecord& record, const ModelDims& dims, std::string_view source) {
  const auto refuse = [&](std::string_view what) {
    return Status(StatusCode::kInvalidInput, fmt::format("{}: {}", source, what));
  };
  auto results = op_results(record.spec(), dims);
  if (!results.ok()) return refuse(results.status().message());
  if (results->size() != record.outputs.size()) {
    return refuse(fmt::format("{} outputs, the op has {}", record.outputs.size(), results->size()));
  }
  for (std::size_t i = 0; i < results->size(); ++i) {
    if (!((*results)[i] == record.outputs[i].desc)) {
      return refuse(fmt::format("output {} is {} {}, the op gives {} {}", i,
                                name_of(record.outputs[i].desc.dtype),
                                record.outputs[i].desc.shape.to_string(),
                                name_of((*results)[i].dtype), (*results)[i].shape.to_string()));
    }
  }
  return {};
}

}  // namespace

Result<TraceHeader> decode_trace_header(std::string_view line, std::string_view source) {
  ASSIGN_OR_RETURN(const Json json, parse_json(line, source));
  Status status;
  const JsonReader fields(json, source, status);
  const Json* version = json.find("airlock_trace");
  if (version == nullptr) {
    return Status(StatusCode::kInvalidInput,
                  fmt::format("{}: no trace: its first line has no \"airlock_trace\"", source));
  }
  if (version->kind != Json::Kind::kInteger || version->integer != kTraceSchemaVersion) {
    return Status(StatusCode::kInvalidInput,
                  fmt::format("{}: a trace of version {}, this program reads version {}", source,
                              version->describe(), kTraceSchemaVersion));
  }
  TraceHeader header;
  fields.read("source", header.source);
  fields.read("build", header.build);
  const JsonReader host = fields.at("host");
  host.read("name", header.host.name);
  host.read("cpu", header.host.cpu);
  host.read("cores", header.host.cores, kMaxCores);
  host.read("device", header.host.device);
  fields.read("started_at", header.started_at);
  const JsonReader model = fields.at("model");
  model.read("name", header.model);
  read_dims(model.at("config"), header.dims);
  model.read("digest", header.digest);
  fields.read("tokens", header.tokens, limits::kMaxTokens);
  fields.read("runs", header.runs, kMaxCount);
  read_float_type(fields, "wire", header.wire);
  read_float_type(fields, "dtype", header.dtype);
  read_word(fields, "attention", header.attention, {"offload", "tee"});
  read_word(fields, "backend", header.backend, {"remote", "local"});
  fields.read("path_limit_bytes", header.path_limit_bytes, limits::kMaxSlotBytes);
  fields.read("ring_slots", header.ring_slots, limits::kMaxSlotCount);
  fields.read("digests", header.digests);
  if (const JsonReader payload = fields.at("payload"); fields.has("payload")) {
    payload.get(header.payload);
    if (!is_payload_name(header.payload)) payload.refuse("a file name");
  }
  for (const JsonReader& name : fields.at("assumed").items(kMaxAssumed))
    name.get(header.assumed.emplace_back());
  fields.read("wall_ns", header.wall_ns, kMaxTraceTimeNs);
  fields.read("records", header.records, kMaxCount);
  fields.read("dropped", header.dropped, kMaxCount);
  RETURN_IF_ERROR(status);
  return header;
}

Result<TraceRecord> decode_trace_record(std::string_view line, const TraceHeader& header,
                                        std::string_view source) {
  ASSIGN_OR_RETURN(const Json json, parse_json(line, source));
  Status status;
  const JsonReader fields(json, source, status);
  TraceRecord record;
  fields.read("seq", record.seq, kMaxCount);
  fields.read("run", record.run, kMaxCount);
  fields.read("op", record.op);
  if (!is_computed(record.op)) fields.at("op").refuse("an op that a backend computes");
  fields.read("layer", record.layer, limits::kMaxLayers - 1);
  if (record.op == Op::kBatchLinear) {
    for (const JsonReader& weight : fields.at("weights").items(limits::kMaxWeightsPerOp))
      record.weights.push_back(read_weight(weight));
  }
  if (record.op == Op::kMatmul) fields.read("transpose", record.transpose);
  for (const JsonReader& tensor : fields.at("inputs").items(limits::kMaxTensorsPerMessage))
    record.inputs.push_back(read_tensor(tensor, header));
  for (const JsonReader& tensor : fields.at("outputs").items(limits::kMaxTensorsPerMessage))
    record.outputs.push_back(read_tensor(tensor, header));
  read_times(fields, record);
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(check_record(record, header.dims, source));
  return record;
}

}  // namespace airlock
