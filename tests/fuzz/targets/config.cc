#include "runtime/model/config.h"

#include "base/check.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  LlamaConfig tiny;
  tiny.dims = {.hidden = 64,
               .intermediate = 128,
               .layers = 2,
               .heads = 4,
               .kv_heads = 2,
               .head_dim = 16,
               .vocab = 100};
  LlamaConfig scaled = tiny;
  scaled.dtype = DType::kBF16;
  scaled.tie_word_embeddings = true;
  scaled.rope_scaling.type = RopeScaling::Type::kLlama3;
  scaled.rope_scaling.factor = 32.0;
  LlamaConfig linear = tiny;
  linear.dtype = DType::kF16;
  linear.rope_scaling.type = RopeScaling::Type::kLinear;
  linear.rope_scaling.factor = 2.5;
  return bytes_of({config_to_json(tiny), config_to_json(scaled), config_to_json(linear),
                   // As transformers 5 has it.
                   R"({"model_type":"llama","dtype":"bfloat16","rope_parameters":{"rope_theta":)"
                   R"(500000.0,"rope_type":"default"},"hidden_act":"silu"})"});
}

bool run(std::span<const std::byte> input) {
  const auto config = parse_config(text_of(input), "fuzz");
  if (!config.ok()) {
    CHECK(config.status().code() == StatusCode::kInvalidInput);
    check_refusal(config.status());
    return false;
  }
  CHECK(config->dims.check().ok());
  CHECK(config->dims.heads % config->dims.kv_heads == 0 && config->dims.head_dim % 2 == 0);
  CHECK(config->rms_norm_eps > 0 && config->rms_norm_eps <= 1);
  CHECK(config->rope_theta > 0 && config->rope_scaling.factor > 0);
  CHECK(config->max_position_embeddings >= 1);
  const auto again = parse_config(config_to_json(*config), "again");
  CHECK(again.ok() && *again == *config);
  return true;
}

}  // namespace

constinit const Target kConfig = {"config", seeds, run};

}  // namespace airlock::fuzz
