#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/status.h"

namespace airlock::report {

struct Options {
  std::vector<std::string> inputs;  // at least one
  std::string output;               // "-": stdout
};

/// nullopt: --help or --version was printed. kUsage for what cannot be parsed.
Result<std::optional<Options>> parse_options(int argc, const char* const* argv);

}  // namespace airlock::report
