#include "runtime/trace/trace_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "proto/limits.h"
#include "runtime/json/reader.h"

namespace airlock {
namespace {

constexpr std::size_t kMaxAssumed = 32;
constexpr std::int64_t kMaxCount = std::int64_t{1} << 40;
constexpr std::int64_t kMaxCores = 1 << 20;

// What follows names each key of the format once, in the order of a line, for both ways: a visitor
// is called with the key, the member and, for reading, the range of the member.

template <typename Visitor, typename Dims>
void visit_dims(Visitor&& visit, Dims& dims) {
  visit("hidden_size", dims.hidden, kMaxCount);
  visit("intermediate_size", dims.intermediate, kMaxCount);
  visit("num_hidden_layers", dims.layers, kMaxCount);
  visit("num_attention_heads", dims.heads, kMaxCount);
  visit("num_key_value_heads", dims.kv_heads, kMaxCount);
  visit("head_dim", dims.head_dim, kMaxCount);
  visit("vocab_size", dims.vocab, kMaxCount);
}

template <typename Visitor, typename Header>
void visit_header(Visitor&& visit, Header& header) {
  visit("source", header.source);
  visit("build", header.build);
  visit.object("host", [&](auto&& inner) {
    inner("name", header.host.name);
    inner("cpu", header.host.cpu);
    inner("cores", header.host.cores, kMaxCores);
    inner("device", header.host.device);
  });
  visit("started_at", header.started_at);
  visit.object("model", [&](auto&& inner) {
    inner("name", header.model);
    inner.object("config", [&](auto&& config) { visit_dims(config, header.dims); });
    inner("digest", header.digest);
  });
  visit("tokens", header.tokens, limits::kMaxTokens);
  visit("runs", header.runs, kMaxCount);
  visit("wire", header.wire);
  visit("dtype", header.dtype);
  visit("attention", header.attention);
  visit("backend", header.backend);
  visit("path_limit_bytes", header.path_limit_bytes, limits::kMaxSlotBytes);
  visit("ring_slots", header.ring_slots, limits::kMaxSlotCount);
  visit("digests", header.digests);
  visit.file_name("payload", header.payload);
  visit("assumed", header.assumed, kMaxAssumed);
  visit("wall_ns", header.wall_ns, kMaxTraceTimeNs);
  visit("records", header.records, kMaxCount);
  visit("dropped", header.dropped, kMaxCount);
}

/// `extents` and `bytes` are those of the tensor's type.
template <typename Visitor, typename Tensor, typename Extents, typename Bytes>
void visit_tensor(Visitor&& visit, Tensor& tensor, Extents&& extents, Bytes&& bytes, bool digests) {
  visit("dtype", tensor.desc.dtype);
  visit("shape", extents, Shape::kMaxRank);
  visit("bytes", bytes);
  visit("path", tensor.path);
  if (digests) visit("sha256", tensor.sha256);
}

template <typename Visitor, typename Record>
void visit_record(Visitor&& visit, Record& record) {
  visit("seq", record.seq, kMaxCount);
  visit("run", record.run, kMaxCount);
  visit("op", record.op);
  visit("layer", record.layer, limits::kMaxLayers - 1);
  if (is_integer(record.op) || record.op == Op::kBatchLinear)
    visit("weights", record.weights, limits::kMaxWeightsPerOp);
  if (is_integer(record.op)) visit("planes", record.planes, JsonRange{1, kMaxInt8Planes});
  if (record.op == Op::kMatmul) visit("transpose", record.transpose);
  visit.tensors("inputs", record.inputs, is_kept(record.op));
  visit.tensors("outputs", record.outputs, is_kept(record.op));
  visit("slots", record.slots_in_use, limits::kMaxSlotCount);
  visit("start_ns", record.start_ns, kMaxTraceTimeNs);
  visit_times([&](std::string_view key, auto& ns) { visit(key, ns, kMaxTraceTimeNs); },
              record.times);
}

class Writer {
 public:
  /// The object whose members `members` visits.
  template <typename Members>
  static JsonObject written(const Members& members) {
    Writer writer;
    members(writer);
    return std::move(writer.object_);
  }
  template <typename T>
  void operator()(std::string_view key, const T& value, JsonRange /*range*/ = 0) {
    object_.add(key, value);
  }
  void operator()(std::string_view key, const std::vector<WeightId>& weights, JsonRange /*most*/) {
    std::vector<std::pair<std::uint16_t, WeightKind>> pairs;
    pairs.reserve(weights.size());
    for (const WeightId& weight : weights) pairs.emplace_back(weight.layer, weight.kind);
    object_.add(key, pairs);
  }
  void tensors(std::string_view key, const std::vector<TraceTensor>& tensors, bool /*kept*/) {
    std::vector<JsonObject> objects;
    objects.reserve(tensors.size());
    for (const TraceTensor& tensor : tensors) {
      objects.push_back(written([&](Writer& inner) {
        visit_tensor(inner, tensor, tensor.desc.shape.extents(), tensor.desc.bytes(),
                     !tensor.sha256.empty());
      }));
    }
    object_.add(key, objects);
  }
  template <typename Members>
  void object(std::string_view key, const Members& members) {
    object_.add(key, written(members));
  }
  /// null where it is empty.
  void file_name(std::string_view key, std::string_view name) {
    object_.add(key, name.empty() ? std::nullopt : std::optional(name));
  }

