#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tee_runner/chat/chat_template.h"
#include "tee_runner/generate/sampling_settings.h"
#include "tee_runner/serve/api_error.h"

namespace airlock {

/// Which of the two endpoints is asked: /v1/completions or /v1/chat/completions.
enum class CompletionKind : std::uint8_t { kText, kChat };

inline constexpr std::int64_t kMaxChoices = 8;
inline constexpr std::size_t kMaxStops = 4;
/// Of /v1/completions, where a request does not say.
inline constexpr std::int64_t kDefaultTextTokens = 16;
/// Within a std::int32_t; the context of a model ends an answer long before.
inline constexpr std::int64_t kMostAskedTokens = std::int64_t{1} << 30;

/// A request for answers as a client wrote it, checked as far as one can without the model.
struct CompletionRequest {
  CompletionKind kind = CompletionKind::kText;
  std::string model;
  // kChat.
  std::vector<ChatMessage> messages;
  // kText: ids where there are any, else the text.
  std::string prompt;
  std::vector<std::int32_t> prompt_ids;

  // Without its seed. Its log-probabilities are what `logprobs` and `top_logprobs` ask for.
  SamplingSettings sampling{.temperature = 1};
  // nullopt: any.
  std::optional<std::uint64_t> seed;
  // nullopt: as long as the context.
  std::optional<std::int64_t> max_tokens;
  std::vector<std::string> stop;
  std::size_t choices = 1;
  bool stream = false;
  bool include_usage = false;
};

/// Reads a body. nullopt: refused, and `error` says why. Every field that is not known is refused
/// by its name, and so is every known one that asks for what is not done here; with the value that
/// asks for nothing it is accepted. null is a field that is not there.
std::optional<CompletionRequest> read_completion_request(std::string_view body, CompletionKind kind,
                                                         ApiError& error);

}  // namespace airlock
