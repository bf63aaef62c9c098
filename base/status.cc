#include "base/status.h"

#include <cstdio>
#include <cstdlib>

namespace airlock {

void check_failed(const char* file, int line, const char* text) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, text);
  std::abort();
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
