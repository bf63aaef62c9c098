#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/enum.h"
#include "base/status.h"
#include "client/client_keys.h"
#include "pool/shape.h"
#include "runtime/text/output_form.h"

namespace airlock::pool_tool {

enum class Command : std::uint8_t { kList, kWatch, kCheck, kBench };
constexpr std::string_view name_of(Command command) {
  switch (command) {
    case Command::kList:
      return "list";
    case Command::kWatch:
      return "watch";
    case Command::kCheck:
      return "check";
    case Command::kBench:
      return "bench";
  }
  return {};
}

/// The command line of airlock_pool, checked.
struct Options {
  Command command = Command::kList;
  std::string endpoint;                      // "ipc:///path" or "tcp://host:port"
  OutputForm form = OutputForm::kMarkdown;   // or kJson
  std::chrono::nanoseconds interval{};       // watch
  std::optional<PoolShape> expected;         // check: the pool that there should be
  std::chrono::milliseconds timeout{10000};  // check and bench: the longest wait for the server
  // bench: from a power of two to another.
  std::uint64_t begin_bytes = 1024;
  std::uint64_t end_bytes = std::uint64_t{1} << 30;
  std::uint64_t rounds = 20;
  KeyFiles keys;
  std::chrono::nanoseconds max_time{};  // of one size
};

/// nullopt: --help was asked for and printed. kUsage: with what to do.
Result<std::optional<Options>> parse_options(int argc, const char* const* argv);

}  // namespace airlock::pool_tool
