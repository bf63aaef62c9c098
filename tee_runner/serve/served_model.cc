#include "tee_runner/serve/served_model.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace airlock {
namespace {

ApiError failure(const Status& status) {
  ApiError error = api_error(status);
  // A tokenizer's words may show the text that it gives up on.
  if (error.status == 400) error.message = "the tokenizer of this model cannot take this text";
  return error;
}

}  // namespace

ServedModel::ServedModel(std::string name, std::shared_ptr<const PromptMaker> prompts)
    : name_(std::move(name)), created_s_(std::time(nullptr)), prompts_(std::move(prompts)) {}

Result<std::shared_ptr<const ServedModel>> ServedModel::create(
    std::string name, std::shared_ptr<const PromptMaker> prompts) {
  std::shared_ptr<ServedModel> model(new ServedModel(std::move(name), std::move(prompts)));
  ASSIGN_OR_RETURN(model->before_,
                   model->tokenizer()->encode("a", Specials::kPlain, Around::kNothing));
  ASSIGN_OR_RETURN(model->before_text_, model->tokenizer()->decode(model->before_));
  return std::shared_ptr<const ServedModel>(std::move(model));
}

std::optional<Prompt> ServedModel::prepare(const CompletionRequest& request,
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

std::optional<Prompt> ServedModel::prepare_chat(const CompletionRequest& request,
                                                ApiError& error) const {
  if (!prompts_->knows_conversations()) {
    error = {.message = "this model has no chat template that is known here; use /v1/completions",
             .param = "messages"};
    return std::nullopt;
  }
  const auto pieces = prompts_->render(request.messages);
  if (!pieces.ok()) {
    error = {.message = pieces.status().message(), .param = "messages"};
    return std::nullopt;
  }
  auto prompt = prompts_->of_pieces(*pieces);
  if (!prompt.ok()) {
    error = failure(prompt.status());
    return std::nullopt;
  }
  return std::move(*prompt);
}

std::optional<Prompt> ServedModel::prepare_text(const CompletionRequest& request,
                                                ApiError& error) const {
  for (std::size_t i = 0; i < request.prompt_ids.size(); ++i) {
    if (tokenizer()->has(request.prompt_ids[i])) continue;
    error = {.message = "'prompt[" + std::to_string(i) + "]' is no token of this model",
             .param = "prompt"};
    return std::nullopt;
  }
  if (!request.prompt_ids.empty()) return Prompt{{}, request.prompt_ids, prompts_->text_stops()};
  auto prompt = prompts_->of_text(request.prompt);
  if (!prompt.ok()) {
    error = failure(prompt.status());
    return std::nullopt;
  }
  return std::move(*prompt);
}

std::string ServedModel::token_text(std::int32_t id) const {
  std::vector<std::int32_t> ids = before_;
  ids.push_back(id);
  auto text = tokenizer()->decode(ids);
  if (!text.ok()) return {};
  if (text->starts_with(before_text_)) text->erase(0, before_text_.size());
  return std::move(*text);
}

Result<std::shared_ptr<const ServedModel>> open_served_model(const std::string& folder,
                                                             std::string name,
                                                             std::optional<ChatFamily> named) {
  ASSIGN_OR_RETURN(auto prompts, PromptMaker::open(folder, named));
  if (name.empty()) {
    const std::size_t end = folder.find_last_not_of('/') + 1;
    const std::size_t slash = folder.substr(0, end).rfind('/');
    const std::size_t begin = slash == std::string::npos ? 0 : slash + 1;
    name = folder.substr(begin, end - begin);
  }
  return ServedModel::create(std::move(name), std::move(prompts));
}

}  // namespace airlock
