#include <array>

#include "base/output_file.h"
#include "proto/limits.h"
#include "runtime/model/model_files.h"
#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"
#include "tee_runner/options.h"

namespace airlock {

namespace {

constexpr std::array kCacheTypes = {DType::kF32, DType::kBF16};
constexpr double kMostAwaitSeconds = 86400;
constexpr std::uint64_t kMaxCacheBytes = std::uint64_t{1} << 42;

Status set_cache_bytes(const std::string& text, std::uint64_t& bytes) {
  const auto size = parse_size(text);
  if (!size || *size < 1 || *size > kMaxCacheBytes)
    return {StatusCode::kUsage, "'{}' is not a size from 1 to {}", text, kMaxCacheBytes};
  bytes = *size;
  return {};
}

void declare_sampling(const CommandOptions& command, TextOptions& options) {
  SamplingSettings& sampling = options.sampling;
  command.number("--max-tokens", options.max_tokens, std::int64_t{0}, limits::kMaxTokens,
                 "tokens of an answer at most (256)");
  command.real("--temperature", sampling.temperature, 0, SamplingSettings::kMaxTemperature,
               "0: always the likeliest token (0)");
  command.number("--top-k", sampling.top_k, std::int64_t{0}, SamplingSettings::kMaxTopK,
                 "choose among so many of the likeliest tokens (0: all)");
  command.real("--top-p", sampling.top_p, 1e-9, 1,
               "choose among the likeliest tokens that have this share together (1: all)");
  command.real("--min-p", sampling.min_p, 0, 1,
               "no token that is less than so many times as likely as the likeliest (0)");
  command.real("--repetition-penalty", sampling.repetition_penalty, 1e-3,
               SamplingSettings::kMaxRepetitionPenalty,
               "divide the logits of tokens that were there (1: none)");
  command.real("--presence-penalty", sampling.presence_penalty, -SamplingSettings::kMaxPenalty,
               SamplingSettings::kMaxPenalty, "take this from tokens of the answer (0)");
  command.real("--frequency-penalty", sampling.frequency_penalty, -SamplingSettings::kMaxPenalty,
               SamplingSettings::kMaxPenalty, "take this from them as often as they are there (0)");
  command.number("--seed", sampling.seed, std::uint64_t{0}, UINT64_MAX,
                 "of the choice; the same seed gives the same words (0)");
  command.texts("--stop", options.stop,
                "a text that ends the answer and is not part of it; again for another");
  command.flag("--ignore-eos", options.ignore_eos, "no token ends an answer");
}

void declare_text(const CommandOptions& command, TextOptions& options) {
  declare_weights(command, options);
  declare_computing(command, options);
  declare_connection(command, options);
  command.choice("--attention", options.attention, "tee: it is computed here, nowhere else");
  command.choice("--chat-template", options.chat_template,
                 "how a conversation is written for the model (auto: its own template is "
                 "recognised)");
  command.number("--context", options.context, std::int64_t{2}, limits::kMaxTokens,
                 "positions of a prompt with its answer (the model's max_position_embeddings)");
  command.parsed(
      "--cache-bytes", "BYTES", "memory for the keys and values of all sequences (1G)",
      [&options](const std::string& text) { return set_cache_bytes(text, options.cache_bytes); });
  command.choice<DType>("--cache-type", options.cache_type, "of keys and values: fp32, bf16",
                        kCacheTypes);
}

/// `inputs`: of the command itself; the model's are known here.
Status check_text(const TextOptions& options, const std::string& record = "",
                  std::vector<NamedFile> inputs = {}) {
  const auto refuse = [](const char* text) { return Status(StatusCode::kUsage, text); };
  if (options.attention != Attention::kTee) {
    return refuse(
        "--attention offload is of prefill alone: the keys and values of an answer stay here");
  }
  if (options.backend == BackendChoice::kLocal && options.model.empty() &&
      options.synthetic.empty()) {
    return refuse("--backend local needs --model DIR or --synthetic CONFIG.json");
  }
  inputs.push_back({"--synthetic", options.synthetic});
  for (std::string& path : model_files(options.model))
    inputs.push_back({"--model", std::move(path)});
  return check_apart(
      std::array{NamedFile{"--stats-json", options.stats_json}, NamedFile{"--record", record}},
      inputs);
}

}  // namespace

void declare(const CommandOptions& command, GenerateOptions& options) {
  declare_text(command, options);
  declare_sampling(command, options);
  const CommandOption prompt = command.text("--prompt", options.prompt, "the prompt");
  const CommandOption file =
      command.text("--prompt-file", options.prompt_file, "a file whose text is the prompt")
          .excludes(prompt);
  const CommandOption messages =
      command
          .text("--messages", options.messages,
                R"(a file with a conversation: [{"role": "user", "content": "..."}, ...])")
          .excludes(prompt)
          .excludes(file);
  const CommandOption tokens =
      command.text("--tokens", options.tokens, "the prompt's token ids: 1,2,3")
          .excludes(prompt)
          .excludes(file)
          .excludes(messages);
  (void)command
      .text("--tokens-file", options.tokens_file,
            "a file of token ids, separated by commas or white space")
      .excludes(prompt)
      .excludes(file)
      .excludes(messages)
      .excludes(tokens);
  command.flag("--chat", options.chat, "the prompt is a user's message of a conversation");
  (void)declare_record(command, options.record, options.record_digest);
  command.choice("-o,--output", options.form,
                 "text: the answer alone, as it comes; json: one object at its end");
}

void declare(const CommandOptions& command, TalkOptions& options) {
  declare_text(command, options);
  declare_sampling(command, options);
  command.text("--system", options.system, "the conversation's system message");
}

void declare(const CommandOptions& command, EndpointOptions& options) {
  declare_text(command, options);
  declare_serve(command, options.serve);
  command.number("--max-sequences", options.max_sequences, std::size_t{1}, std::size_t{256},
                 "answers under way at once (16)");
  command.number("--max-queue", options.max_queue, std::size_t{1}, std::size_t{4096},
                 "prompts that wait beside them; one more is answered 429 (64)");
  command.real("--await-server-seconds", options.await_server_seconds, 0, kMostAwaitSeconds,
               "how long a gpu_server that is not there, at the start or later, is waited for "
               "(300)");
}

Status check(const GenerateOptions& options) {
  const auto refuse = [](const char* text) { return Status(StatusCode::kUsage, text); };
  const bool is_ids = options.tokens || options.tokens_file;
  if (!options.prompt && !options.prompt_file && !options.messages && !is_ids) {
    return refuse(
        "give a prompt: --prompt TEXT, --prompt-file FILE, --messages FILE.json, --tokens 1,2,3 or "
        "--tokens-file FILE");
  }
  if (!is_ids && options.model.empty())
    return refuse("a prompt of text needs --model DIR, for its tokenizer");
  if (options.chat && is_ids) return refuse("--chat wants a text, not token ids");
  if (options.model.empty() && !options.stop.empty())
    return refuse("--stop needs --model DIR, for its tokenizer");
  if (options.tokens) RETURN_IF_ERROR(parse_tokens(*options.tokens, "--tokens").status());
  return check_text(options, options.record,
                    {{"--prompt-file", options.prompt_file.value_or("")},
                     {"--messages", options.messages.value_or("")},
                     {"--tokens-file", options.tokens_file.value_or("")}});
}

Status check(const TalkOptions& options) {
  if (options.model.empty())
    return {StatusCode::kUsage, "a conversation needs --model DIR, for its tokenizer"};
  return check_text(options);
}

Status check(const EndpointOptions& options) {
  if (options.model.empty())
    return {StatusCode::kUsage, "an endpoint needs --model DIR, for its tokenizer"};
  RETURN_IF_ERROR(check(options.serve));
  return check_text(options, "",
                    {{"--tls-cert", options.serve.tls_cert},
                     {"--tls-key", options.serve.tls_key},
                     {"--api-keys", options.serve.api_keys}});
}

}  // namespace airlock
