#include "tee_runner/options.h"

#include <array>
#include <cerrno>
#include <charconv>
#include <concepts>
#include <fstream>
#include <limits>
#include <utility>

#include "base/file.h"
#include "base/mix.h"
#include "base/output_file.h"
#include "base/safe_text.h"
#include "proto/limits.h"
#include "runtime/model/model_files.h"
#include "runtime/program/command_line.h"
#include "runtime/program/connection_options.h"
#include "runtime/replay/material.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/secure/tls.h"
#include "runtime/trace/trace_reader.h"
#include "tee_runner/llama/driver.h"
#include "tee_runner/tile_choice.h"

namespace airlock {

void declare_connection(const CommandOptions& command, RunnerOptions& options) {
  constexpr std::int64_t kMostMs = 24LL * 3600 * 1000;
  declare_endpoint(command, options.endpoint);
  declare_keys(command, options.key, options.server_key);
  command.number("--timeout-ms", options.timeout, std::int64_t{1}, kMostMs,
                 "longest time without a connection or a sign of life (5000)");
  command.number("--op-timeout-ms", options.op_timeout, std::int64_t{1}, kMostMs,
                 "longest time of one op (300000)");
  declare_ring(command, options.ring, RingSide::kRunner);
  declare_pool(command, options.pool);
  declare_inline_bytes(command, options.inline_bytes);
  declare_data_sockets(command, options.data_sockets);
  command.file("--stats-json", options.stats_json,
               "write the statistics (of all sessions) to this file, after a failure too");
}

void declare_weights(const CommandOptions& command, ModelOptions& options) {
  const CommandOption model = command.text(
      "--model", options.model,
      "Hugging Face LLaMA directory; without a model the server's is used, by its word");
  const CommandOption synthetic =
      command.text("--synthetic", options.synthetic, "random weights of this config.json's shape")
          .excludes(model);
  (void)command
      .number("--weights-seed", options.weights_seed, std::uint64_t{0}, UINT64_MAX,
              "seed of --synthetic weights")
      .needs(synthetic);
}

void declare_computing(const CommandOptions& command, ModelOptions& options) {
  static constexpr std::array kTypes = {DType::kF32, DType::kF16, DType::kBF16};
  command.choice("--backend", options.backend,
                 "remote: a gpu_server computes; local: this process alone");
  static constexpr std::array kWireTypes = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8};
  command.choice<DType>(
      "--wire", options.wire,
      "type of the tensors that cross: auto (as stored), fp32, fp16, bf16; int8: "
      "a byte a number and a scale for each 32, 0.53 of bf16's bytes, and rounded more "
      "coarsely (docs/interface/tee_runner.md)",
      kWireTypes);
  command.choice<DType>(
      "--dtype", options.dtype,
      "what weights are rounded to with --backend local: auto (as stored), fp32, fp16, bf16",
      kTypes);
  declare_threads(command, options.threads);
  declare_tile(command, options.tile);
  declare_privacy(command, options);
}

CommandOption declare_record(const CommandOptions& command, std::string& path, bool& digest) {
  const CommandOption record = command.file(
      "--record", path,
      "write a trace of every op to this file: shapes, paths, bytes, times, no contents (mode "
      "0600, docs/TRACE_FORMAT.md)");
  (void)command
      .flag("--record-digest", digest,
            "also the SHA-256 of every tensor; slows the run, and reveals what a TEE hides: a "
            "digest of token ids can be searched for")
      .needs(record);
  return record;
}

