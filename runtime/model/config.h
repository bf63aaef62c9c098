#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"
#include "proto/op.h"

namespace airlock {

struct RopeScaling {
  enum class Type { kNone, kLinear, kLlama3 };

  Type type = Type::kNone;
  double factor = 1.0;
  // The rest is llama3's.
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_max_position_embeddings = 8192;
  bool operator==(const RopeScaling&) const = default;
};

/// As a config calls it.
constexpr std::string_view name_of(RopeScaling::Type type) {
  switch (type) {
    case RopeScaling::Type::kNone:
      return "default";
    case RopeScaling::Type::kLinear:
      return "linear";
    case RopeScaling::Type::kLlama3:
      return "llama3";
  }
  return {};
}

/// The fields of a Hugging Face LLaMA config.json that change the result, checked and with
/// transformers' defaults.
struct LlamaConfig {
  ModelDims dims;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  bool tie_word_embeddings = false;
  std::int64_t max_position_embeddings = 2048;
  // The config's own word (dtype, torch_dtype); weights may be stored otherwise.
  DType dtype = DType::kF32;
  bool operator==(const LlamaConfig&) const = default;
};

/// Reads both spellings (transformers 4 and 5). `source` names the text in messages. kInvalidInput
/// with key and value for anything absurd, and for anything that would change the result and is not
/// supported.
Result<LlamaConfig> parse_config(std::string_view json, std::string_view source);
Result<LlamaConfig> load_config(const std::string& path);
/// Canonical JSON of the fields above; parse_config() reads it back to an equal LlamaConfig. The
/// digest covers it.
std::string config_to_json(const LlamaConfig& config);

}  // namespace airlock
