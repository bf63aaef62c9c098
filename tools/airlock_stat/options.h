#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/enum.h"
#include "base/status.h"
#include "client/client_keys.h"
#include "runtime/text/output_form.h"

namespace airlock {

/// The command line of airlock_stat, checked.
struct StatOptions {
  std::string endpoint;                           // "ipc:///path" or "tcp://host:port"
  std::optional<std::chrono::nanoseconds> watch;  // nullopt: look once
  OutputForm form = OutputForm::kMarkdown;        // or kJson
  std::chrono::milliseconds timeout{5000};        // of a server that has to be asked
  KeyFiles keys;                                  // of such a one over tcp
};

/// nullopt: --help was asked for and printed. kUsage: with what to do.
Result<std::optional<StatOptions>> parse_stat_options(int argc, const char* const* argv);

}  // namespace airlock
