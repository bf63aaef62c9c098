#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tee_runner/chat/chat_template.h"
#include "tee_runner/generate/prompt.h"
#include "tee_runner/serve/api_error.h"
#include "tee_runner/serve/completion_request.h"
#include "tee_runner/tokenizer/tokenizer.h"

namespace airlock {

/// The model that is served, as its clients see it: a name, texts to ids and back, conversations to
/// prompts. Thread-safe: it does not change.
class ServedModel {
 public:
  /// `chat`: nullopt where the model has no template that is known; /v1/chat/completions is refused
  /// then. kInvalidInput where the tokenizer lacks a token of the template.
  static Result<std::shared_ptr<const ServedModel>> create(
      std::string name, std::shared_ptr<const Tokenizer> tokenizer,
      std::optional<ChatTemplate> chat);

  const std::string& name() const { return name_; }
  /// Seconds since 1970: when this was made, for the API's "created".
  std::int64_t created_s() const { return created_s_; }
  const std::shared_ptr<const Tokenizer>& tokenizer() const { return prompts_->tokenizer(); }

  /// The prompt of a request. What a client wrote is text, whatever it spells: control tokens come
  /// of the template alone. nullopt: `error` says why.
  std::optional<Prompt> prepare(const CompletionRequest& request, ApiError& error) const;

  /// One token as it reads behind another one; U+FFFD for a part of a character.
  std::string token_text(std::int32_t id) const;

 private:
  ServedModel(std::string name, std::shared_ptr<const PromptMaker> prompts);
  std::optional<Prompt> prepare_chat(const CompletionRequest& request, ApiError& error) const;
  std::optional<Prompt> prepare_text(const CompletionRequest& request, ApiError& error) const;

  std::string name_;
  std::int64_t created_s_;
  std::shared_ptr<const PromptMaker> prompts_;
  // A token, and its text, behind which others are looked at.
  std::vector<std::int32_t> before_;
  std::string before_text_;
};

/// The model in `folder` (as --model names it): its tokenizer, and the chat template that was
/// named, else the one that its files have. One whose template is none that is known is served
/// without. `name`: empty for the folder's own. kInvalidInput as Tokenizer::open() and
/// ServedModel::create().
Result<std::shared_ptr<const ServedModel>> open_served_model(const std::string& folder,
                                                             std::string name,
                                                             std::optional<ChatFamily> named);

}  // namespace airlock
