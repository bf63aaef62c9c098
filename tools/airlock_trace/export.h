#pragma once

#include <cstdint>
#include <string>

#include "base/output_file.h"
#include "base/status.h"
#include "tools/airlock_trace/options.h"

namespace airlock::trace {

/// The processes of the Chrome trace.
inline constexpr int kRunnerPid = 1;
inline constexpr int kServerPid = 2;
/// What an op of a trace without times is drawn as.
inline constexpr std::uint64_t kNominalOpNs = 1000;

/// Writes FILE as `format`, record by record; a trace that was cut off is exported up to there,
/// with a warning in the log. docs/INTERFACE.md says what is in each column and key.
Status export_trace(const std::string& file, ExportFormat format, const OutputFile& output);

}  // namespace airlock::trace
