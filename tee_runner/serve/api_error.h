#pragma once

#include <string>

#include "base/status.h"

namespace airlock {

/// What a client is told instead of an answer, in the form that OpenAI's endpoints have. It names
/// fields, limits and what was expected, and repeats nothing that the client has written into them:
/// a message may end in a log on the client's side.
struct ApiError {
  // Of HTTP.
  int status = 400;
  std::string message{};
  std::string type = "invalid_request_error";
  // The field; empty: null.
  std::string param{};
  // For programs; empty: null.
  std::string code{};
};

/// {"error":{"message":...,"type":...,"param":...,"code":...}}
std::string error_json(const ApiError& error);

/// What the engine's refusal is to a client: a full queue is 429, an engine that is away 503.
ApiError api_error(const Status& status);

}  // namespace airlock
