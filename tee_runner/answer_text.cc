#include "tee_runner/answer_text.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/safe_text.h"

namespace airlock {

Result<std::shared_ptr<AnswerText>> AnswerText::create(std::shared_ptr<const Tokenizer> tokenizer,
                                                       const std::vector<std::string>& stops,
                                                       Show show) {
  ASSIGN_OR_RETURN(StopScanner scanner, StopScanner::create(stops));
  std::shared_ptr<AnswerText> made(new AnswerText(std::move(scanner), std::move(show)));
  made->tokenizer_ = tokenizer;
  if (tokenizer != nullptr) made->decoder_.emplace(std::move(tokenizer), Shown::kNoSpecial);
  return made;
}

bool AnswerText::give(std::string piece) {
  if (piece.empty()) return true;
  text_ += piece;
  return show_(piece);
}

bool AnswerText::on_token(const GeneratedToken& token) {
  ids_.push_back(token.id);
  if (!decoder_) return show_({});
  // A model may have more ids than its tokenizer: they have no text.
  if (!tokenizer_->has(token.id)) return show_({});
  const auto text = decoder_->push(token.id);
  if (!text.ok()) {
    fault_ = text.status();
    return false;
  }
  return give(scanner_.feed(*text)) && !scanner_.stopped();
}

void AnswerText::on_finish(const Finish& finish) {
  if (finish.stop_id) ids_.push_back(*finish.stop_id);
  if (decoder_) {
    std::string last = scanner_.feed(decoder_->flush());
    last += scanner_.finish();
    (void)give(std::move(last));
  }
  {
    const std::lock_guard lock(mutex_);
    finish_ = finish;
    if (!fault_.ok()) {
      finish_->reason = FinishReason::kFailed;
      finish_->status = fault_;
    }
  }
  ended_.notify_all();
}

std::optional<Finish> AnswerText::await_end(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  ended_.wait_for(lock, patience, [this] { return finish_.has_value(); });
  return finish_;
}

std::string shown_text(const std::string& text) {
  static const bool is_terminal = ::isatty(STDOUT_FILENO) == 1;
  if (!is_terminal) return text;
  std::string shown;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find_first_of("\n\t", at), text.size());
    shown += without_controls(std::string_view(text).substr(at, end - at), "?");
    if (end < text.size()) shown += text[end];
    at = end + 1;
  }
  return shown;
}

}  // namespace airlock
