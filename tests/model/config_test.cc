#include "runtime/model/config.h"

#include <gmock/gmock.h>

#include <random>
#include <string>
#include <vector>

#include "proto/limits.h"
#include "runtime/json/reader.h"
#include "tests/model/temp_model.h"

namespace airlock {
namespace {

using testing::HasSubstr;

// A full config whose members a test can add to: `more` comes first, so a key that is there twice
// is refused.
std::string config_with(const std::string& more) {
  return R"({"vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2)" +
         (more.empty() ? "" : ", " + more) + "}";
}

void expect_refused(const std::string& json, const std::vector<std::string>& words) {
  const auto config = parse_config(json, "config.json");
  ASSERT_FALSE(config.ok()) << json;
  EXPECT_EQ(config.status().code(), StatusCode::kInvalidInput) << json;
  EXPECT_THAT(config.status().message(), HasSubstr("config.json")) << json;
  for (const std::string& word : words)
    EXPECT_THAT(config.status().message(), HasSubstr(word)) << json;
}

LlamaConfig parsed(const std::string& json) {
  const auto config = parse_config(json, "config.json");
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? *config : LlamaConfig{};
}

TEST(Config, gives_transformers_defaults_for_an_empty_object) {
  const LlamaConfig config = parsed("{}");
  const ModelDims dims{.hidden = 4096,
                       .intermediate = 11008,
                       .layers = 32,
                       .heads = 32,
                       .kv_heads = 32,
                       .head_dim = 128,
                       .vocab = 32000};
  EXPECT_EQ(config.dims, dims);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 10000.0);
  EXPECT_EQ(config.rope_scaling, RopeScaling{});
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_EQ(config.dtype, DType::kF32);
}

TEST(Config, takes_null_for_missing) {
  std::string json = "{\"model_type\": null";
  for (const char* key : {"architectures",
                          "vocab_size",
                          "hidden_size",
                          "intermediate_size",
                          "num_hidden_layers",
                          "num_attention_heads",
                          "num_key_value_heads",
                          "head_dim",
                          "hidden_act",
                          "max_position_embeddings",
                          "rms_norm_eps",
                          "rope_theta",
                          "rope_scaling",
                          "rope_parameters",
                          "torch_dtype",
                          "dtype",
                          "tie_word_embeddings",
                          "attention_bias",
                          "mlp_bias",
                          "quantization_config",
                          "partial_rotary_factor"}) {
    json += std::string(", \"") + key + "\": null";
  }
  EXPECT_EQ(parsed(json + "}"), parsed("{}"));
}

TEST(Config, reads_the_spelling_of_transformers_4) {
  const LlamaConfig config = parsed(config_with(
      R"("num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 16, "rope_theta": 500000.0,
         "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3"},
         "torch_dtype": "bfloat16", "tie_word_embeddings": true, "rms_norm_eps": 1e-05)"));
  EXPECT_EQ(config.dims.kv_heads, 2);
  EXPECT_EQ(config.dims.head_dim, 16);
  EXPECT_EQ(config.rope_theta, 500000.0);
  EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kLlama3);
  EXPECT_EQ(config.rope_scaling.factor, 32.0);
  EXPECT_EQ(config.rope_scaling.low_freq_factor, 1.0);
  EXPECT_EQ(config.rope_scaling.high_freq_factor, 4.0);
  EXPECT_EQ(config.rope_scaling.original_max_position_embeddings, 8192);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.rms_norm_eps, 1e-5);
}