namespace {

void declare_shared(const CommandOptions& command, RunnerOptions& options) {
  declare_connection(command, options);
  command.choice("-o,--output", options.output, "form of the result on stdout: md, json, csv");
}

void declare_model(const CommandOptions& command, PrefillOptions& options) {
  declare_weights(command, options);
  const CommandOption tokens =
      command.text("--tokens", options.tokens, "the prompt's token ids: 1,2,3");
  const CommandOption file = command
                                 .text("--tokens-file", options.tokens_file,
                                       "a file of token ids, separated by commas or white space")
                                 .excludes(tokens);
  const CommandOption random =
      command
          .number("--random-tokens", options.random_tokens, std::int64_t{1}, limits::kMaxTokens,
                  "so many random token ids")
          .excludes(tokens)
          .excludes(file);
  (void)command
      .number("--seed", options.seed, std::uint64_t{0}, UINT64_MAX, "seed of --random-tokens")
      .needs(random);
}

void declare_computation(const CommandOptions& command, PrefillOptions& options) {
  declare_computing(command, options);
  command.choice("--attention", options.attention_asked,
                 "offload: QK^T and PV on the server; tee: all of it here; auto: offload, and tee "
                 "in a private mode and with --wire int8");
  command.number(
      "--chunk", options.chunk, std::int64_t{1}, limits::kMaxTokens,
      "feed the prompt in pieces of so many tokens; the whole prompt at once without it");
  command.number("--repeat", options.repeat, std::size_t{1}, std::size_t{1000000},
                 "prefills; the median counts");
  command.flag("--compare-local", options.compare_local,
               "also compute in this process, print the overhead, exit 4 where the logits differ");
}

void declare_output(const CommandOptions& command, PrefillOptions& options) {
  command.file("--logits-out", options.logits_out,
               "write the logits to this .npy file (float32, mode 0600)");
  command.flag("--all-logits", options.all_logits, "logits of every token, not of the last alone");
  const CommandOption record = declare_record(command, options.record, options.record_digest);
  (void)command
      .flag("--record-payload", options.record_payload,
            "also every tensor, in FILE.safetensors, with digests; slows the run, and reveals what "
            "a TEE hides: the prompt and every activation")
      .needs(record);
}

void declare_replay(const CommandOptions& command, ReplayOptions& options) {
  (void)command.text("FILE", options.file, "a trace: of prefill --record, or of airlock_trace")
      .required();
  command.choice("--speed", options.speed,
                 "max: as fast as it goes; recorded: no op before its recorded start");
  command.number("--repeat", options.repeat, std::size_t{1}, std::size_t{1000000},
                 "replays of the trace, one after the other");
  command.number("--clients", options.clients, std::size_t{1}, limits::kMaxClients,
                 "sessions at once; each replays the whole trace");
  command.number("--inflight", options.inflight, std::size_t{1}, limits::kMaxRequestsUnderWay,
                 "ops under way at once in each session; what depended on what is not kept");
  command.choice("--verify", options.verify,
                 "compare outputs with the trace's payload: digest (the same bytes), tolerance; "
                 "exit 4 where one differs");
  command.number("--seed", options.seed, std::uint64_t{0}, UINT64_MAX,
                 "seed of the inputs, where the trace has no payload");
}

void declare_tokenize(const CommandOptions& command, TokenizeOptions& options) {
  (void)command
      .text("--model", options.model,
            "directory with tokenizer.json, as Hugging Face has it; nothing else is needed there")
      .required();
  command.flag("--no-bos", options.no_bos, "no begin token, even where the tokenizer has one");
  command.flag("--no-special", options.no_special,
               "text that spells a special token is plain text; with --decode: special tokens are "
               "left out");
  command.flag("--decode", options.decode, "from ids, 1,2,3, to text");
  command.flag("--jsonl", options.jsonl,
               "each line of stdin is a JSON string, each of stdout its ids as an array; with "
               "--decode the reverse");
}

/// Of what is read, and of one another: an output replaces what lies there.
Status check_outputs(const PrefillOptions& options) {
  const std::string payload = options.record_payload ? new_payload_path(options) : "";
  const NamedFile outputs[] = {{"--stats-json", options.stats_json},
                               {"--logits-out", options.logits_out},
                               {"--record", options.record},
                               {"--record-payload", payload}};
  std::vector<NamedFile> inputs = {{"--tokens-file", options.tokens_file.value_or("")},
                                   {"--synthetic", options.synthetic}};
  for (std::string& path : model_files(options.model))
    inputs.push_back({"--model", std::move(path)});
  return check_apart(outputs, inputs);
}

/// Where none was asked for it goes by the mode.
Status settle_attention(PrefillOptions& options) {
  const bool hides = is_private(options.private_mode.mode);
  const bool is_int8 = options.wire == DType::kI8;
  options.attention =
      options.attention_asked.value_or(hides || is_int8 ? Attention::kTee : Attention::kOffload);
  if (options.attention == Attention::kTee) return {};
  if (is_int8) {
    return {StatusCode::kUsage,
            "--attention offload: queries, keys and scores do not cross as int8: --wire int8 has "
            "it tee"};
  }
  if (!hides) return {};
  return {StatusCode::kUsage,
          "--attention offload shows the server queries, keys and values: --privacy {} has it tee",
          name_of(options.private_mode.mode)};
}

Status check(const PrefillOptions& options) {
  const auto refuse = [](const char* text) { return Status(StatusCode::kUsage, text); };
  const bool has_model = !options.model.empty() || !options.synthetic.empty();
  if (!options.tokens && !options.tokens_file && !options.random_tokens) {
    return refuse("give a prompt: --tokens 1,2,3, --tokens-file FILE or --random-tokens N");
  }
  if (options.backend == BackendChoice::kLocal && !has_model) {
    return refuse("--backend local needs --model DIR or --synthetic CONFIG.json");
  }
  if (options.compare_local && (options.backend == BackendChoice::kLocal || !has_model)) {
    return refuse(
        "--compare-local needs --backend remote and --model DIR or --synthetic CONFIG.json");
  }
  RETURN_IF_ERROR(check_outputs(options));
  if (options.tokens) RETURN_IF_ERROR(parse_tokens(*options.tokens, "--tokens").status());
  return {};
}

/// The statistics are written even after a failure, so they must spare what is replayed.
Status check(const ReplayOptions& options) {
  if (options.stats_json.empty()) return {};
  std::vector<NamedFile> inputs = {{"the trace that is replayed", options.file}};
  // A bad trace is told of later.
  if (const auto reader = TraceReader::open(options.file); reader.ok())
    inputs.push_back({"its payload", payload_path(options.file, reader->header())});
  return check_apart(std::array{NamedFile{"--stats-json", options.stats_json}}, inputs);
}

/// The key of the server at `endpoint`, where `file` was given; `option` is what named that.
Result<KnownPeers> read_peer(std::string_view option, const std::string& file,
                             const std::string& endpoint) {
  if (file.empty()) return KnownPeers();
  ASSIGN_OR_RETURN(const Endpoint reached, parse_endpoint(endpoint));
  if (reached.kind != Endpoint::Kind::kTcp) {
    return Status(StatusCode::kUsage, "{} is of a tcp:// endpoint, and not of {}", option,
                  endpoint);
  }
  ASSIGN_OR_RETURN(PublicKey key, read_public_key(file));
  return KnownPeers{{std::move(key)}, file};
}

/// Keys are read before anything is computed. `dealer`: an endpoint, its key's file, and what
/// encrypts it.
Status open_keys(RunnerOptions& options, const std::string& dealer, const std::string& dealer_key,
                 std::shared_ptr<const StreamSecurity>& dealer_security) {
  ASSIGN_OR_RETURN(KnownPeers worker,
                   read_peer("--server-key", options.server_key, options.endpoint));
  ASSIGN_OR_RETURN(KnownPeers other, read_peer("--dealer-key", dealer_key, dealer));
  const bool is_asked = !worker.keys.empty() || !other.keys.empty();
  if (is_asked != !options.key.empty()) {
    return {StatusCode::kUsage, "{}",
            is_asked ? "--server-key and --dealer-key need --key, this side's own"
                     : "--key is for --server-key or --dealer-key: give that too"};
  }
  if (!is_asked) return {};
  if (worker.keys == other.keys) {
    return {StatusCode::kUsage,
            "--dealer-key is the worker's: one server that has both undoes every pad"};
  }
  ASSIGN_OR_RETURN(const SecretKey own, SecretKey::read(options.key));
  if (!worker.keys.empty()) {
    ASSIGN_OR_RETURN(options.security, make_tls(own, std::move(worker)));
  }
  if (!other.keys.empty()) {
    ASSIGN_OR_RETURN(dealer_security, make_tls(own, std::move(other)));
  }
  return {};
}
Status open_keys(RunnerOptions& options) {
  std::shared_ptr<const StreamSecurity> none;
  return open_keys(options, {}, {}, none);
}
Status open_keys(ModelOptions& options) {
  return open_keys(options, options.private_mode.dealer_endpoint, options.dealer_key,
                   options.dealer_security);
}

Result<std::optional<Command>> checked(auto& options) {
  if constexpr (std::derived_from<std::remove_cvref_t<decltype(options)>, ModelOptions>)
    RETURN_IF_ERROR(settle_privacy(options));
  if (options.endpoint.empty()) options.endpoint = default_endpoint().text();
  RETURN_IF_ERROR(check(options));
  RETURN_IF_ERROR(open_keys(options));
  return std::optional<Command>(std::move(options));
}

/// Bytes of a prompt file: kMaxTokens ids of up to 15 characters each.
constexpr std::size_t kMaxPromptBytes = static_cast<std::size_t>(limits::kMaxTokens) * 16;

}  // namespace

