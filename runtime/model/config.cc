#include "runtime/model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "base/readable_file.h"
#include "proto/limits.h"
#include "runtime/json/reader.h"
#include "runtime/json/writer.h"
#include "runtime/model/model_files.h"

namespace airlock {

namespace {

constexpr std::uint64_t kMaxConfigFileBytes = 1 << 20;
constexpr std::size_t kMaxMembers = 64;
constexpr std::int64_t kMaxPositions = (std::int64_t{1} << 31) - 1;
constexpr std::int64_t kMaxRopeTheta = 1'000'000'000'000'000;
constexpr std::int64_t kMaxRopeFactor = 1'000'000;

// As transformers does, all of this takes a member that is null for one that is missing.

/// The first of `known` is what a message names.
void demand_text(const JsonReader& value, std::initializer_list<std::string_view> known) {
  if (!value.json().is_string() || std::ranges::find(known, value.json().text) == known.end())
    value.refuse(fmt::format("\"{}\": nothing else is supported", *known.begin()));
}

/// Nothing but `only`, which changes nothing.
void demand(const JsonReader& object, std::string_view key, auto only) {
  auto value = only;
  object.maybe(key, value, 1);
  if (value != only) object.at(key).refuse(fmt::format("{}: nothing else is supported", only));
}

void check_kind_of_model(const JsonReader& config) {
  if (config.has("model_type")) demand_text(config.at("model_type"), {"llama"});
  if (config.has("architectures")) {
    for (const JsonReader& name : config.at("architectures").items(kMaxMembers))
      // The second is how the first was spelt when the class was new.
      demand_text(name, {"LlamaForCausalLM", "LLaMAForCausalLM"});
  }
  if (config.has("hidden_act")) demand_text(config.at("hidden_act"), {"silu", "swish"});
  // transformers', an older one of it, and MLX's.
  for (const std::string_view key : {"quantization_config", "compression_config", "quantization"}) {
    if (config.has(key)) {
      config.at(key).fail(
          "is set: quantised checkpoints are not supported; use an fp32, fp16 or bf16 one");
    }
  }
  demand(config, "attention_bias", false);
  demand(config, "mlp_bias", false);
  demand(config, "partial_rotary_factor", 1.0);
}

ModelDims read_dims(const JsonReader& config) {
  namespace l = limits;
  ModelDims dims = {.hidden = 4096,
                    .intermediate = 11008,
                    .layers = 32,
                    .heads = 32,
                    .kv_heads = 0,
                    .head_dim = 0,
                    .vocab = 32000};
  config.maybe("vocab_size", dims.vocab, {1, l::kMaxVocab});
  config.maybe("hidden_size", dims.hidden, {1, l::kMaxHidden});
  config.maybe("intermediate_size", dims.intermediate, {1, l::kMaxIntermediate});
  config.maybe("num_hidden_layers", dims.layers, {1, l::kMaxLayers});
  config.maybe("num_attention_heads", dims.heads, {1, l::kMaxHeads});
  dims.kv_heads = dims.heads;
  config.maybe("num_key_value_heads", dims.kv_heads, {1, l::kMaxHeads});
  if (dims.heads % dims.kv_heads != 0) {
    config.at("num_key_value_heads")
        .refuse(fmt::format("a divisor of num_attention_heads, {}", dims.heads));
  }
  config.maybe("head_dim", dims.head_dim, {1, l::kMaxHeadDim});
  if (dims.head_dim % 2 != 0) config.at("head_dim").refuse("an even number");
  if (dims.head_dim == 0) {
    dims.head_dim = dims.hidden / dims.heads;
    if (dims.hidden % dims.heads != 0 || dims.head_dim % 2 != 0 || dims.head_dim > l::kMaxHeadDim) {
      config.fail(
          fmt::format("head_dim is missing, and hidden_size {} over num_attention_heads {} is not "
                      "an even whole number of at most {}",
                      dims.hidden, dims.heads, l::kMaxHeadDim));
    }
  }
  return dims;
}

RopeScaling::Type read_rope_type(const JsonReader& rope) {
  RopeScaling::Type older = RopeScaling::Type::kNone;
  rope.maybe("type", older);
  RopeScaling::Type type = older;
  rope.maybe("rope_type", type);
  if (type != older && rope.has("type"))
    rope.at("rope_type").refuse(fmt::format("\"{}\", as type says", name_of(older)));
  // One without a type has nothing else to say: of what would its factor be?
  if (rope.has("factor") && !rope.has("type")) rope.read("rope_type", type);
  return type;
}

/// `theta` stays as it is where the object does not name one.
RopeScaling read_rope_object(const JsonReader& rope, double& theta) {
  for (const auto& [key, value] : rope.members(kMaxMembers)) {
    if (value.json().is_object()) value.refuse("a number or a text");
  }
  demand(rope, "partial_rotary_factor", 1.0);
  rope.maybe("rope_theta", theta, kMaxRopeTheta);
  RopeScaling scaling;
  scaling.type = read_rope_type(rope);
  if (scaling.type == RopeScaling::Type::kNone) return scaling;
  rope.read("factor", scaling.factor, kMaxRopeFactor);
  if (scaling.type == RopeScaling::Type::kLinear) return scaling;
  rope.read("low_freq_factor", scaling.low_freq_factor, kMaxRopeFactor);
  rope.read("high_freq_factor", scaling.high_freq_factor, kMaxRopeFactor);
  rope.read("original_max_position_embeddings", scaling.original_max_position_embeddings,
            kMaxPositions);
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    rope.at("high_freq_factor")
        .refuse(fmt::format("more than low_freq_factor, {}", scaling.low_freq_factor));
  }
  return scaling;
}

/// transformers 4: rope_theta beside rope_scaling; transformers 5: both in rope_parameters. Where
/// several of them are there they must agree: which of them a reader takes depends on its version.
void read_rope(const JsonReader& config, LlamaConfig& out) {
  double theta = 0;
  config.maybe("rope_theta", theta, kMaxRopeTheta);
  std::optional<RopeScaling> seen;
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const JsonReader rope = config.at(key);
    const double before = theta;
    const RopeScaling scaling = read_rope_object(rope, theta);
    if (before != 0 && theta != before)
      rope.at("rope_theta").refuse(fmt::format("{}, as elsewhere", before));
    if (seen && *seen != scaling) rope.fail("disagrees with rope_scaling: remove one of them");
    seen = scaling;
  }
  out.rope_scaling = seen.value_or(RopeScaling{});
  if (theta != 0) out.rope_theta = theta;
}

