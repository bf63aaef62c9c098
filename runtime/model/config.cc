#include "runtime/model/config.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "proto/limits.h"
#include "runtime/model/file.h"
#include "runtime/model/json.h"

namespace airlock {

namespace {

constexpr std::uint64_t kMaxConfigFileBytes = 1 << 20;
constexpr std::int64_t kMaxPositions = (std::int64_t{1} << 31) - 1;
constexpr double kMaxRopeTheta = 1e15;
constexpr double kMaxRopeFactor = 1e6;

/// Typed, checked reads of one JSON object. Missing and null are the same thing, as for
/// transformers.
class Fields {
 public:
  Fields(const Json& object, std::string_view source, std::string_view prefix)
      : object_(object), source_(source), prefix_(prefix) {}

  const Json* find(std::string_view key) const {
    const Json* value = object_.find(key);
    return value != nullptr && value->kind != Json::Kind::kNull ? value : nullptr;
  }
  Status refuse(std::string_view key, const Json& value, std::string_view why) const {
    return {StatusCode::kInvalidInput,
            fmt::format("{}: {}{} is {}: {}", source_, prefix_, key, value.describe(), why)};
  }
  Status missing(std::string_view key, std::string_view why) const {
    return {StatusCode::kInvalidInput,
            fmt::format("{}: {}{} is missing: {}", source_, prefix_, key, why)};
  }

  Status integer(std::string_view key, std::int64_t least, std::int64_t most,
                 std::int64_t& out) const {
    const Json* value = find(key);
    if (value == nullptr) return {};
    if (value->kind != Json::Kind::kInteger || value->integer < least || value->integer > most) {
      return refuse(key, *value, fmt::format("must be an integer from {} to {}", least, most));
    }
    out = value->integer;
    return {};
  }
  /// A number in (0, most].
  Status positive(std::string_view key, double most, double& out) const {
    const Json* value = find(key);
    if (value == nullptr) return {};
    const bool numeric = value->kind == Json::Kind::kInteger || value->kind == Json::Kind::kNumber;
    if (!numeric || !std::isfinite(value->number) || value->number <= 0 || value->number > most) {
      return refuse(key, *value, fmt::format("must be a number over 0, at most {}", most));
    }
    out = value->number;
    return {};
  }
  Status boolean(std::string_view key, bool& out) const {
    const Json* value = find(key);
    if (value == nullptr) return {};
    if (value->kind != Json::Kind::kBool) return refuse(key, *value, "must be true or false");
    out = value->boolean;
    return {};
  }
  Status must_be_false(std::string_view key) const {
    bool value = false;
    RETURN_IF_ERROR(boolean(key, value));
    return value ? refuse(key, *find(key), "not supported, must be false") : Status();
  }
  Status must_be_one(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr ||
        ((value->kind == Json::Kind::kInteger || value->kind == Json::Kind::kNumber) &&
         value->number == 1.0)) {
      return {};
    }
    return refuse(key, *value, "not supported, must be 1");
  }