TEST(Config, reads_the_spelling_of_transformers_5) {
  const std::string v4 = config_with(
      R"("rope_theta": 20000, "rope_scaling": {"rope_type": "linear", "factor": 2}, "torch_dtype": "float16")");
  const std::string v5 = config_with(
      R"("rope_parameters": {"rope_theta": 20000.0, "rope_type": "linear", "factor": 2.0}, "dtype": "float16")");
  EXPECT_EQ(parsed(v4), parsed(v5));
  EXPECT_EQ(parsed(v5).rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(parsed(v5).dtype, DType::kF16);
}

TEST(Config, reads_the_older_type_key_of_rope_scaling) {
  const LlamaConfig config =
      parsed(config_with(R"("rope_scaling": {"type": "linear", "factor": 4.0})"));
  EXPECT_EQ(config.rope_scaling.type, RopeScaling::Type::kLinear);
  EXPECT_EQ(config.rope_scaling.factor, 4.0);
}

TEST(Config, takes_default_rope_for_none) {
  EXPECT_EQ(parsed(config_with(R"("rope_parameters": {"rope_type": "default", "rope_theta": 7.5})"))
                .rope_theta,
            7.5);
  EXPECT_EQ(parsed(config_with(R"("rope_scaling": {})")).rope_scaling, RopeScaling{});
}

TEST(Config, takes_agreeing_doubles_of_a_key_and_refuses_others) {
  parsed(
      config_with(R"("rope_theta": 9.0, "rope_parameters": {"rope_theta": 9.0}, "dtype": "float16",
                        "torch_dtype": "float16", "rope_scaling": {"type": "default", "rope_type": "default"})"));
  expect_refused(config_with(R"("rope_theta": 9.0, "rope_parameters": {"rope_theta": 8.0})"),
                 {"rope_theta", "8", "9"});
  expect_refused(config_with(R"("dtype": "float16", "torch_dtype": "bfloat16")"),
                 {"dtype", "float16"});
  expect_refused(
      config_with(R"("rope_scaling": {"type": "linear", "rope_type": "llama3", "factor": 2})"),
      {"rope_type", "llama3", "linear"});
  expect_refused(
      config_with(
          R"("rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 8.0})"),
      {"rope_parameters"});
  expect_refused(config_with(R"("hidden_size": 64)"), {"hidden_size", "twice"});
}

TEST(Config, takes_what_real_configs_say) {
  // Spelt as in the first conversions, with a key that was there for a while.
  const LlamaConfig old = parsed(config_with(
      R"("architectures": ["LLaMAForCausalLM"], "max_sequence_length": 2048, "pad_token_id": -1,
         "torch_dtype": "float16", "transformers_version": "4.27.0.dev0")"));
  EXPECT_EQ(old.dtype, DType::kF16);
  const LlamaConfig odd = parsed(config_with(
      R"("num_attention_heads": 8.0, "num_key_value_heads": 2.0, "head_dim": 1.6e1,
         "max_position_embeddings": 131072.0, "rope_theta": 1000000, "torch_dtype": "auto",
         "eos_token_id": [128001, 128008, 128009], "rope_scaling": null, "auto_map": {"a": "b"},
         "pretraining_tp": 1, "attention_dropout": 0.0, "_name_or_path": "x", "is_llama_config": true)"));
  EXPECT_EQ(odd.dims.heads, 8);
  EXPECT_EQ(odd.dims.kv_heads, 2);
  EXPECT_EQ(odd.dims.head_dim, 16);
  EXPECT_EQ(odd.max_position_embeddings, 131072);
  EXPECT_EQ(odd.rope_theta, 1e6);
  EXPECT_EQ(odd.dtype, DType::kF32);
  EXPECT_EQ(parsed(config_with(R"("torch_dtype": "auto", "dtype": "bfloat16")")).dtype,
            DType::kBF16);
}

TEST(Config, refuses_by_name_and_value_what_changes_the_result) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"attention_bias", "true"},
      {"mlp_bias", "true"},
      {"hidden_act", "\"gelu\""},
      {"model_type", "\"mistral\""},
      {"model_type", "7"},
      {"model_type", "\"mllama\""},
      {"architectures", "[\"MistralForCausalLM\"]"},
      {"architectures", "[\"LlamaForSequenceClassification\"]"},
      {"architectures", "\"x\""},
      {"partial_rotary_factor", "0.5"},
      {"torch_dtype", "\"float64\""},
      {"dtype", "\"int8\""},
      {"tie_word_embeddings", "\"yes\""},
      {"attention_bias", "1"},
      {"rope_scaling", "7"},
      {"rope_parameters", "[]"},
      {"quantization_config", "{\"bits\": 4}"},
      {"quantization", "{\"group_size\": 64, \"bits\": 4}"},
  };
  for (const auto& [key, value] : cases)
    expect_refused(config_with("\"" + key + "\": " + value), {key});
  expect_refused(config_with(R"("hidden_act": "gelu_new")"), {"hidden_act", "gelu_new", "silu"});
  expect_refused(config_with(R"("attention_bias": true)"), {"'attention_bias' is true"});
}

