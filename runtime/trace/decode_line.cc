#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <limits>

#include "proto/limits.h"
#include "runtime/json/json.h"
#include "runtime/trace/trace_line.h"

namespace airlock {
namespace {

constexpr std::size_t kMaxTextBytes = 1024;
constexpr std::size_t kMaxAssumed = 32;
constexpr std::uint64_t kMaxCount = std::uint64_t{1} << 40;

/// Reads the members of one object. The first thing that does not fit is kept as the status; every
/// later read then gives a harmless value.
class Fields {
 public:
  Fields(const Json& object, std::string_view where, Status& status)
      : object_(object), where_(where), status_(status) {
    if (!object.is_object())
      refuse("", fmt::format("is {}, expected an object", object.describe()));
  }

  const Json* get(std::string_view key) {
    const Json* value = object_.is_object() ? object_.find(key) : nullptr;
    if (value == nullptr) refuse(key, "is missing");
    return value;
  }
  std::uint64_t number(std::string_view key, std::uint64_t most) {
    const Json* value = get(key);
    if (value == nullptr) return 0;
    if (value->kind != Json::Kind::kInteger || value->integer < 0 ||
        static_cast<std::uint64_t>(value->integer) > most) {
      refuse(key, fmt::format("is {}, expected an integer from 0 to {}", value->describe(), most));
      return 0;
    }
    return static_cast<std::uint64_t>(value->integer);
  }
  /// null is nullopt.
  std::optional<std::uint64_t> maybe_number(std::string_view key, std::uint64_t most) {
    const Json* value = get(key);
    if (value == nullptr || value->kind == Json::Kind::kNull) return std::nullopt;
    return number(key, most);
  }
  std::string text(std::string_view key) {
    const Json* value = get(key);
    if (value == nullptr) return {};
    if (!value->is_string() || value->text.size() > kMaxTextBytes) {
      refuse(key, fmt::format("is {}, expected a text of at most {} bytes", value->describe(),
                              kMaxTextBytes));
      return {};
    }
    return value->text;
  }
  bool flag(std::string_view key) {
    const Json* value = get(key);
    if (value != nullptr && value->kind != Json::Kind::kBool) {
      refuse(key, fmt::format("is {}, expected true or false", value->describe()));
    }
    return value != nullptr && value->boolean;
  }
  DType dtype(std::string_view key) {
    const std::string name = text(key);
    const auto dtype = from_name<DType>(name);
    if (!dtype) refuse(key, fmt::format("is \"{}\", expected a type", printable(name)));
    return dtype.value_or(DType::kF32);
  }
  const std::vector<Json>& array(std::string_view key, std::size_t most) {
    static const std::vector<Json> kNone;
    const Json* value = get(key);
    if (value == nullptr) return kNone;
    if (value->kind != Json::Kind::kArray || value->items.size() > most) {
      refuse(key, fmt::format("is {}, expected an array of at most {}", value->describe(), most));
      return kNone;
    }
    return value->items;
  }
  void refuse(std::string_view key, std::string_view what) {
    if (!status_.ok()) return;
    status_ = {StatusCode::kInvalidInput,
               fmt::format("{}: {}{}", where_,
                           key.empty() ? std::string() : fmt::format("'{}' ", key), what)};
  }

