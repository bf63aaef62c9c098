#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/output_file.h"
#include "base/status.h"
#include "runtime/model/forward_plan.h"
#include "runtime/trace/trace.h"
#include "tools/airlock_trace/options.h"
#include "tools/airlock_trace/prototype_log.h"

namespace airlock::trace {

/// LLaMA-3.2-1B, which the prototype ran.
inline constexpr ModelDims kPrototypeDims = {.hidden = 2048,
                                             .intermediate = 8192,
                                             .layers = 16,
                                             .heads = 32,
                                             .kv_heads = 8,
                                             .head_dim = 64,
                                             .vocab = 128256};
/// Where nothing outside the ring tells them.
inline constexpr std::int64_t kPrototypeTokens = 128;

/// What a log does not say: the command line, and the model.
struct ImportChoice : Options {
  std::string model = "LLaMA-3.2-1B";
  ModelDims dims = kPrototypeDims;
  // Of the model, and of the wire unless that is given.
  DType dtype = DType::kBF16;
  bool dims_assumed = true;
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

Status import_command(const Options& options, const OutputFile& file);

}  // namespace airlock::trace
