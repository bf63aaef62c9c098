#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <utility>

#include "base/log.h"
#include "proto/limits.h"
#include "runtime/json/writer.h"
#include "runtime/program/program.h"
#include "runtime/stats/report.h"
#include "tee_runner/answer_text.h"
#include "tee_runner/chat/messages.h"
#include "tee_runner/text_commands.h"
#include "tee_runner/text_session.h"

namespace airlock {

namespace {

/// Of a prompt's text, tokens of which there are kMaxTokens at most.
constexpr std::size_t kMaxTextBytes = static_cast<std::size_t>(limits::kMaxTokens) * 16;
constexpr std::chrono::milliseconds kLook{200};

Result<Prompt> ids_prompt(const GenerateOptions& options, const PromptMaker* words) {
  Prompt prompt;
  std::string text = options.tokens.value_or("");
  if (options.tokens_file) {
    ASSIGN_OR_RETURN(text, read_text(*options.tokens_file, kMaxTextBytes));
  }
  ASSIGN_OR_RETURN(prompt.ids, parse_tokens(text, options.tokens ? "--tokens" : "--tokens-file"));
  if (words != nullptr) prompt.stop_ids = words->text_stops();
  return prompt;
}

Result<Prompt> make_prompt(const GenerateOptions& options, const PromptMaker* words) {
  if (options.tokens || options.tokens_file) return ids_prompt(options, words);
  if (options.messages) {
    ASSIGN_OR_RETURN(const std::string json, read_text(*options.messages, kMaxChatJsonBytes));
    ASSIGN_OR_RETURN(const auto messages, parse_chat_messages(json, *options.messages));
    return words->of_messages(messages);
  }
  std::string text = options.prompt.value_or("");
  if (options.prompt_file) {
    ASSIGN_OR_RETURN(text, read_text(*options.prompt_file, kMaxTextBytes));
  }
  if (!options.chat) return words->of_text(text);
  const ChatMessage message{ChatRole::kUser, std::move(text)};
  return words->of_messages({&message, 1});
}

struct Answer {
  std::string text;
  std::vector<std::int32_t> ids;
  Finish finish;
  std::uint64_t wall_ns = 0;
  HistogramSnapshot itl_ns;
};

std::string json_of(const Prompt& prompt, const Answer& answer) {
  const double seconds = static_cast<double>(answer.wall_ns) / 1e9;
  const JsonObject itl{{"p50", answer.itl_ns.percentile(0.5)},
                       {"p90", answer.itl_ns.percentile(0.9)},
                       {"p99", answer.itl_ns.percentile(0.99)},
                       {"max", answer.itl_ns.max}};
  const JsonObject json{
      {"prompt_tokens", prompt.ids.size()},
      {"prompt_text", prompt.text},
      {"prompt_ids", prompt.ids},
      {"ids", answer.ids},
      {"text", answer.text},
      {"finish_reason", name_of(answer.finish.reason)},
      {"cached_tokens", answer.finish.cached_tokens},
      {"ttft_ns", answer.finish.ttft_ns},
      {"itl_ns", itl},
      {"tokens_per_s", seconds > 0 ? static_cast<double>(answer.ids.size()) / seconds : 0.0},
      {"wall_ns", answer.wall_ns}};
  return json.text() + "\n";
}

/// As a recording takes them.
PrefillOptions recording_options(const GenerateOptions& options) {
  PrefillOptions recorded;
  static_cast<ModelOptions&>(recorded) = options;
  recorded.attention = options.attention;
  recorded.record = options.record;
  recorded.record_digest = options.record_digest;
  return recorded;
}

Result<Answer> ask(const GenerateOptions& options, const Prompt& prompt, const PromptMaker* words,
                   StatsReporter& reporter, Recording& recording) {
  ASSIGN_OR_RETURN(const auto session,
                   TextSession::start(options, reporter, {}, &recording, prompt.ids.size()));
  const bool streams = options.form == AnswerForm::kText && words != nullptr;
  Status printed;
  const auto show = [&](const std::string& piece) {
    if (streams && printed.ok() && !piece.empty()) printed = print(shown_text(piece));
    return printed.ok();
  };
  ASSIGN_OR_RETURN(
      const auto text,
      AnswerText::create(words != nullptr ? words->tokenizer() : nullptr, options.stop, show));
  const std::uint64_t start_ns = now_ns();
  RETURN_IF_ERROR(session->engine().submit(request_for(options, prompt), text).status());
  std::optional<Finish> finish;
  while (!finish) finish = text->await_end(kLook);
  Answer answer{text->text(), text->ids(), *finish, now_ns() - start_ns, {}};
  // No op is asked for any more.
  PrefillResult run;
  run.runs_ns = {answer.wall_ns};
  recording.finish(finish->reason == FinishReason::kFailed ? Result<PrefillResult>(finish->status)
                                                           : Result<PrefillResult>(std::move(run)));
  RETURN_IF_ERROR(printed);
  if (finish->reason == FinishReason::kFailed) return finish->status;
  answer.itl_ns = reporter.text().itl_ns.snapshot();
  return answer;
}

}  // namespace

Status run(const GenerateOptions& options, StatsReporter& reporter) {
  keep_words_private();
  std::shared_ptr<const PromptMaker> words;
  const bool is_ids = options.tokens || options.tokens_file;
  if (!options.model.empty()) {
    auto made = PromptMaker::open(options.model, options.chat_template);
    // Token ids do without, and their answer is ids then.
    if (!made.ok() && (!is_ids || !options.stop.empty())) return made.status();
    if (!made.ok()) log_info("ids alone, without words: " + made.status().message());
    if (made.ok()) words = std::move(made).value();
  }
  ASSIGN_OR_RETURN(const Prompt prompt, make_prompt(options, words.get()));
  Recording recording(recording_options(options));
  RETURN_IF_ERROR(recording.check());
  Answer answer;
  answer.finish.reason = FinishReason::kLength;
  if (options.max_tokens > 0) {
    ASSIGN_OR_RETURN(answer, ask(options, prompt, words.get(), reporter, recording));
  }
  Status status;
  if (options.form == AnswerForm::kJson) {
    status = print(json_of(prompt, answer));
  } else if (words == nullptr) {
    status = print(fmt::format("{}\n", fmt::join(answer.ids, ",")));
  }
  return first_failure(std::move(status), recording.status());
}

}  // namespace airlock
