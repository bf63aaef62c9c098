#include "base/log.h"

#include <unistd.h>

#include <cstdlib>
#include <string>

namespace airlock {

namespace {

std::string& log_name() {
  static std::string name = "airlock";
  return name;
}

LogLevel least_level() {
  static const LogLevel level = [] {
    const char* text = std::getenv("AIRLOCK_LOG");
    const std::string_view wanted = text == nullptr ? "info" : text;
    if (wanted == "debug") return LogLevel::kDebug;
    if (wanted == "warning") return LogLevel::kWarning;
    if (wanted == "error") return LogLevel::kError;
    return LogLevel::kInfo;
  }();
  return level;
}

std::string_view level_text(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug: ";
    case LogLevel::kInfo:
      return "";
    case LogLevel::kWarning:
      return "warning: ";
    case LogLevel::kError:
      return "error: ";
  }
  return "";
}

}  // namespace

void set_log_name(std::string_view name) { log_name() = name; }

void log(LogLevel level, std::string_view text) {
  if (level < least_level()) return;
  std::string line = log_name() + ": ";
  line += level_text(level);
  // Text may quote a peer or a file: control characters would let it forge lines or drive a
  // terminal.
  for (char c : text) line += (static_cast<unsigned char>(c) < 0x20 && c != '\t') ? ' ' : c;
  line += '\n';
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace airlock
