#pragma once

#include <fmt/core.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/enum.h"

namespace airlock {

/// What went wrong, as far as a caller has to tell cases apart.
enum class StatusCode {
  kOk = 0,
  // Arguments that cannot be parsed.
  kUsage,
  // A bad model, config, token or file.
  kInvalidInput,
  // No server, or the peer died or said goodbye.
  kUnavailable,
  // A wait reached its deadline.
  kDeadlineExceeded,
  // The peer spoke wrongly; the session is over.
  kProtocolError,
  // The peer speaks another major version.
  kVersionMismatch,
  // Another digest, a comparison or verification that failed.
  kMismatch,
  // Memory, disk, /dev/shm or the server is full.
  kResourceExhausted,
  // The endpoint belongs to a live server.
  kInUse,
  // A device is lacking or failed.
  kDevice,
  // Shutdown was asked for.
  kCancelled,
  // A library failed in a way nobody expects.
  kInternal,
  // No room now, the peer is slow: try again. Never sent.
  kBusy,
};

struct StatusTraits {
  std::string_view name;
  /// Of the process, as docs/INTERFACE.md has it.
  int exit_code = 1;
};

constexpr StatusTraits traits_of(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return {"ok", 0};
    case StatusCode::kUsage:
      return {"usage", 2};
    case StatusCode::kInvalidInput:
      return {"invalid input", 1};
    case StatusCode::kUnavailable:
      return {"unavailable", 3};
    case StatusCode::kDeadlineExceeded:
      return {"deadline exceeded", 3};
    case StatusCode::kProtocolError:
      return {"protocol error", 3};
    case StatusCode::kVersionMismatch:
      return {"version mismatch", 3};
    case StatusCode::kMismatch:
      return {"mismatch", 4};
    case StatusCode::kResourceExhausted:
      return {"resource exhausted", 5};
    case StatusCode::kInUse:
      return {"in use", 5};
    case StatusCode::kDevice:
      return {"device", 5};
    case StatusCode::kCancelled:
      return {"cancelled", 3};
    case StatusCode::kInternal:
      return {"internal", 1};
    case StatusCode::kBusy:
      return {"busy", 5};
  }
  return {};
}

constexpr std::string_view name_of(StatusCode code) { return traits_of(code).name; }
constexpr int exit_code(StatusCode code) { return traits_of(code).exit_code; }

/// Success, or a code with a message for a user: what was wrong, with which value, what to do.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}
  /// The message as fmt::format() writes it.
  template <typename... Args>
  requires(sizeof...(Args) > 0)
      Status(StatusCode code, fmt::format_string<Args...> format, Args&&... args)
      : Status(code, fmt::format(format, std::forward<Args>(args)...)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  /// "protocol error: request id 7, expected 6"
  std::string to_string() const;
  /// The same code with `context + ": "` before the message.
  Status with_context(std::string_view context) const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

/// A value or the Status that explains its absence. Reading the value of a failed Result is our own
/// bug.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit by intent
  Result(Status status) : status_(std::move(status)) { CHECK(!status_.ok()); }  // NOLINT

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }
  T& value() & {
    CHECK(ok());
    return *value_;
  }
  const T& value() const& {
    CHECK(ok());
    return *value_;
  }
  T&& value() && {
    CHECK(ok());
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace airlock

#define AIRLOCK_CONCAT_INNER(a, b) a##b
#define AIRLOCK_CONCAT(a, b) AIRLOCK_CONCAT_INNER(a, b)
#define RETURN_IF_ERROR(expression)                                                 \
  do {                                                                              \
    if (::airlock::Status returned = (expression); !returned.ok()) return returned; \
  } while (false)
/// ASSIGN_OR_RETURN(auto x, f()): x is the value, or the enclosing function returns the Status.
#define ASSIGN_OR_RETURN(declaration, expression) \
  ASSIGN_OR_RETURN_IMPL(AIRLOCK_CONCAT(result_, __LINE__), declaration, expression)
#define ASSIGN_OR_RETURN_IMPL(result, declaration, expression) \
  auto result = (expression);                                  \
  if (!result.ok()) return result.status();                    \
  declaration = std::move(result).value()
