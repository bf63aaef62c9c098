#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tee_runner/chat/chat_template.h"
#include "tee_runner/tokenizer/tokenizer.h"

namespace airlock {

/// A prompt as the model gets it, and what ends its answer.
struct Prompt {
  std::string text;  // as it was rendered
  std::vector<std::int32_t> ids;
  std::vector<std::int32_t> stop_ids;
};

/// A model's words: texts and conversations to prompts. What a user wrote is text, whatever it
/// spells: control tokens come of the template alone. Does not change: thread-safe.
class PromptMaker {
 public:
  /// `chat`: nullopt where the model has no template that is known. kInvalidInput where the
  /// tokenizer lacks a token of the template.
  static Result<std::shared_ptr<const PromptMaker>> create(
      std::shared_ptr<const Tokenizer> tokenizer, std::optional<ChatTemplate> chat);
  /// Of the model in `folder` (as --model names it): its tokenizer, and the chat template that was
  /// named, else the one that its files have. One whose template is none that is known is without,
  /// and the log says so. kInvalidInput as Tokenizer::open() and create(), and where the template
  /// that was named cannot be had.
  static Result<std::shared_ptr<const PromptMaker>> open(const std::string& folder,
                                                         std::optional<ChatFamily> named);

  const std::shared_ptr<const Tokenizer>& tokenizer() const { return tokenizer_; }
  bool knows_conversations() const { return chat_.has_value(); }
  /// kInvalidInput: as Tokenizer::encode().
  Result<Prompt> of_text(std::string_view text) const;
  /// kInvalidInput: what the template refuses, or that there is none.
  Result<Prompt> of_messages(std::span<const ChatMessage> messages) const;
  /// Its two halves. kInvalidInput: what the template refuses; what the tokenizer does.
  Result<std::vector<ChatPiece>> render(std::span<const ChatMessage> messages) const;
  Result<Prompt> of_pieces(std::span<const ChatPiece> pieces) const;
  /// What ends an answer to a text.
  const std::vector<std::int32_t>& text_stops() const { return text_stops_; }

 private:
  PromptMaker(std::shared_ptr<const Tokenizer> tokenizer, std::optional<ChatTemplate> chat)
      : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)) {}

  const std::shared_ptr<const Tokenizer> tokenizer_;
  const std::optional<ChatTemplate> chat_;
  std::vector<std::int32_t> text_stops_;
  std::vector<std::int32_t> chat_stops_;
};

}  // namespace airlock
