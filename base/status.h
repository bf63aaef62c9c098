#pragma once

#include <fmt/core.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/enum.h"

namespace airlock {

/// What went wrong, as far as a caller has to tell cases apart. `exit_code()` gives the process
/// exit code.
enum class StatusCode {
  kOk = 0,
  kUsage,              // arguments that cannot be parsed                              exit 2
  kInvalidInput,       // a bad model, config, token or file                           exit 1
  kUnavailable,        // no server, or the peer died or said goodbye                  exit 3
  kDeadlineExceeded,   // a wait reached its deadline                                  exit 3
  kProtocolError,      // the peer spoke wrongly; the session is over                  exit 3
  kVersionMismatch,    // the peer speaks another major version                        exit 3
  kMismatch,           // another digest, a comparison or verification that failed     exit 4
  kResourceExhausted,  // memory, disk, /dev/shm or the server is full                 exit 5
  kInUse,              // the endpoint belongs to a live server                        exit 5
  kDevice,             // a device is lacking or failed                                exit 5
  kCancelled,          // shutdown was asked for                                       exit 3
  kInternal,           // a library failed in a way nobody expects                     exit 1
  kBusy,               // no room now, the peer is slow: try again. Never sent         exit 5
};

constexpr std::string_view name_of(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "ok";
    case StatusCode::kUsage:
      return "usage";
    case StatusCode::kInvalidInput:
      return "invalid input";
    case StatusCode::kUnavailable:
      return "unavailable";
    case StatusCode::kDeadlineExceeded:
      return "deadline exceeded";
    case StatusCode::kProtocolError:
      return "protocol error";
    case StatusCode::kVersionMismatch:
      return "version mismatch";
    case StatusCode::kMismatch:
      return "mismatch";
    case StatusCode::kResourceExhausted:
      return "resource exhausted";
    case StatusCode::kInUse:
      return "in use";
    case StatusCode::kDevice:
      return "device";
    case StatusCode::kCancelled:
      return "cancelled";
    case StatusCode::kInternal:
      return "internal";
    case StatusCode::kBusy:
      return "busy";
  }
  return {};
}

/// The process exit code of docs/INTERFACE.md for `code`.
int exit_code(StatusCode code);

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
