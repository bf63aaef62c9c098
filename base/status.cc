#include "base/status.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>

#include "base/sink.h"

namespace airlock {

void check_failed(const char* file, int line, const char* text) {
  // What was logged before comes first. A stream that stands still and has a writer holds
  // up no process that fails.
  (void)stderr_sink().flush();
  std::array<char, 512> words{};
  const auto end =
      fmt::format_to_n(words.data(), words.size() - 1, "{}:{}: CHECK failed: {}", file, line, text);
  *end.out = '\n';
  pollfd room{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&room, 1, static_cast<int>(Sink::kStandstill.count())) == 1) {
    [[maybe_unused]] const ssize_t written =
        ::write(STDERR_FILENO, words.data(), static_cast<std::size_t>(end.out + 1 - words.data()));
  }
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
