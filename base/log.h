#pragma once

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

/// Writes one line to stderr, with the program's name and the level, in one write(2). Thread-safe.
/// An error is logged once, where it is decided what to do about it.
/// AIRLOCK_LOG=debug|info|warning|error sets the least level (info).
void log(LogLevel level, std::string_view text);
/// Sets the name that stands before each line; call it first thing in main().
void set_log_name(std::string_view name);

inline void log_info(std::string_view text) { log(LogLevel::kInfo, text); }
inline void log_warning(std::string_view text) { log(LogLevel::kWarning, text); }
inline void log_error(std::string_view text) { log(LogLevel::kError, text); }

}  // namespace airlock
