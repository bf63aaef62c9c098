#include "base/status.h"

#include <cstdio>
#include <cstdlib>

namespace airlock {

void check_failed(const char* file, int line, const char* text) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, text);
  std::abort();
}

int exit_code(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return 0;
    case StatusCode::kUsage:
      return 2;
    case StatusCode::kInvalidInput:
    case StatusCode::kInternal:
      return 1;
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kProtocolError:
    case StatusCode::kVersionMismatch:
    case StatusCode::kCancelled:
      return 3;
    case StatusCode::kMismatch:
      return 4;
    case StatusCode::kResourceExhausted:
    case StatusCode::kInUse:
    case StatusCode::kDevice:
    case StatusCode::kBusy:
      return 5;
  }
  return 1;
}

std::string Status::to_string() const {
  if (ok()) return "ok";
  return std::string(name_of(code_)) + ": " + message_;
}

Status Status::with_context(std::string_view context) const {
  if (ok()) return {};
  return {code_, std::string(context) + ": " + message_};
}

}  // namespace airlock
