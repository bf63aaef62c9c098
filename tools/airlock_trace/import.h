#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/model/forward_plan.h"
#include "runtime/trace/trace.h"
#include "tools/airlock_trace/options.h"
#include "tools/airlock_trace/prototype_log.h"

namespace airlock::trace {

/// LLaMA-3.2-1B, which the prototype ran.
ModelDims prototype_dims();
inline constexpr std::int64_t kPrototypeTokens = 128;  // where nothing outside the ring tells them

/// What a log does not say.
struct ImportChoice {
  std::string model = "LLaMA-3.2-1B";
  ModelDims dims = prototype_dims();
  DType dtype = DType::kBF16;  // of the model, and of the wire unless that is given
  bool dims_assumed = true;
  std::optional<DType> wire;
  std::optional<std::int64_t> tokens;
  std::optional<Attention> attention;
  std::optional<std::uint64_t> run;  // from 1, or kLastRun; nullopt: all
};

struct Imported {
  TraceHeader header;
  std::vector<TraceRecord> records;
  std::vector<std::string> notes;     // what was left out or concluded
  std::vector<std::string> warnings;  // what is missing
};

/// Lays the calls of `log` over the plan of a prefill, in order. kInvalidInput with SOURCE:LINE for
/// a call that is not the plan's next, or whose bytes outside the ring are no set of its tensors.
Result<Imported> import_log(const PrototypeLog& log, const ImportChoice& choice,
                            std::string_view source);

Status import_command(const Options& options);

}  // namespace airlock::trace
