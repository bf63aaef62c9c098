#include "tee_runner/serve/answer.h"

#include <algorithm>
#include <ctime>
#include <iterator>
#include <utility>

namespace airlock {

Answer::Answer(CompletionRequest request, std::uint64_t id)
    : request_(std::move(request)),
      json_(request_, id, static_cast<std::int64_t>(std::time(nullptr))) {
  // What was asked is not needed any more, and an answer may take long.
  request_.messages = {};
  request_.prompt = {};
  request_.prompt_ids = {};
}

Result<Answer> Answer::create(std::shared_ptr<const ServedModel> model, CompletionRequest request,
                              std::uint64_t id) {
  Answer answer(std::move(request), id);
  for (std::size_t i = 0; i < answer.request_.choices; ++i) {
    ASSIGN_OR_RETURN(ChoiceText text, ChoiceText::create(model, answer.request_));
    answer.choices_.emplace_back(std::move(text));
  }
  return answer;
}

void Answer::take(const Mailbox::Letter& letter) {
  if (letter.choice >= choices_.size()) return;
  if (letter.token) take_token(letter.choice, *letter.token);
  if (letter.finish) take_finish(letter.choice, *letter.finish);
}

void Answer::take_token(std::size_t index, const GeneratedToken& token) {
  Choice& choice = choices_[index];
  if (choice.ended || failure_) return;
  auto piece = choice.text.push(token);
  if (!piece.ok()) return fail(api_error(piece.status()));
  ++usage_.completion_tokens;
  give(index, std::move(*piece));
  const bool is_full = !request_.stream && choice.whole_bytes > kMaxWholeBytes / choices_.size();
  if (!choice.text.stopped() && !is_full) return;
  end(index, is_full ? "length" : "stop");
  ended_.push_back(index);
}

void Answer::take_finish(std::size_t index, const Finish& finish) {
  ++finished_;
  usage_.prompt_tokens = std::max(usage_.prompt_tokens, finish.prompt_tokens);
  usage_.cached_tokens = std::max(usage_.cached_tokens, finish.cached_tokens);
  if (finish.ttft_ns > 0 && (ttft_ns_ == 0 || finish.ttft_ns < ttft_ns_)) ttft_ns_ = finish.ttft_ns;
  Choice& choice = choices_[index];
  if (choice.ended || failure_) return;
  if (finish.reason == FinishReason::kFailed) {
    // Of an answer that was taken: there is no queue to wait in.
    const bool lacks = finish.status.code() == StatusCode::kResourceExhausted;
    return fail(api_error(lacks ? Status(StatusCode::kUnavailable, "") : finish.status));
  }
  if (finish.reason == FinishReason::kCancelled)
    return fail(api_error(Status(StatusCode::kCancelled, "")));
  give(index, choice.text.finish());
  end(index, finish.reason == FinishReason::kLength && !choice.text.stopped() ? "length" : "stop");
}

void Answer::give(std::size_t index, TextPiece piece) {
  Choice& choice = choices_[index];
  if (request_.stream) {
    if (!std::exchange(choice.begun, true)) event(json_.first_chunk(index));
    if (!piece.empty()) event(json_.chunk(index, piece));
    return;
  }
  // As JSON, about.
  choice.whole_bytes += piece.text.size();
  for (const ShownToken& token : piece.tokens) choice.whole_bytes += 128 * (1 + token.top.size());
  choice.whole.text.text += piece.text;
  std::move(piece.tokens.begin(), piece.tokens.end(), std::back_inserter(choice.whole.text.tokens));
}

void Answer::end(std::size_t index, std::string_view finish_reason) {
  choices_[index].ended = true;
  choices_[index].whole.finish_reason = finish_reason;
  if (request_.stream) event(json_.last_chunk(index, finish_reason));
}

void Answer::fail(ApiError error) {
  if (failure_) return;
  failure_ = std::move(error);
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    if (!choices_[i].ended) ended_.push_back(i);
  }
}

std::vector<std::size_t> Answer::take_ended() { return std::exchange(ended_, {}); }

void Answer::event(const std::string& json) {
  if (!json.empty()) events_ += "data: " + json + "\n\n";
}

std::string Answer::take_events() {
  if (failure_ && !told_end_) {
    event(error_json(*failure_));
    told_end_ = true;
  }
  if (done() && !told_end_) {
    if (request_.include_usage) event(json_.usage_chunk(usage_));
    event("[DONE]");
    told_end_ = true;
  }
  return std::exchange(events_, {});
}

std::string Answer::whole() const {
  std::vector<FinishedChoice> choices;
  for (const Choice& choice : choices_) choices.push_back(choice.whole);
  return json_.whole(choices, usage_);
}

}  // namespace airlock