std::string new_payload_path(const PrefillOptions& options) {
  // A name whose links cannot be followed is refused with the trace.
  const auto target = follow_links(options.record);
  return (target.ok() ? *target : options.record) + ".safetensors";
}

Result<std::optional<Command>> parse_options(int argc, const char* const* argv) {
  CommandLine line(
      "tee_runner",
      "The trusted side of Airlock: runs LLaMA and asks a gpu_server for the large products.\n"
      "By default the server sees token ids and every activation; --privacy otp-verify hides them\n"
      "and checks what it answers (docs/PRIVACY.md).",
      protocol_suffix());
  line.require_subcommand();
  PrefillOptions prefill;
  const CommandOptions prefill_command =
      line.options().subcommand("prefill", "compute a prompt's logits");
  declare_model(prefill_command, prefill);
  declare_computation(prefill_command, prefill);
  declare_shared(prefill_command, prefill);
  declare_output(prefill_command, prefill);
  ReplayOptions replay;
  const CommandOptions replay_command = line.options().subcommand(
      "replay",
      "play a trace against a gpu_server, which may run with --synthetic: the same ops, shapes and "
      "types, the inputs from the trace's payload or by a seed; prints recorded times beside "
      "replayed ones");
  declare_replay(replay_command, replay);
  declare_shared(replay_command, replay);
  TokenizeOptions tokenize;
  const CommandOptions tokenize_command = line.options().subcommand(
      "tokenize", "text on stdin to token ids on stdout, or back; needs no server");
  declare_tokenize(tokenize_command, tokenize);
  GenerateOptions generate;
  const CommandOptions generate_command =
      line.options().subcommand("generate", "a prompt's answer, word by word on stdout");
  declare(generate_command, generate);
  TalkOptions talk;
  const CommandOptions chat_command =
      line.options().subcommand("chat", "a conversation on the terminal");
  declare(chat_command, talk);
  EndpointOptions endpoint;
  const CommandOptions serve_command = line.options().subcommand(
      "serve", "an endpoint for OpenAI's clients: conversations and texts over HTTP");
  declare(serve_command, endpoint);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  if (!asked) return std::optional<Command>();
  if (tokenize_command.chosen()) return std::optional<Command>(std::move(tokenize));
  if (generate_command.chosen()) return checked(generate);
  if (chat_command.chosen()) return checked(talk);
  if (serve_command.chosen()) return checked(endpoint);
  if (replay_command.chosen()) return checked(replay);
  RETURN_IF_ERROR(settle_attention(prefill));
  return checked(prefill);
}

