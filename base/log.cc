#include "base/log.h"

#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/enum.h"

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

void log(LogLevel level, std::string_view text) {
  if (level < least_level()) return;
  std::string line = log_name() + ": ";
  if (level != LogLevel::kInfo) (line += name_of(level)) += ": ";
  // Text may quote a peer or a file: control characters would let it forge lines or drive a
  // terminal.
  for (char c : text) line += (static_cast<unsigned char>(c) < 0x20 && c != '\t') ? ' ' : c;
  line += '\n';
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace airlock
