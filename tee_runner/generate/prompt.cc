#include "tee_runner/generate/prompt.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "tee_runner/chat/recognise.h"

namespace airlock {

Result<std::shared_ptr<const PromptMaker>> PromptMaker::create(
    std::shared_ptr<const Tokenizer> tokenizer, std::optional<ChatTemplate> chat) {
  std::shared_ptr<PromptMaker> made(new PromptMaker(std::move(tokenizer), std::move(chat)));
  made->text_stops_ = made->chat_stops_ = made->tokenizer_->eos_ids();
  if (!made->chat_) return std::shared_ptr<const PromptMaker>(std::move(made));
  const ChatMessage hello{ChatRole::kUser, "a"};
  ASSIGN_OR_RETURN(const auto pieces, made->render({&hello, 1}));
  for (const ChatPiece& piece : pieces) {
    if (!piece.is_control || made->tokenizer_->find(piece.text)) continue;
    return Status(StatusCode::kInvalidInput,
                  "the tokenizer has no token '{}', which the chat template {} needs", piece.text,
                  name_of(made->chat_->family));
  }
  for (const std::string& token : stop_tokens(*made->chat_)) {
    const auto id = made->tokenizer_->find(token);
    if (id && std::ranges::find(made->chat_stops_, *id) == made->chat_stops_.end())
      made->chat_stops_.push_back(*id);
  }
  return std::shared_ptr<const PromptMaker>(std::move(made));
}

Result<std::shared_ptr<const PromptMaker>> PromptMaker::open(const std::string& folder,
                                                             std::optional<ChatFamily> named) {
  ASSIGN_OR_RETURN(std::shared_ptr<const Tokenizer> tokenizer, Tokenizer::open(folder));
  std::optional<ChatTemplate> chat;
  auto loaded = load_chat_template(folder, named);
  if (loaded.ok()) {
    chat = std::move(*loaded);
  } else if (named) {
    return loaded.status();
  } else {
    // A text needs none; who wants a conversation is told.
    log_info("no conversations, texts alone: " + loaded.status().message());
  }
  return create(std::move(tokenizer), std::move(chat));
}

Result<std::vector<ChatPiece>> PromptMaker::render(std::span<const ChatMessage> messages) const {
  if (!chat_) {
    return Status(StatusCode::kInvalidInput,
                  "the model has no chat template that is known here: name one (--chat-template), "
                  "or give a text");
  }
  ChatOptions options;
  // This one asks for the real date; the others bring one of their own.
  if (chat_->family == ChatFamily::kLlama32) options.date = chat_date(std::time(nullptr));
  return render_chat(*chat_, messages, options);
}

Result<Prompt> PromptMaker::of_text(std::string_view text) const {
  ASSIGN_OR_RETURN(auto ids, tokenizer_->encode(text, Specials::kPlain, Around::kTemplate));
  return Prompt{std::string(text), std::move(ids), text_stops_};
}

Result<Prompt> PromptMaker::of_pieces(std::span<const ChatPiece> pieces) const {
  Prompt prompt;
  std::vector<TextSegment> segments;
  for (const ChatPiece& piece : pieces) {
    segments.push_back({piece.text, piece.is_control ? Specials::kParse : Specials::kPlain});
    prompt.text += piece.text;
  }
  ASSIGN_OR_RETURN(prompt.ids, tokenizer_->encode(segments, Around::kNothing));
  prompt.stop_ids = chat_stops_;
  return prompt;
}

Result<Prompt> PromptMaker::of_messages(std::span<const ChatMessage> messages) const {
  ASSIGN_OR_RETURN(const auto pieces, render(messages));
  return of_pieces(pieces);
}

}  // namespace airlock
