#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tee_runner/serve/answer_json.h"
#include "tee_runner/serve/api_error.h"
#include "tee_runner/serve/choice_text.h"
#include "tee_runner/serve/mailbox.h"

namespace airlock {

/// The response to one request while it is made: from what the engine says of each choice to the
/// events of a stream, or to one JSON. Knows no HTTP. One thread.
class Answer {
 public:
  /// Of a response that is not a stream; a choice that would take more ends as by "length".
  static constexpr std::size_t kMaxWholeBytes = std::size_t{32} << 20;

  /// kInvalidInput for stop strings that are too long or too many.
  static Result<Answer> create(std::shared_ptr<const ServedModel> model, CompletionRequest request,
                               std::uint64_t id);

  const CompletionRequest& request() const { return request_; }
  void take(const Mailbox::Letter& letter);
  /// Choices that have ended here and not in the engine, each told once: to be cancelled.
  std::vector<std::size_t> take_ended();
  /// The engine has told the end of each choice.
  bool done() const { return finished_ == choices_.size(); }
  /// There will be no answer, or none to its end.
  const std::optional<ApiError>& failure() const { return failure_; }
  void fail(ApiError error);

  /// Of a stream: the events since the last call. Once done() the last ones are among them.
  std::string take_events();
  /// Of all others, once done().
  std::string whole() const;

  const Usage& usage() const { return usage_; }
  /// Of the choice whose first token came first; 0: none.
  std::uint64_t ttft_ns() const { return ttft_ns_; }

 private:
  struct Choice {
    explicit Choice(ChoiceText of) : text(std::move(of)) {}
    ChoiceText text;
    bool begun = false;
    // Here: its finish reason is known.
    bool ended = false;
    FinishedChoice whole;
    std::size_t whole_bytes = 0;
  };
  Answer(CompletionRequest request, std::uint64_t id);
  void take_token(std::size_t index, const GeneratedToken& token);
  void take_finish(std::size_t index, const Finish& finish);
  void give(std::size_t index, TextPiece piece);
  void end(std::size_t index, std::string_view finish_reason);
  void event(const std::string& json);

  CompletionRequest request_;
  AnswerJson json_;
  std::vector<Choice> choices_;
  std::vector<std::size_t> ended_;
  std::size_t finished_ = 0;
  std::optional<ApiError> failure_;
  std::string events_;
  bool told_end_ = false;
  Usage usage_;
  std::uint64_t ttft_ns_ = 0;
};

}  // namespace airlock
