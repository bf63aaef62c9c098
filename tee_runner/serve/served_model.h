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
  /// Where `prompts` knows no conversations, /v1/chat/completions is refused. kInvalidInput where
  /// the tokenizer cannot take one letter.
  static Result<std::shared_ptr<const ServedModel>> create(
      std::string name, std::shared_ptr<const PromptMaker> prompts);

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

/// Of PromptMaker::open(); `name`: empty for the folder's own. Errors as there, and create()'s.
Result<std::shared_ptr<const ServedModel>> open_served_model(const std::string& folder,
                                                             std::string name,
                                                             std::optional<ChatFamily> named);

}  // namespace airlock