Result<std::string> read_text(const std::string& path, std::size_t most) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    return Status(StatusCode::kInvalidInput, "cannot read {}: {}", path, os_message(errno));
  std::string text(most + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return Status(StatusCode::kInvalidInput, "cannot read {}", path);
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > most) {
    return Status(StatusCode::kInvalidInput, "{} is longer than {} bytes: no prompt is", path,
                  most);
  }
  return text;
}

Result<std::vector<std::int32_t>> parse_tokens(std::string_view text, std::string_view source) {
  constexpr std::string_view kSeparators = ", \t\r\n";
  std::vector<std::int32_t> tokens;
  for (std::size_t at = text.find_first_not_of(kSeparators); at != std::string_view::npos;) {
    const std::string_view word = text.substr(at, text.find_first_of(kSeparators, at) - at);
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (end != word.data() + word.size() || error == std::errc::invalid_argument) {
      return Status(StatusCode::kUsage,
                    "{}: '{}' at position {} is not a token id; ids are numbers, separated by "
                    "commas or white space",
                    source, without_controls(word.substr(0, 40), "?"), tokens.size());
    }
    if (error == std::errc::result_out_of_range || value < 0 ||
        value > std::numeric_limits<std::int32_t>::max()) {
      return Status(StatusCode::kInvalidInput, "{}: token id {} at position {} is in no vocabulary",
                    source, without_controls(word.substr(0, 40), "?"), tokens.size());
    }
    tokens.push_back(static_cast<std::int32_t>(value));
    at = text.find_first_not_of(kSeparators, at + word.size());
  }
  return tokens;
}

std::vector<std::int32_t> random_tokens(std::int64_t count, std::uint64_t seed,
                                        std::int64_t vocab) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  std::uint64_t state = seed;
  for (std::int32_t& token : tokens) {
    state += 0x9e3779b97f4a7c15U;
    token = static_cast<std::int32_t>(mix(state) % static_cast<std::uint64_t>(vocab));
  }
  return tokens;
}

Result<PromptSource> PromptSource::read(const PrefillOptions& options) {
  PromptSource prompt;
  if (options.random_tokens) {
    prompt.random_count_ = *options.random_tokens;
    prompt.seed_ = options.seed;
  } else if (options.tokens) {
    ASSIGN_OR_RETURN(prompt.ids_, parse_tokens(*options.tokens, "--tokens"));
  } else {
    ASSIGN_OR_RETURN(const std::string text, read_text(*options.tokens_file, kMaxPromptBytes));
    auto parsed = parse_tokens(text, *options.tokens_file);
    if (!parsed.ok()) return Status(StatusCode::kInvalidInput, parsed.status().message());
    prompt.ids_ = std::move(*parsed);
  }
  return prompt;
}

Result<std::vector<std::int32_t>> PromptSource::tokens(std::int64_t vocab) const {
  std::vector<std::int32_t> tokens =
      is_random() ? random_tokens(random_count_, seed_, vocab) : ids_;
  RETURN_IF_ERROR(check_tokens(tokens, vocab));
  return tokens;
}

}  // namespace airlock
