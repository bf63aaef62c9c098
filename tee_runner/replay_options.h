#pragma once

#include <optional>
#include <string>

#include "base/status.h"
#include "runtime/replay/settings.h"
#include "runtime/text/output_form.h"
#include "tee_runner/connection_options.h"

namespace airlock {

/// The command line of `tee_runner replay`, checked. docs/INTERFACE.md says what each option means.
struct ReplayOptions : ConnectionOptions, ReplaySettings {
  std::string stats_json;
  OutputForm output = OutputForm::kMarkdown;
};

/// nullopt: --help was asked for and printed. kUsage says what to do. argv[1] is "replay".
Result<std::optional<ReplayOptions>> parse_replay_options(int argc, const char* const* argv);

}  // namespace airlock
