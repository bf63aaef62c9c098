#include "tee_runner/serve/api_error.h"

#include <optional>

#include "runtime/json/writer.h"

namespace airlock {
namespace {

std::optional<std::string> or_null(const std::string& text) {
  return text.empty() ? std::nullopt : std::optional(text);
}

}  // namespace

std::string error_json(const ApiError& error) {
  return JsonObject{{"error", JsonObject{{"message", error.message},
                                         {"type", error.type},
                                         {"param", or_null(error.param)},
                                         {"code", or_null(error.code)}}}}
      .text();
}

ApiError api_error(const Status& status) {
  switch (status.code()) {
    case StatusCode::kInvalidInput:
    case StatusCode::kUsage:
      // Its words may show the token or the value.
      return {.status = 400, .message = "the engine refuses a token or a setting of this request"};
    case StatusCode::kResourceExhausted:
    case StatusCode::kBusy:
      return {.status = 429,
              .message = "more requests wait than this server holds: try again",
              .type = "rate_limit_error",
              .code = "server_busy"};
    case StatusCode::kUnavailable:
    case StatusCode::kCancelled:
    case StatusCode::kDeadlineExceeded:
      return {.status = 503,
              .message = "no answers are computed now: try again",
              .type = "server_error",
              .code = "unavailable"};
    default:
      return {.status = 500,
              .message = "the server failed; its log says why",
              .type = "server_error",
              .code = "internal_error"};
  }
}

}  // namespace airlock
