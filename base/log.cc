#include "base/log.h"

#include <algorithm>
#include <cstdlib>
#include <exception>

#include "base/enum.h"
#include "base/safe_text.h"
#include "base/sink.h"

namespace airlock {

namespace {

std::string& log_name() {
  static std::string name = "airlock";
  return name;
}

LogLevel least_level() {
  static const LogLevel level = [] {
    const char* text = std::getenv("AIRLOCK_LOG");
    return from_name<LogLevel>(text == nullptr ? "" : text).value_or(LogLevel::kInfo);
  }();
  return level;
}

}  // namespace

void set_log_name(std::string_view name) { log_name() = name; }

std::string log_line(LogLevel level, std::string_view text) {
  // Lines of a longer message become one: white space stays white space.
  std::string words(text);
  std::ranges::replace_if(
      words, [](char c) { return c == '\n' || c == '\r' || c == '\t'; }, ' ');
  std::string line = log_name() + ": ";
  if (level != LogLevel::kInfo) (line += name_of(level)) += ": ";
  return line + without_controls(words, "?") + '\n';
}

void log(LogLevel level, std::string_view text) noexcept {
  if (level < least_level()) return;
  try {
    stderr_sink().write(log_line(level, text));
  } catch (const std::exception&) {
    stderr_sink().write("airlock: error: no memory for a line of the log\n");
  }
}

}  // namespace airlock
