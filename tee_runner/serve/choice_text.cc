#include "tee_runner/serve/choice_text.h"

#include <algorithm>
#include <utility>

namespace airlock {
namespace {

std::size_t count_characters(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

ChoiceText::ChoiceText(std::shared_ptr<const ServedModel> model, StopScanner scanner,
                       bool shows_tokens)
    : model_(std::move(model)),
      decoder_(model_->tokenizer(), Shown::kNoSpecial),
      scanner_(std::move(scanner)),
      shows_tokens_(shows_tokens) {}

Result<ChoiceText> ChoiceText::create(std::shared_ptr<const ServedModel> model,
                                      const CompletionRequest& request) {
  ASSIGN_OR_RETURN(StopScanner scanner, StopScanner::create(request.stop));
  return ChoiceText(std::move(model), std::move(scanner),
                    request.sampling.log_probabilities.has_value());
}

Result<TextPiece> ChoiceText::push(const GeneratedToken& token) {
  // A model may have more ids than its tokenizer: they have no text.
  auto text = model_->tokenizer()->has(token.id) ? decoder_.push(token.id) : std::string();
  if (!text.ok()) return Status(StatusCode::kInternal, "the engine gave what is no token");
  const std::size_t begin = decoded_bytes_;
  decoded_bytes_ += text->size();
  if (shows_tokens_) held_.push_back({show(token), begin, decoded_bytes_});
  return release(scanner_.feed(*text), false);
}

TextPiece ChoiceText::finish() {
  const std::string last = decoder_.flush();
  decoded_bytes_ += last.size();
  std::string text = scanner_.feed(last);
  text += scanner_.finish();
  return release(std::move(text), true);
}

TextPiece ChoiceText::release(std::string text, bool all) {
  TextPiece piece;
  const std::size_t before = released_bytes_;
  released_bytes_ += text.size();
  while (!held_.empty()) {
    Held& first = held_.front();
    // Behind a stop string nothing goes out; what it cuts in two does.
    const bool is_out = scanner_.stopped()
                            ? first.begin < released_bytes_ || first.end <= released_bytes_
                            : all || first.end <= released_bytes_;
    if (!is_out) break;
    const std::size_t known = std::min(std::max(first.begin, before) - before, text.size());
    first.token.offset =
        released_characters_ + count_characters(std::string_view(text).substr(0, known));
    piece.tokens.push_back(std::move(first.token));
    held_.pop_front();
  }
  if (scanner_.stopped()) held_.clear();
  released_characters_ += count_characters(text);
  piece.text = std::move(text);
  return piece;
}

ShownToken ChoiceText::show(const GeneratedToken& token) const {
  ShownToken shown;
  shown.chosen = {model_->token_text(token.id), token.log_probability};
  for (const TokenLogProbability& other : token.top)
    shown.top.push_back({model_->token_text(other.token), other.log_probability});
  return shown;
}

}  // namespace airlock
