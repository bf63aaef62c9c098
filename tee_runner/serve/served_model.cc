#include "tee_runner/serve/served_model.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "tee_runner/chat/recognise.h"

namespace airlock {
namespace {

std::int64_t unix_s() { return static_cast<std::int64_t>(std::time(nullptr)); }

ChatOptions options_of(const ChatTemplate& chat) {
  ChatOptions options;
  // This one asks for the real date; the others bring one of their own.
  if (chat.family == ChatFamily::kLlama32) options.date = chat_date(unix_s());
  return options;
}

ApiError failure(const Status& status) {
  ApiError error = api_error(status);
  // A tokenizer's words may show the text that it gives up on.
  if (error.status == 400) error.message = "the tokenizer of this model cannot take this text";
  return error;
}

}  // namespace

ServedModel::ServedModel(std::string name, std::shared_ptr<const Tokenizer> tokenizer,
                         std::optional<ChatTemplate> chat)
    : name_(std::move(name)),
      created_s_(unix_s()),
      tokenizer_(std::move(tokenizer)),
      chat_(std::move(chat)),
      text_stops_(tokenizer_->eos_ids()),
      chat_stops_(text_stops_) {}

Result<std::shared_ptr<const ServedModel>> ServedModel::create(
    std::string name, std::shared_ptr<const Tokenizer> tokenizer,
    std::optional<ChatTemplate> chat) {
  std::shared_ptr<ServedModel> model(
      new ServedModel(std::move(name), std::move(tokenizer), std::move(chat)));
  RETURN_IF_ERROR(model->check_template());
  if (model->chat_) {
    for (const std::string& token : stop_tokens(*model->chat_)) {
      const auto id = model->tokenizer_->find(token);
      if (id && std::ranges::find(model->chat_stops_, *id) == model->chat_stops_.end())
        model->chat_stops_.push_back(*id);
    }
  }
  ASSIGN_OR_RETURN(model->before_,
                   model->tokenizer_->encode("a", Specials::kPlain, Around::kNothing));
  ASSIGN_OR_RETURN(model->before_text_, model->tokenizer_->decode(model->before_));
  return std::shared_ptr<const ServedModel>(std::move(model));
}

Status ServedModel::check_template() const {
  if (!chat_) return {};
  const ChatMessage hello{ChatRole::kUser, "a"};
  ASSIGN_OR_RETURN(const auto pieces, render_chat(*chat_, {&hello, 1}, options_of(*chat_)));
  for (const ChatPiece& piece : pieces) {
    if (!piece.is_control || tokenizer_->find(piece.text)) continue;
    return {StatusCode::kInvalidInput,
            "the tokenizer has no token '{}', which the chat template {} needs", piece.text,
            name_of(chat_->family)};
  }
  return {};
}

std::optional<PreparedPrompt> ServedModel::prepare(const CompletionRequest& request,
                                                   ApiError& error) const {
  if (request.model != name_) {
    error = {.status = 404,
             .message = "there is no such model here; GET /v1/models says which there is",
             .param = "model",
             .code = "model_not_found"};
    return std::nullopt;
  }
  auto prompt = request.kind == CompletionKind::kChat ? prepare_chat(request, error)
                                                      : prepare_text(request, error);
  if (prompt && prompt->ids.empty()) {
    error = {.message = "the prompt is empty", .param = "prompt"};
    return std::nullopt;
  }
  return prompt;
}

std::optional<PreparedPrompt> ServedModel::prepare_chat(const CompletionRequest& request,
                                                        ApiError& error) const {
  if (!chat_) {
    error = {.message = "this model has no chat template that is known here; use /v1/completions",
             .param = "messages"};
    return std::nullopt;
  }
  const auto pieces = render_chat(*chat_, request.messages, options_of(*chat_));
  if (!pieces.ok()) {
    error = {.message = pieces.status().message(), .param = "messages"};
    return std::nullopt;
  }
  std::vector<TextSegment> segments;
  for (const ChatPiece& piece : *pieces)
    segments.push_back({piece.text, piece.is_control ? Specials::kParse : Specials::kPlain});
  auto ids = tokenizer_->encode(segments, Around::kNothing);
  if (!ids.ok()) {
    error = failure(ids.status());
    return std::nullopt;
  }
  return PreparedPrompt{std::move(*ids), chat_stops_};
}

std::optional<PreparedPrompt> ServedModel::prepare_text(const CompletionRequest& request,
                                                        ApiError& error) const {
  for (std::size_t i = 0; i < request.prompt_ids.size(); ++i) {
    if (tokenizer_->has(request.prompt_ids[i])) continue;
    error = {.message = "'prompt[" + std::to_string(i) + "]' is no token of this model",
             .param = "prompt"};
    return std::nullopt;
  }
  if (!request.prompt_ids.empty()) return PreparedPrompt{request.prompt_ids, text_stops_};
  auto ids = tokenizer_->encode(request.prompt, Specials::kPlain, Around::kTemplate);
  if (!ids.ok()) {
    error = failure(ids.status());
    return std::nullopt;
  }
  return PreparedPrompt{std::move(*ids), text_stops_};
}

std::string ServedModel::token_text(std::int32_t id) const {
  std::vector<std::int32_t> ids = before_;
  ids.push_back(id);
  auto text = tokenizer_->decode(ids);
  if (!text.ok()) return {};
  if (text->starts_with(before_text_)) text->erase(0, before_text_.size());
  return std::move(*text);
}

Result<std::shared_ptr<const ServedModel>> open_served_model(const std::string& folder,
                                                             std::string name,
                                                             std::optional<ChatFamily> named) {
  ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::open(folder));
  std::optional<ChatTemplate> chat;
  auto found = load_chat_template(folder, named);
  if (found.ok()) {
    chat = std::move(*found);
  } else if (named) {
    return found.status();
  } else {
    log_warning("no conversations, texts alone: " + found.status().message());
  }
  if (name.empty()) {
    const std::size_t end = folder.find_last_not_of('/') + 1;
    const std::size_t slash = folder.substr(0, end).rfind('/');
    const std::size_t begin = slash == std::string::npos ? 0 : slash + 1;
    name = folder.substr(begin, end - begin);
  }
  return ServedModel::create(std::move(name), std::move(tokenizer), std::move(chat));
}

}  // namespace airlock
