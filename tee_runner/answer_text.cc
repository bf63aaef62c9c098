#include "tee_runner/answer_text.h"

#include <utility>

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
  if (!text.ok()) return false;
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
  }
  ended_.notify_all();
}

std::optional<Finish> AnswerText::await_end(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  ended_.wait_for(lock, patience, [this] { return finish_.has_value(); });
  return finish_;
}

}  // namespace airlock
