#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/enum.h"
#include "base/status.h"

namespace airlock {

enum class StatFormat : std::uint8_t { kTable, kJson };

constexpr std::string_view name_of(StatFormat format) {
  switch (format) {
    case StatFormat::kTable:
      return "md";
    case StatFormat::kJson:
      return "json";
  }
  return {};
}

/// The command line of airlock_stat, checked.
struct StatOptions {
  std::string endpoint;                           // "ipc:///path" or "tcp://host:port"
  std::optional<std::chrono::nanoseconds> watch;  // nullopt: look once
  StatFormat format = StatFormat::kTable;
  std::chrono::milliseconds timeout{5000};  // of a server that has to be asked
};

/// nullopt: --help was asked for and printed. kUsage: with what to do.
Result<std::optional<StatOptions>> parse_stat_options(int argc, const char* const* argv);

}  // namespace airlock