std::string_view config_dtype_name(DType dtype) {
  if (dtype == DType::kF16) return "float16";
  return dtype == DType::kBF16 ? "bfloat16" : "float32";
}

void read_dtype(const JsonReader& config, DType& out) {
  bool seen = false;
  for (const std::string_view key : {"torch_dtype", "dtype"}) {
    if (!config.has(key)) continue;
    const JsonReader value = config.at(key);
    std::string_view name = value.json().text;
    if (name == "auto") continue;  // as the weights are stored
    if (name.starts_with("torch.")) name.remove_prefix(6);
    constexpr std::array kKnown = {DType::kF32, DType::kF16, DType::kBF16};
    const auto found = std::ranges::find(kKnown, name, config_dtype_name);
    if (found == kKnown.end()) return value.refuse("\"float32\", \"float16\" or \"bfloat16\"");
    if (seen && *found != out)
      value.refuse(fmt::format("\"{}\", as torch_dtype says", config_dtype_name(out)));
    out = *found;
    seen = true;
  }
}

/// JSON has one kind of numbers, and some that write configs make 4.0 of a 4.
void take_whole_numbers_for_integers(Json& config) {
  constexpr double kLargestExact = 1LL << 53;
  for (Json& value : config.items) {
    if (value.kind != Json::Kind::kNumber || std::abs(value.number) > kLargestExact ||
        value.number != std::trunc(value.number))
      continue;
    value.kind = Json::Kind::kInteger;
    value.integer = static_cast<std::int64_t>(value.number);
  }
}

}  // namespace

Result<LlamaConfig> parse_config(std::string_view json, std::string_view source) {
  if (json.size() > kMaxConfigFileBytes) {
    return Status(StatusCode::kInvalidInput, "{}: has {} bytes, at most {} are taken", source,
                  json.size(), kMaxConfigFileBytes);
  }
  ASSIGN_OR_RETURN(Json root, parse_json(json, source));
  take_whole_numbers_for_integers(root);
  Status status;
  const JsonReader reader(root, source, status);
  LlamaConfig config;
  check_kind_of_model(reader);
  config.dims = read_dims(reader);
  read_rope(reader, config);
  read_dtype(reader, config.dtype);
  reader.maybe("rms_norm_eps", config.rms_norm_eps, 1);
  reader.maybe("tie_word_embeddings", config.tie_word_embeddings);
  reader.maybe("max_position_embeddings", config.max_position_embeddings, {1, kMaxPositions});
  RETURN_IF_ERROR(status);
  if (Status checked = config.dims.check(); !checked.ok()) return checked.with_context(source);
  return config;
}

Result<LlamaConfig> load_config(const std::string& path) {
  RETURN_IF_ERROR(check_model_file(path));
  ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxConfigFileBytes));
  return parse_config(text, path);
}

std::string config_to_json(const LlamaConfig& config) {
  std::optional<JsonObject> scaling;
  const RopeScaling& rope = config.rope_scaling;
  if (rope.type != RopeScaling::Type::kNone) {
    scaling = {{"factor", rope.factor}};
    if (rope.type == RopeScaling::Type::kLlama3) {
      scaling->add("high_freq_factor", rope.high_freq_factor);
      scaling->add("low_freq_factor", rope.low_freq_factor);
      scaling->add("original_max_position_embeddings", rope.original_max_position_embeddings);
    }
    scaling->add("rope_type", rope.type);
  }
  const ModelDims& dims = config.dims;
  const JsonObject json = {{"architectures", std::array{"LlamaForCausalLM"}},
                           {"head_dim", dims.head_dim},
                           {"hidden_act", "silu"},
                           {"hidden_size", dims.hidden},
                           {"intermediate_size", dims.intermediate},
                           {"max_position_embeddings", config.max_position_embeddings},
                           {"model_type", "llama"},
                           {"num_attention_heads", dims.heads},
                           {"num_hidden_layers", dims.layers},
                           {"num_key_value_heads", dims.kv_heads},
                           {"rms_norm_eps", config.rms_norm_eps},
                           {"rope_scaling", scaling},
                           {"rope_theta", config.rope_theta},
                           {"tie_word_embeddings", config.tie_word_embeddings},
                           {"torch_dtype", config_dtype_name(config.dtype)},
                           {"vocab_size", dims.vocab}};
  return json.text();
}

}  // namespace airlock