 private:
  JsonObject object_;
};

struct Reader {
  template <typename T>
  void operator()(std::string_view key, T& value, JsonRange range = kJsonRange<T>) const {
    place.read(key, value, range);
  }
  template <typename T>
  void operator()(std::string_view key, std::vector<T>& list, JsonRange most) const {
    for (const JsonReader& item : place.at(key).items(static_cast<std::size_t>(most.most)))
      read_item(item, list.emplace_back());
  }
  /// `kept`: with digests, where the trace has them.
  void tensors(std::string_view key, std::vector<TraceTensor>& tensors, bool kept) const {
    for (const JsonReader& item : place.at(key).items(limits::kMaxTensorsPerMessage))
      Reader{item, digests && kept}.read_item(item, tensors.emplace_back());
  }
  template <typename Members>
  void object(std::string_view key, const Members& members) const {
    members(Reader{place.at(key), digests});
  }
  void file_name(std::string_view key, std::string& name) const {
    const JsonReader member = place.at(key);
    if (!place.has(key)) return;
    member.get(name);
    if (!is_payload_name(name)) member.refuse("a file name");
  }

  template <typename T>
  void read_item(const JsonReader& item, T& value) const {
    item.get(value);
  }
  void read_item(const JsonReader& pair, WeightId& weight) const {
    const auto parts = pair.items(2);
    if (parts.size() != 2) return pair.refuse("[layer, name of a projection]");
    parts[0].get(weight.layer, limits::kMaxLayers - 1);
    parts[1].get(weight.kind);
  }
  void read_item(const JsonReader& item, TraceTensor& tensor) const {
    std::vector<std::int64_t> extents;
    std::uint64_t stated_bytes = 0;
    visit_tensor(Reader{item, digests}, tensor, extents, stated_bytes, digests);
    if (tensor.desc.dtype == DType::kF64) return item.at("dtype").fail("is of no op of a model");
    const auto shape = Shape::make(extents);
    const auto bytes = shape ? shape->byte_count(tensor.desc.dtype) : std::nullopt;
    if (!bytes || *bytes > limits::kMaxTensorBytes) {
      return item.at("shape").fail(
          fmt::format("is of a tensor over {} bytes", limits::kMaxTensorBytes));
    }
    tensor.desc.shape = *shape;
    if (stated_bytes != *bytes) {
      item.at("bytes").fail(fmt::format("is not {}, what {} of {} takes", *bytes,
                                        shape->to_string(), name_of(tensor.desc.dtype)));
    }
    const bool is_sha256 = tensor.sha256.size() == 64 &&
                           tensor.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (digests && !is_sha256) item.at("sha256").fail("is not 64 hex digits");
  }