 private:
  const Json& object_;
  std::string_view where_;
  Status& status_;
};

bool is_sha256(std::string_view text) {
  return text.size() == 64 && std::ranges::all_of(text, [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

ModelDims read_dims(Fields& model, std::string_view where, Status& status) {
  const Json* object = model.get("config");
  if (object == nullptr) return {};
  Fields config(*object, where, status);
  const auto extent = [&](std::string_view key) {
    return static_cast<std::int64_t>(config.number(key, kMaxCount));
  };
  ModelDims dims;
  dims.hidden = extent("hidden_size");
  dims.intermediate = extent("intermediate_size");
  dims.layers = extent("num_hidden_layers");
  dims.heads = extent("num_attention_heads");
  dims.kv_heads = extent("num_key_value_heads");
  dims.head_dim = extent("head_dim");
  dims.vocab = extent("vocab_size");
  if (status.ok()) {
    if (Status checked = dims.check(); !checked.ok()) model.refuse("config", checked.message());
  }
  return dims;
}

std::string one_of(Fields& fields, std::string_view key,
                   std::initializer_list<std::string_view> known) {
  std::string word = fields.text(key);
  if (std::ranges::find(known, word) == known.end()) {
    fields.refuse(key, fmt::format("is \"{}\", expected one of: {}", printable(word),
                                   fmt::join(known, ", ")));
  }
  return word;
}

TraceSource read_source(Fields& fields) {
  const std::string word = one_of(fields, "source", {"recorded", "synthesised", "imported"});
  if (word == "synthesised") return TraceSource::kSynthesised;
  return word == "imported" ? TraceSource::kImported : TraceSource::kRecorded;
}

/// A plain name beside the trace: never a way out of its directory.
std::string read_payload(Fields& fields) {
  const Json* value = fields.get("payload");
  if (value == nullptr || value->kind == Json::Kind::kNull) return {};
  std::string name = fields.text("payload");
  if (!is_payload_name(name)) {
    fields.refuse("payload", fmt::format("is \"{}\", expected a file name", printable(name)));
    return {};
  }
  return name;
}

void read_host(Fields& fields, std::string_view where, Status& status, HostReport& host) {
  const Json* object = fields.get("host");
  if (object == nullptr) return;
  Fields inner(*object, where, status);
  host.name = inner.text("name");
  host.cpu = inner.text("cpu");
  host.cores = inner.number("cores", 1U << 20);
  host.device = inner.text("device");
}

std::optional<Path> read_path(Fields& fields) {
  const Json* value = fields.get("path");
  if (value == nullptr || value->kind == Json::Kind::kNull) return std::nullopt;
  return one_of(fields, "path", {"ring", "zmq"}) == "ring" ? Path::kRing : Path::kZmq;
}

TraceTensor read_tensor(const Json& json, const TraceHeader& header, std::string_view where,
                        Status& status) {
  Fields fields(json, where, status);
  TraceTensor tensor;
  tensor.desc.dtype = fields.dtype("dtype");
  std::vector<std::int64_t> extents;
  for (const Json& extent : fields.array("shape", Shape::kMaxRank)) {
    if (extent.kind != Json::Kind::kInteger || extent.integer < 0) {
      fields.refuse("shape", fmt::format("has the extent {}", extent.describe()));
      return tensor;
    }
    extents.push_back(extent.integer);
  }
  const auto shape = Shape::make(extents);
  const auto bytes = shape ? shape->byte_count(tensor.desc.dtype) : std::nullopt;
  if (!bytes || *bytes > limits::kMaxTensorBytes) {
    fields.refuse("shape", fmt::format("is of a tensor over {} bytes", limits::kMaxTensorBytes));
    return tensor;
  }
  tensor.desc.shape = *shape;
  if (fields.number("bytes", limits::kMaxTensorBytes) != *bytes) {
    fields.refuse("bytes", fmt::format("is not {}, what {} of {} takes", *bytes, shape->to_string(),
                                       name_of(tensor.desc.dtype)));
  }
  tensor.path = read_path(fields);
  if (header.digests) {
    tensor.sha256 = fields.text("sha256");
    if (!is_sha256(tensor.sha256)) fields.refuse("sha256", "is not 64 hex digits");
  }
  return tensor;
}

WeightId read_weight(Fields& fields, const Json& json) {
  constexpr std::array kKinds = {WeightKind::kQ,   WeightKind::kK,    WeightKind::kV,
                                 WeightKind::kO,   WeightKind::kGate, WeightKind::kUp,
                                 WeightKind::kDown};
  WeightId weight;
  const bool pair = json.kind == Json::Kind::kArray && json.items.size() == 2 &&
                    json.items[0].kind == Json::Kind::kInteger && json.items[1].is_string();
  const auto kind = std::ranges::find_if(
      kKinds, [&](WeightKind k) { return pair && json.items[1].text == name_of(k); });
  if (!pair || kind == kKinds.end() || json.items[0].integer < 0 ||
      json.items[0].integer >= limits::kMaxLayers) {
    fields.refuse("weights", "has an element that is not [layer, name of a projection]");
    return weight;
  }
  weight.kind = *kind;
  weight.layer = static_cast<std::uint16_t>(json.items[0].integer);
  return weight;
}

Op read_op(Fields& fields) {
  const std::string word = one_of(fields, "op", {"embedding", "batch_linear", "matmul", "lm_head"});
  for (Op op : {Op::kBatchLinear, Op::kMatmul, Op::kLmHead}) {
    if (word == name_of(op)) return op;
  }
  return Op::kEmbedding;
}

void read_times(Fields& fields, TraceRecord& record) {
  record.slots_in_use = static_cast<std::uint32_t>(fields.number("slots", limits::kMaxSlotCount));
  record.start_ns = fields.number("start_ns", kMaxTraceTimeNs);
  record.total_ns = fields.number("total_ns", kMaxTraceTimeNs);
  record.tee_ns = fields.number("tee_ns", kMaxTraceTimeNs);
  record.wire_ns = fields.number("wire_ns", kMaxTraceTimeNs);
  record.queue_ns = fields.number("queue_ns", kMaxTraceTimeNs);
  record.server_ns = fields.number("server_ns", kMaxTraceTimeNs);
  const std::uint64_t parts = record.tee_ns + record.wire_ns + record.queue_ns + record.server_ns;
  if (parts != record.total_ns) {
    fields.refuse("total_ns", fmt::format("is {}, its parts make {}", record.total_ns, parts));
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
  Fields fields(json, source, status);
  const Json* version = fields.get("airlock_trace");
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
  header.source = read_source(fields);
  header.build = fields.text("build");
  read_host(fields, source, status, header.host);
  header.started_at = fields.text("started_at");
  if (const Json* object = fields.get("model"); object != nullptr) {
    Fields model(*object, source, status);
    header.model = model.text("name");
    header.dims = read_dims(model, source, status);
    header.digest = model.text("digest");
  }
  header.tokens = static_cast<std::int64_t>(
      fields.number("tokens", static_cast<std::uint64_t>(limits::kMaxTokens)));
  header.runs = fields.number("runs", kMaxCount);
  header.wire = fields.dtype("wire");
  header.dtype = fields.dtype("dtype");
  if (!is_float(header.wire)) fields.refuse("wire", "is no float type");
  if (!is_float(header.dtype)) fields.refuse("dtype", "is no float type");
  header.attention = one_of(fields, "attention", {"offload", "tee"});
  header.backend = one_of(fields, "backend", {"remote", "local"});
  header.path_limit_bytes = fields.number("path_limit_bytes", limits::kMaxSlotBytes);
  header.ring_slots =
      static_cast<std::uint32_t>(fields.number("ring_slots", limits::kMaxSlotCount));
  header.digests = fields.flag("digests");
  header.payload = read_payload(fields);
  for (const Json& name : fields.array("assumed", kMaxAssumed)) {
    if (!name.is_string() || name.text.size() > kMaxTextBytes)
      fields.refuse("assumed", "has no text");
    header.assumed.push_back(name.text);
  }
  header.wall_ns = fields.maybe_number("wall_ns", kMaxTraceTimeNs);
  header.records = fields.maybe_number("records", kMaxCount);
  header.dropped = fields.number("dropped", kMaxCount);
  if (!status.ok()) return status;
  return header;
}

Result<TraceRecord> decode_trace_record(std::string_view line, const TraceHeader& header,
                                        std::string_view source) {
  ASSIGN_OR_RETURN(const Json json, parse_json(line, source));
  Status status;
  Fields fields(json, source, status);
  TraceRecord record;
  record.seq = fields.number("seq", kMaxCount);
  record.run = fields.number("run", kMaxCount);
  record.op = read_op(fields);
  if (const auto layer = fields.maybe_number("layer", limits::kMaxLayers - 1)) {
    record.layer = static_cast<std::uint16_t>(*layer);
  }
  if (record.op == Op::kBatchLinear) {
    for (const Json& weight : fields.array("weights", limits::kMaxWeightsPerOp)) {
      record.weights.push_back(read_weight(fields, weight));
    }
  }
  if (record.op == Op::kMatmul) {
    const std::string word = one_of(fields, "transpose", {"none", "a", "b"});
    record.transpose = word == "a" ? Transpose::kA : word == "b" ? Transpose::kB : Transpose::kNone;
  }
  for (const Json& tensor : fields.array("inputs", limits::kMaxTensorsPerMessage)) {
    record.inputs.push_back(read_tensor(tensor, header, source, status));
  }
  for (const Json& tensor : fields.array("outputs", limits::kMaxTensorsPerMessage)) {
    record.outputs.push_back(read_tensor(tensor, header, source, status));
  }
  read_times(fields, record);
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(check_record(record, header.dims, source));
  return record;
}

}  // namespace airlock
