#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "runtime/model/forward_plan.h"
#include "runtime/replay/settings.h"
#include "runtime/rpc/client.h"
#include "runtime/text/output_form.h"
#include "tee_runner/chat/chat_template.h"
#include "tee_runner/generate/sampling_settings.h"
#include "tee_runner/privacy/privacy_options.h"
#include "tee_runner/serve/serve_options.h"

namespace airlock {

/// The command line of tee_runner, checked. docs/INTERFACE.md says what each option means.

/// What both subcommands have: how they reach a server, and where their results go.
struct RunnerOptions : ConnectOptions {
  std::chrono::milliseconds op_timeout{300000};
  // Files: the public key of a tcp server, and this side's own. Read into `security`.
  std::string server_key;
  std::string key;
  std::string stats_json;
  OutputForm output = OutputForm::kMarkdown;
};

enum class BackendChoice : std::uint8_t { kRemote, kLocal };

constexpr std::string_view name_of(BackendChoice backend) {
  switch (backend) {
    case BackendChoice::kRemote:
      return "remote";
    case BackendChoice::kLocal:
      return "local";
  }
  return {};
}

/// What the commands that run a model have.
struct ModelOptions : RunnerOptions {
  std::string model;      // a directory; or empty and
  std::string synthetic;  // a config.json; both empty: the server's model by init
  std::uint64_t weights_seed = 0;
  BackendChoice backend = BackendChoice::kRemote;
  std::optional<DType> wire;   // nullopt: the model's stored type
  std::optional<DType> dtype;  // nullopt: auto
  std::size_t threads = 1;
  std::int64_t tile = kAutoTile;  // as ForwardShape::tile
  PrivacyOptions private_mode;
  std::string dealer_key;  // a file: the public key of a dealer over tcp. Read into
  std::shared_ptr<const StreamSecurity> dealer_security;
  std::string model_digest;  // that the model must have, hex; empty: any
};

/// `tee_runner prefill`.
struct PrefillOptions : ModelOptions {
  std::optional<std::string> tokens;  // as given; exactly one of the three is set
  std::optional<std::string> tokens_file;
  std::optional<std::int64_t> random_tokens;
  std::uint64_t seed = 0;
  std::optional<Attention> attention_asked;
  Attention attention = Attention::kOffload;  // of a private mode and of --wire int8 kTee
  std::int64_t chunk = 0;                     // tokens of a pass; 0: the whole prompt
  std::size_t repeat = 1;
  std::string logits_out;
  bool all_logits = false;
  bool compare_local = false;
  std::string record;          // a trace file; empty: nothing is recorded
  bool record_digest = false;  // both need `record`
  bool record_payload = false;
};

/// Where --record-payload puts the tensors: beside the trace itself, so where --record names a
/// link, beside what that leads to.
std::string new_payload_path(const PrefillOptions& options);

/// `tee_runner replay`.
struct ReplayOptions : RunnerOptions, ReplaySettings {};

/// `tee_runner tokenize`.
struct TokenizeOptions {
  std::string model;  // a directory
  bool no_bos = false;
  bool no_special = false;
  bool decode = false;
  bool jsonl = false;
};

enum class AnswerForm : std::uint8_t { kText, kJson };

constexpr std::string_view name_of(AnswerForm form) {
  switch (form) {
    case AnswerForm::kText:
      return "text";
    case AnswerForm::kJson:
      return "json";
  }
  return {};
}

/// What the commands that write text have.
struct TextOptions : ModelOptions {
  std::int64_t max_tokens = 256;
  SamplingSettings sampling;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  std::optional<ChatFamily> chat_template;  // nullopt: recognised
  Attention attention = Attention::kTee;    // nothing else
  std::int64_t context = 0;                 // 0: the model's
  std::uint64_t cache_bytes = std::uint64_t{1} << 30;
  DType cache_type = DType::kF32;
};

/// `tee_runner generate`.
struct GenerateOptions : TextOptions {
  // Exactly one of the five is set.
  std::optional<std::string> prompt;
  std::optional<std::string> prompt_file;
  std::optional<std::string> messages;
  std::optional<std::string> tokens;
  std::optional<std::string> tokens_file;
  bool chat = false;           // the prompt is a user's message
  std::string record;          // a trace file; empty: nothing is recorded
  bool record_digest = false;  // needs `record`
  AnswerForm form = AnswerForm::kText;
};

/// `tee_runner chat`.
struct TalkOptions : TextOptions {
  std::optional<std::string> system;
};

/// `tee_runner serve`.
struct EndpointOptions : TextOptions {
  ServeOptions serve;
  std::size_t max_sequences = 16;
  std::size_t max_queue = 64;
  double await_server_seconds = 300;
};

using Command = std::variant<PrefillOptions, ReplayOptions, TokenizeOptions, GenerateOptions,
                             TalkOptions, EndpointOptions>;
/// nullopt: --help or --version was asked for and printed. kUsage says what to do.
Result<std::optional<Command>> parse_options(int argc, const char* const* argv);

class CommandOption;
class CommandOptions;

/// Parts of several commands: how to reach a server; the model; how it is computed; a trace of it.
void declare_connection(const CommandOptions& command, RunnerOptions& options);
void declare_weights(const CommandOptions& command, ModelOptions& options);
void declare_computing(const CommandOptions& command, ModelOptions& options);
/// private_options.cc.
void declare_privacy(const CommandOptions& command, ModelOptions& options);
/// kUsage: options that do not go together. What the mode implies is filled in.
Status settle_privacy(ModelOptions& options);
/// kUsage: worker and dealer are one server: one socket by whatever name, or one port of this
/// machine. A socket that is not there yet is not looked at.
Status check_two_servers(const std::string& worker, const std::string& dealer);
CommandOption declare_record(const CommandOptions& command, std::string& path, bool& digest);
/// text_options.cc.
void declare(const CommandOptions& command, GenerateOptions& options);
void declare(const CommandOptions& command, TalkOptions& options);
void declare(const CommandOptions& command, EndpointOptions& options);
/// kUsage: options that do not go together.
Status check(const GenerateOptions& options);
Status check(const TalkOptions& options);
Status check(const EndpointOptions& options);

/// The text of a file, or of a pipe, of at most `most` bytes. kInvalidInput, naming it.
Result<std::string> read_text(const std::string& path, std::size_t most);

/// Token ids, separated by commas or white space. kInvalidInput for a number that is no token id of
/// any vocabulary; kUsage, naming `source`, for what is no number.
Result<std::vector<std::int32_t>> parse_tokens(std::string_view text, std::string_view source);
/// `count` ids below `vocab`: a function of the arguments only.
std::vector<std::int32_t> random_tokens(std::int64_t count, std::uint64_t seed, std::int64_t vocab);

/// The prompt that the options ask for, read once: what a pipe gives is gone then.
class PromptSource {
 public:
  /// kInvalidInput, naming it, for a file that cannot be read or parsed.
  static Result<PromptSource> read(const PrefillOptions& options);
  /// Its token ids, checked against the vocabulary, from which random ones are taken.
  Result<std::vector<std::int32_t>> tokens(std::int64_t vocab) const;
  bool is_random() const { return random_count_ > 0; }

 private:
  std::vector<std::int32_t> ids_;
  std::int64_t random_count_ = 0;
  std::uint64_t seed_ = 0;
};

}  // namespace airlock