 private:
  const Json& object_;
  std::string_view source_;
  std::string_view prefix_;
};

Status check_kind_of_model(const Fields& fields) {
  if (const Json* type = fields.find("model_type"); type != nullptr && type->text != "llama") {
    return fields.refuse("model_type", *type, "only \"llama\" is supported");
  }
  if (const Json* names = fields.find("architectures")) {
    constexpr std::string_view kWhy = "only [\"LlamaForCausalLM\"] is supported";
    if (names->kind != Json::Kind::kArray) return fields.refuse("architectures", *names, kWhy);
    for (const Json& name : names->items) {
      if (name.text != "LlamaForCausalLM") return fields.refuse("architectures", name, kWhy);
    }
  }
  if (const Json* act = fields.find("hidden_act");
      act != nullptr && act->text != "silu" && act->text != "swish") {
    return fields.refuse("hidden_act", *act, "only \"silu\" is supported");
  }
  for (const std::string_view key : {"quantization_config", "compression_config"}) {
    if (const Json* value = fields.find(key)) {
      return fields.refuse(
          key, *value, "quantised checkpoints are not supported; use an fp32, fp16 or bf16 one");
    }
  }
  RETURN_IF_ERROR(fields.must_be_false("attention_bias"));
  RETURN_IF_ERROR(fields.must_be_false("mlp_bias"));
  return fields.must_be_one("partial_rotary_factor");
}

Status read_dims(const Fields& fields, ModelDims& dims) {
  namespace l = limits;
  dims = {.hidden = 4096,
          .intermediate = 11008,
          .layers = 32,
          .heads = 32,
          .kv_heads = 0,
          .head_dim = 0,
          .vocab = 32000};
  RETURN_IF_ERROR(fields.integer("vocab_size", 1, l::kMaxVocab, dims.vocab));
  RETURN_IF_ERROR(fields.integer("hidden_size", 1, l::kMaxHidden, dims.hidden));
  RETURN_IF_ERROR(fields.integer("intermediate_size", 1, l::kMaxIntermediate, dims.intermediate));
  RETURN_IF_ERROR(fields.integer("num_hidden_layers", 1, l::kMaxLayers, dims.layers));
  RETURN_IF_ERROR(fields.integer("num_attention_heads", 1, l::kMaxHeads, dims.heads));
  dims.kv_heads = dims.heads;
  RETURN_IF_ERROR(fields.integer("num_key_value_heads", 1, l::kMaxHeads, dims.kv_heads));
  if (dims.heads % dims.kv_heads != 0) {
    return fields.refuse("num_key_value_heads", *fields.find("num_key_value_heads"),
                         fmt::format("must divide num_attention_heads, {}", dims.heads));
  }
  RETURN_IF_ERROR(fields.integer("head_dim", 1, l::kMaxHeadDim, dims.head_dim));
  if (const Json* value = fields.find("head_dim"); value != nullptr && dims.head_dim % 2 != 0) {
    return fields.refuse("head_dim", *value, "must be even");
  }
  if (dims.head_dim == 0) {
    dims.head_dim = dims.hidden / dims.heads;
    if (dims.hidden % dims.heads != 0 || dims.head_dim % 2 != 0 || dims.head_dim > l::kMaxHeadDim) {
      return fields.missing(
          "head_dim", fmt::format("hidden_size {} over num_attention_heads {} must give an even "
                                  "whole number of at most {}",
                                  dims.hidden, dims.heads, l::kMaxHeadDim));
    }
  }
  return {};
}

/// What one of `rope_scaling`, `rope_parameters` says.
struct Rope {
  RopeScaling scaling;
  double theta = 0;  // 0: says nothing
};

Result<RopeScaling::Type> read_rope_type(const Fields& fields) {
  const Json* name = fields.find("rope_type");
  const Json* older = fields.find("type");
  if (name != nullptr && older != nullptr && name->text != older->text) {
    return fields.refuse("rope_type", *name, fmt::format("type says {}", older->describe()));
  }
  if (name == nullptr) name = older;
  if (name == nullptr) {
    if (fields.find("factor") == nullptr) return RopeScaling::Type::kNone;
    return fields.missing("rope_type", "factor is there, so it must say \"linear\" or \"llama3\"");
  }
  if (name->is_string() && name->text == "default") return RopeScaling::Type::kNone;
  if (name->is_string() && name->text == "linear") return RopeScaling::Type::kLinear;
  if (name->is_string() && name->text == "llama3") return RopeScaling::Type::kLlama3;
  return fields.refuse("rope_type", *name, "supported are \"default\", \"linear\" and \"llama3\"");
}

Result<Rope> read_rope_object(const Json& object, std::string_view source, const std::string& key) {
  const std::string prefix = key + ".";
  const Fields fields(object, source, prefix);
  for (std::size_t i = 0; i < object.items.size(); ++i) {
    if (object.items[i].is_object())
      return fields.refuse(object.keys[i], object.items[i], "not supported");
  }
  Rope rope;
  RETURN_IF_ERROR(fields.must_be_one("partial_rotary_factor"));
  RETURN_IF_ERROR(fields.positive("rope_theta", kMaxRopeTheta, rope.theta));
  ASSIGN_OR_RETURN(rope.scaling.type, read_rope_type(fields));
  RopeScaling& scaling = rope.scaling;
  if (scaling.type == RopeScaling::Type::kNone) return rope;
  if (fields.find("factor") == nullptr) return fields.missing("factor", "this rope_type needs it");
  RETURN_IF_ERROR(fields.positive("factor", kMaxRopeFactor, scaling.factor));
  if (scaling.type == RopeScaling::Type::kLinear) return rope;
  for (const std::string_view need :
       {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    if (fields.find(need) == nullptr) return fields.missing(need, "rope_type \"llama3\" needs it");
  }
  RETURN_IF_ERROR(fields.positive("low_freq_factor", kMaxRopeFactor, scaling.low_freq_factor));
  RETURN_IF_ERROR(fields.positive("high_freq_factor", kMaxRopeFactor, scaling.high_freq_factor));
  RETURN_IF_ERROR(fields.positive("original_max_position_embeddings",
                                  static_cast<double>(kMaxPositions),
                                  scaling.original_max_position_embeddings));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return fields.refuse("high_freq_factor", *fields.find("high_freq_factor"),
                         fmt::format("must be over low_freq_factor, {}", scaling.low_freq_factor));
  }
  return rope;
}

/// transformers 4: rope_theta beside rope_scaling; transformers 5: both in rope_parameters. Where
/// several of them are there they must agree: which of them a reader takes depends on its version.
Status read_rope(const Fields& fields, std::string_view source, LlamaConfig& config) {
  double theta = 0;
  RETURN_IF_ERROR(fields.positive("rope_theta", kMaxRopeTheta, theta));
  std::optional<Rope> seen;
  for (const std::string key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = fields.find(key);
    if (value == nullptr) continue;
    if (!value->is_object()) return fields.refuse(key, *value, "must be an object or null");
    ASSIGN_OR_RETURN(const Rope rope, read_rope_object(*value, source, key));
    if (rope.theta != 0 && theta != 0 && rope.theta != theta) {
      return fields.refuse(
          key, *value, fmt::format("its rope_theta is {}, elsewhere it is {}", rope.theta, theta));
    }
    if (rope.theta != 0) theta = rope.theta;
    if (seen.has_value() && seen->scaling != rope.scaling) {
      return fields.refuse(key, *value, "disagrees with rope_scaling; remove one of them");
    }
    seen = rope;
  }
  if (seen.has_value()) config.rope_scaling = seen->scaling;
  if (theta != 0) config.rope_theta = theta;
  return {};
}

Status read_dtype(const Fields& fields, DType& out) {
  std::optional<DType> seen;
  for (const std::string_view key : {"torch_dtype", "dtype"}) {
    const Json* value = fields.find(key);
    if (value == nullptr) continue;
    std::string_view name = value->text;
    if (name.starts_with("torch.")) name.remove_prefix(6);
    std::optional<DType> dtype;
    if (name == "float32") dtype = DType::kF32;
    if (name == "float16") dtype = DType::kF16;
    if (name == "bfloat16") dtype = DType::kBF16;
    if (!dtype)
      return fields.refuse(key, *value, "supported are \"float32\", \"float16\" and \"bfloat16\"");
    if (seen && *seen != *dtype) return fields.refuse(key, *value, "torch_dtype says otherwise");
    seen = dtype;
  }
  if (seen) out = *seen;
  return {};
}

std::string_view config_dtype_name(DType dtype) {
  if (dtype == DType::kF16) return "float16";
  return dtype == DType::kBF16 ? "bfloat16" : "float32";
}

}  // namespace

