#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/limits.h"
#include "proto/path.h"
#include "runtime/model/forward_plan.h"
#include "runtime/text/output_form.h"

namespace airlock::trace {

enum class Command : std::uint8_t { kSynth, kImport, kShow, kDiff, kExport };
enum class ExportFormat : std::uint8_t { kChrome, kCsv, kJsonl };

constexpr std::string_view name_of(ExportFormat format) {
  switch (format) {
    case ExportFormat::kChrome:
      return "chrome";
    case ExportFormat::kCsv:
      return "csv";
    case ExportFormat::kJsonl:
      return "jsonl";
  }
  return {};
}

inline constexpr std::uint64_t kMaxRuns = 1'000'000;
inline constexpr std::int64_t kMaxDecode = 8192;
inline constexpr std::uint64_t kLastRun = 0;  // runs of a log are counted from 1

/// The command line of airlock_trace, checked. docs/INTERFACE.md says what each option means.
struct Options {
  Command command = Command::kShow;
  std::vector<std::string> inputs;  // LOG; FILE...; A B; FILE
  std::string output;               // synth, import, export; "-" is stdout
  std::string config;               // empty: the built-in shape (import)
  std::optional<std::int64_t> tokens;
  std::optional<Attention> attention;
  std::optional<DType> wire;
  Logits logits = Logits::kLast;
  std::uint64_t runs = 1;            // synth: how many
  std::int64_t decode = 0;           // synth: tokens of an answer behind each
  std::optional<std::uint64_t> run;  // import: which one, or kLastRun; nullopt: all
  PathPolicy policy{true, limits::kDefaultSlotBytes, limits::kDefaultSlotCount};
  OutputForm form = OutputForm::kMarkdown;  // of show and diff
  ExportFormat format = ExportFormat::kChrome;
};

/// nullopt: --help or --version was asked for and printed. kUsage says what is wrong with which
/// value.
Result<std::optional<Options>> parse_options(int argc, const char* const* argv);

}  // namespace airlock::trace
