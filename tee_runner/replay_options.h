#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/enum.h"
#include "base/status.h"
#include "runtime/text/output_form.h"
#include "tee_runner/connection_options.h"

namespace airlock {

enum class ReplaySpeed : std::uint8_t {
  kMax,       // the next op as soon as there is room for it
  kRecorded,  // no op before its recorded start
};
enum class ReplayVerify : std::uint8_t {
  kNone,
  kDigest,     // outputs are the recorded bytes
  kTolerance,  // outputs are near the recorded ones
};

constexpr std::string_view name_of(ReplaySpeed speed) {
  switch (speed) {
    case ReplaySpeed::kMax:
      return "max";
    case ReplaySpeed::kRecorded:
      return "recorded";
  }
  return {};
}

constexpr std::string_view name_of(ReplayVerify verify) {
  switch (verify) {
    case ReplayVerify::kNone:
      return "none";
    case ReplayVerify::kDigest:
      return "digest";
    case ReplayVerify::kTolerance:
      return "tolerance";
  }
  return {};
}

/// The command line of `tee_runner replay`, checked. docs/INTERFACE.md says what each option means.
struct ReplayOptions : ConnectionOptions {
  std::string file;
  ReplaySpeed speed = ReplaySpeed::kMax;
  ReplayVerify verify = ReplayVerify::kNone;
  std::size_t repeat = 1;
  std::size_t clients = 1;
  std::size_t inflight = 1;
  std::uint64_t seed = 0;
  std::string stats_json;
  OutputForm output = OutputForm::kMarkdown;
};

/// nullopt: --help was asked for and printed. kUsage says what to do. argv[1] is "replay".
Result<std::optional<ReplayOptions>> parse_replay_options(int argc, const char* const* argv);

}  // namespace airlock
