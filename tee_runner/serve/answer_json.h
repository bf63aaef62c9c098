#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tee_runner/serve/choice_text.h"
#include "tee_runner/serve/completion_request.h"

namespace airlock {

/// What was counted of an answer, all choices together.
struct Usage {
  std::size_t prompt_tokens = 0;
  std::size_t cached_tokens = 0;
  std::size_t completion_tokens = 0;
};

/// One answer of a whole response.
struct FinishedChoice {
  TextPiece text;
  // "stop" or "length".
  std::string_view finish_reason;
};

/// Writes responses in OpenAI's form, whole ones and the chunks of a stream. One thread.
class AnswerJson {
 public:
  /// `id`: what is random of the response's id.
  AnswerJson(const CompletionRequest& request, std::uint64_t id, std::int64_t created_s);

  std::string whole(const std::vector<FinishedChoice>& choices, const Usage& usage) const;

  /// The first chunk of a choice of a conversation: who speaks. Empty for a text.
  std::string first_chunk(std::size_t index) const;
  std::string chunk(std::size_t index, const TextPiece& piece) const;
  std::string last_chunk(std::size_t index, std::string_view finish_reason) const;
  std::string usage_chunk(const Usage& usage) const;

 private:
  std::string chunk_of(const std::string& choice_json) const;
  std::string head(std::string_view object) const;

  bool is_chat_;
  bool shows_tokens_;
  bool includes_usage_;
  std::string id_;
  std::string model_;
  std::int64_t created_s_;
};

/// What GET /v1/models, and with a name behind it, gives.
std::string models_json(const ServedModel& model);
std::string model_json(const ServedModel& model);

}  // namespace airlock