TEST(Config, refuses_other_rope_types_by_name) {
  for (const std::string type : {"dynamic", "yarn", "longrope", "su", "proportional", ""}) {
    for (const std::string key : {"rope_scaling", "rope_parameters"}) {
      expect_refused(
          config_with("\"" + key + "\": {\"rope_type\": \"" + type + "\", \"factor\": 2.0}"),
          {key + ".rope_type", "\"" + type + "\""});
    }
  }
  expect_refused(config_with(R"("rope_scaling": {"factor": 2.0})"), {"rope_scaling.rope_type"});
  expect_refused(config_with(R"("rope_scaling": {"rope_type": 3})"),
                 {"rope_scaling.rope_type", "3"});
  expect_refused(config_with(R"("rope_parameters": {"full_attention": {"rope_type": "default"}})"),
                 {"full_attention"});
  expect_refused(config_with(R"("rope_parameters": {"partial_rotary_factor": 0.25})"),
                 {"partial_rotary_factor"});
}

TEST(Config, demands_the_keys_of_rope_scaling) {
  expect_refused(config_with(R"("rope_scaling": {"rope_type": "linear"})"),
                 {"rope_scaling.factor"});
  const std::string whole =
      R"("rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, )"
      R"("original_max_position_embeddings": 64})";
  parsed(config_with(whole));
  for (const std::string key : {"\"factor\"", "\"low_freq_factor\"", "\"high_freq_factor\"",
                                "\"original_max_position_embeddings\""}) {
    const std::string name = key.substr(1, key.size() - 2);
    expect_refused(config_with(test::replaced(whole, key, "\"other\"")), {name, "missing"});
    expect_refused(config_with(test::replaced(whole, key + ": ", key + ": -")), {name, "-"});
  }
  expect_refused(
      config_with(test::replaced(whole, "\"high_freq_factor\": 4", "\"high_freq_factor\": 1")),
      {"high_freq_factor"});
}

TEST(Config, refuses_absurd_integers) {
  for (const std::string key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"}) {
    for (const std::string value : {"0", "-1", "1099511627776", "9223372036854775808", "1e300",
                                    "2.5", "-64.0", "0.0", "\"64\"", "true", "[]", "{}"}) {
      expect_refused("{\"" + key + "\": " + value + "}", {key});
    }
  }
}

TEST(Config, refuses_absurd_numbers) {
  for (const std::string key : {"rms_norm_eps", "rope_theta"}) {
    for (const std::string value : {"0", "-1e-5", "1e300", "\"1e-5\"", "false", "[1]"}) {
      expect_refused("{\"" + key + "\": " + value + "}", {key});
    }
    for (const std::string value : {"NaN", "Infinity", "-Infinity", "1e999"}) {
      expect_refused("{\"" + key + "\": " + value + "}", {});
    }
  }
}

