#pragma once

#include <string>
#include <string_view>

namespace airlock {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

constexpr std::string_view name_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return {};
}

/// Writes one line to stderr, by stderr_sink(): lines stay whole and in order, and in a program
/// that has started the sink's writer no thread waits for whoever reads them. Thread-safe; never
/// throws. An error is logged once, where it is decided what to do about it; what a peer can cause
/// again and again goes through a LogLimiter.
/// AIRLOCK_LOG=debug|info|warning|error sets the least level (info).
void log(LogLevel level, std::string_view text) noexcept;
/// Sets the name that stands before each line; call it first thing in main().
void set_log_name(std::string_view name);
/// The line as log() writes it, with its newline: name, level, and the text with nothing in it that
/// forges lines or drives a terminal.
std::string log_line(LogLevel level, std::string_view text);

inline void log_info(std::string_view text) { log(LogLevel::kInfo, text); }
inline void log_warning(std::string_view text) { log(LogLevel::kWarning, text); }
inline void log_error(std::string_view text) { log(LogLevel::kError, text); }

}  // namespace airlock
