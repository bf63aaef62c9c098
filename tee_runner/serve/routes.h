#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tee_runner/serve/api_error.h"
#include "tee_runner/serve/http_settings.h"

namespace airlock {

enum class Route : std::uint8_t {
  kHealth,
  kReady,
  kMetrics,
  kPage,
  kModels,
  kModel,
  kCompletions,
  kChat,
  kOther,
};

/// For logs and metrics, which have no text of a client's.
constexpr std::string_view name_of(Route route) {
  switch (route) {
    case Route::kHealth:
      return "/healthz";
    case Route::kReady:
      return "/readyz";
    case Route::kMetrics:
      return "/metrics";
    case Route::kPage:
      return "/";
    case Route::kModels:
      return "/v1/models";
    case Route::kModel:
      return "/v1/models/*";
    case Route::kCompletions:
      return "/v1/completions";
    case Route::kChat:
      return "/v1/chat/completions";
    case Route::kOther:
      return "other";
  }
  return {};
}

/// The head of a request, as far as it is looked at. Views of what the client sent.
struct RequestHead {
  std::string_view method;
  std::string_view target;
  // Header fields; empty: not there.
  std::string_view host;
  std::string_view origin;
  std::string_view authorization;
  std::string_view content_type;
  std::string_view content_encoding;
  bool has_body = false;
  bool from_loopback = false;
};

/// Whether a request is heard, known once its head is there: nobody sends a body for nothing.
struct Admission {
  Route route = Route::kOther;
  std::optional<ApiError> refusal;
  // With a refusal by 405.
  std::string_view allow;
  // Whose keys and values an answer may share; empty without keys.
  std::string owner;
};

Admission admit(const RequestHead& head, const HttpSettings& settings);
/// Of /v1/models/NAME: NAME as it stands there.
std::string_view model_in(std::string_view target);

}  // namespace airlock