Result<LlamaConfig> parse_config(std::string_view json, std::string_view source) {
  if (json.size() > kMaxConfigFileBytes) {
    return Status(StatusCode::kInvalidInput, fmt::format("{}: has {} bytes, at most {} are taken",
                                                         source, json.size(), kMaxConfigFileBytes));
  }
  ASSIGN_OR_RETURN(const Json root, parse_json(json, source));
  if (!root.is_object()) {
    return Status(StatusCode::kInvalidInput,
                  fmt::format("{}: is {}, a config must be an object", source, root.describe()));
  }
  const Fields fields(root, source, "");
  LlamaConfig config;
  RETURN_IF_ERROR(check_kind_of_model(fields));
  RETURN_IF_ERROR(read_dims(fields, config.dims));
  RETURN_IF_ERROR(read_rope(fields, source, config));
  RETURN_IF_ERROR(read_dtype(fields, config.dtype));
  RETURN_IF_ERROR(fields.positive("rms_norm_eps", 1.0, config.rms_norm_eps));
  RETURN_IF_ERROR(fields.boolean("tie_word_embeddings", config.tie_word_embeddings));
  RETURN_IF_ERROR(
      fields.integer("max_position_embeddings", 1, kMaxPositions, config.max_position_embeddings));
  if (Status status = config.dims.check(); !status.ok()) return status.with_context(source);
  return config;
}

Result<LlamaConfig> load_config(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxConfigFileBytes));
  return parse_config(text, path);
}

std::string config_to_json(const LlamaConfig& config) {
  std::string scaling = "null";
  const RopeScaling& rope = config.rope_scaling;
  if (rope.type == RopeScaling::Type::kLinear) {
    scaling = fmt::format(R"({{"factor":{},"rope_type":"linear"}})", rope.factor);
  } else if (rope.type == RopeScaling::Type::kLlama3) {
    scaling = fmt::format(R"({{"factor":{},"high_freq_factor":{},"low_freq_factor":{},)"
                          R"("original_max_position_embeddings":{},"rope_type":"llama3"}})",
                          rope.factor, rope.high_freq_factor, rope.low_freq_factor,
                          rope.original_max_position_embeddings);
  }
  const ModelDims& dims = config.dims;
  return fmt::format(
      R"({{"architectures":["LlamaForCausalLM"],"head_dim":{},"hidden_act":"silu","hidden_size":{},)"
      R"("intermediate_size":{},"max_position_embeddings":{},"model_type":"llama",)"
      R"("num_attention_heads":{},"num_hidden_layers":{},"num_key_value_heads":{},)"
      R"("rms_norm_eps":{},"rope_scaling":{},"rope_theta":{},"tie_word_embeddings":{},)"
      R"("torch_dtype":"{}","vocab_size":{}}})",
      dims.head_dim, dims.hidden, dims.intermediate, config.max_position_embeddings, dims.heads,
      dims.layers, dims.kv_heads, config.rms_norm_eps, scaling, config.rope_theta,
      config.tie_word_embeddings, config_dtype_name(config.dtype), dims.vocab);
}

}  // namespace airlock