TEST(Config, refuses_heads_that_do_not_fit) {
  expect_refused(config_with(R"("num_attention_heads": 8, "num_key_value_heads": 3)"),
                 {"num_key_value_heads", "3", "8"});
  expect_refused(config_with(R"("num_attention_heads": 8, "num_key_value_heads": 16)"),
                 {"num_key_value_heads"});
  expect_refused(config_with(R"("num_attention_heads": 8, "head_dim": 15)"),
                 {"head_dim", "15", "even"});
  expect_refused(config_with(R"("num_attention_heads": 5)"), {"head_dim", "64", "5"});
  EXPECT_EQ(parsed(config_with(R"("num_attention_heads": 5, "head_dim": 20)")).dims.head_dim, 20);
}

TEST(Config, refuses_what_is_not_one_json_object) {
  for (const std::string json : {"", " ", "[]", "7", "null", "\"llama\"", "{", "{}}", "{\"a\":1,}",
                                 "{'a':1}", "\xff\xfe", "{\"a\": \"\xff\"}"}) {
    expect_refused(json, {});
  }
  expect_refused("{\"x\": " + std::string(100000, '[') + std::string(100000, ']') + "}",
                 {"nested"});
  expect_refused("{\"x\": " + std::string(2 << 20, ' ') + "1}", {"bytes"});
}

TEST(Config, says_which_file_is_missing_or_odd) {
  const test::TempFolder folder;
  const auto missing = load_config(folder.path("config.json"));
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(missing.status().message(), HasSubstr(folder.path("config.json")));
  EXPECT_FALSE(load_config(folder.path()).ok());
  test::write_file(folder.path("huge.json"), std::string(2 << 20, ' '));
  EXPECT_FALSE(load_config(folder.path("huge.json")).ok());
}

TEST(Config, canonical_json_reads_back_equal) {
  for (
      const std::string more :
      {R"("rms_norm_eps": 1.234567890123e-5, "rope_theta": 123456.789, "num_key_value_heads": 8)",
       R"("tie_word_embeddings": true, "dtype": "bfloat16", "rope_scaling": {"type": "linear", "factor": 0.1})",
       R"("rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1.5, "high_freq_factor": 4,
            "original_max_position_embeddings": 64}, "torch_dtype": "float16", "max_position_embeddings": 77)"}) {
    const LlamaConfig config = parsed(config_with(more));
    const std::string json = config_to_json(config);
    EXPECT_EQ(parsed(json), config) << json;
    EXPECT_EQ(config_to_json(parsed(json)), json);
    EXPECT_LE(json.size(), limits::kMaxConfigBytes);
  }
}

TEST(Config, does_not_put_control_characters_into_messages) {
  const auto config = parse_config(
      "{\"hidden_act\": \"\\u001b[31m\\n" + std::string(500, 'x') + "\"}", "config.json");
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().message().find('\x1b'), std::string::npos);
  EXPECT_EQ(config.status().message().find('\n'), std::string::npos);
  EXPECT_LT(config.status().message().size(), 300U);
}

TEST(Config, survives_random_damage) {
  const std::string whole = config_with(
      R"("num_attention_heads": 8, "num_key_value_heads": 2, "rope_theta": 500000.0, "torch_dtype": "bfloat16",
         "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3"})");
  constexpr std::string_view kAlphabet = "0123456789-+.eE\"[]{},:ntfalsru\\ \x01\xff";
  std::mt19937 random(20240607);
  for (int round = 0; round < 20000; ++round) {
    std::string json = whole;
    for (std::uint32_t edits = 1 + random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % json.size();
      switch (random() % 3) {
        case 0:
          json[at] = kAlphabet[random() % kAlphabet.size()];
          break;
        case 1:
          json.erase(at, random() % 8);
          break;
        default:
          json.insert(at, 1, kAlphabet[random() % kAlphabet.size()]);
          break;
      }
      if (json.empty()) json.push_back('{');
    }
    const auto config = parse_config(json, "fuzz");
    if (config.ok()) {
      EXPECT_TRUE(config->dims.check().ok());
      EXPECT_EQ(parsed(config_to_json(*config)), *config);
    } else {
      EXPECT_EQ(config.status().code(), StatusCode::kInvalidInput);
    }
  }
}

}  // namespace
}  // namespace airlock