  JsonReader place;
  bool digests;
};

void check_word(const JsonReader& fields, std::string_view key, std::string_view word,
                std::initializer_list<std::string_view> known) {
  if (std::ranges::find(known, word) == known.end())
    fields.at(key).refuse(fmt::format("one of: {}", fmt::join(known, ", ")));
}

void check_header(const JsonReader& fields, const TraceHeader& header) {
  if (const Status checked = header.dims.check(); !checked.ok())
    fields.at("model").at("config").fail(checked.message());
  if (!is_wire_type(header.wire)) fields.at("wire").fail("is no type that floats cross as");
  if (!is_model_float(header.dtype)) fields.at("dtype").fail("is no float type");
  check_word(fields, "attention", header.attention, {"offload", "tee"});
  check_word(fields, "backend", header.backend, {"remote", "local"});
}

void check_times(const JsonReader& fields, const OpTimes& times) {
  const std::uint64_t parts = times.tee_ns + times.wire_ns + times.queue_ns + times.server_ns;
  if (parts != times.total_ns) {
    fields.at("total_ns").fail(fmt::format("is {}, its parts make {}", times.total_ns, parts));
  }
}

/// Whether its outputs are what its op gives.
Status check_outputs(const TraceRecord& record, const ModelDims& dims) {
  ASSIGN_OR_RETURN(const std::vector<TensorDesc> results, op_results(record.spec(), dims));
  if (results.size() != record.outputs.size()) {
    return {StatusCode::kInvalidInput, "{} outputs, the op has {}", record.outputs.size(),
            results.size()};
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    const TensorDesc& stated = record.outputs[i].desc;
    if (stated == results[i]) continue;
    return {StatusCode::kInvalidInput,
            "output {} is {} {}, the op gives {} {}",
            i,
            name_of(stated.dtype),
            stated.shape.to_string(),
            name_of(results[i].dtype),
            results[i].shape.to_string()};
  }
  return {};
}

}  // namespace

bool is_payload_name(std::string_view name) {
  if (name.empty() || name.size() > 255 || name[0] == '.' ||
      name.find_first_of(std::string_view("/\0", 2)) != std::string_view::npos) {
    return false;
  }
  // What is not UTF-8 does not come back.
  const auto read = parse_json(JsonObject().add("name", name).text(), {});
  return read.ok() && read->find("name")->text == name;
}

std::string encode_trace_line(const TraceHeader& header) {
  return Writer::written([&](Writer& writer) {
           writer("airlock_trace", kTraceSchemaVersion);
           visit_header(writer, header);
         })
      .text();
}

JsonObject dims_object(const ModelDims& dims) {
  return Writer::written([&](Writer& writer) { visit_dims(writer, dims); });
}

JsonObject record_object(const TraceRecord& record) {
  return Writer::written([&](Writer& writer) { visit_record(writer, record); });
}

std::string encode_trace_line(const TraceRecord& record) { return record_object(record).text(); }

Result<TraceHeader> decode_trace_header(std::string_view line, std::string_view source) {
  ASSIGN_OR_RETURN(const Json json, parse_json(line, source));
  Status status;
  const JsonReader fields(json, source, status);
  const Json* version = json.find("airlock_trace");
  if (version == nullptr) {
    return Status(StatusCode::kInvalidInput,
                  "{}: no trace: its first line has no \"airlock_trace\"", source);
  }
  if (version->kind != Json::Kind::kInteger || version->integer != kTraceSchemaVersion) {
    return Status(StatusCode::kInvalidInput,
                  "{}: a trace of version {}, this program reads version {}", source,
                  version->describe(), kTraceSchemaVersion);
  }
  TraceHeader header;
  visit_header(Reader{fields, false}, header);
  check_header(fields, header);
  RETURN_IF_ERROR(status);
  return header;
}

Result<TraceRecord> decode_trace_record(std::string_view line, const TraceHeader& header,
                                        std::string_view source) {
  ASSIGN_OR_RETURN(const Json json, parse_json(line, source));
  Status status;
  const JsonReader fields(json, source, status);
  TraceRecord record;
  visit_record(Reader{fields, header.digests}, record);
  if (!is_computed(record.op)) fields.at("op").refuse("an op that a backend computes");
  check_times(fields, record.times);
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(check_outputs(record, header.dims).with_context(source));
  return record;
}

}  // namespace airlock
