#pragma once

#include <cstddef>
#include <string_view>

namespace airlock {

/// What is read of a request: its first line, once its head has ended.
struct HttpRequest {
  enum class State {
    // The head has not ended yet.
    kIncomplete,
    kComplete,
    // Over kMaxHttpHeadBytes without an end.
    kTooLong,
    // No HTTP/1 request.
    kMalformed,
    // HTTP of another major version.
    kOtherVersion,
  };
  State state = State::kIncomplete;
  // Of kComplete, views of what was received: "GET", and of the target the path ("/metrics" of
  // "/metrics?x=1" and of "http://host/metrics").
  std::string_view method;
  std::string_view path;
};

inline constexpr std::size_t kMaxHttpHeadBytes = 8192;

/// Reads what a client has sent so far, which may be anything. Headers and what follows the head
/// are not looked at.
HttpRequest read_http_request(std::string_view received);

}  // namespace airlock
