#include "tools/airlock_trace/synth.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/log.h"
#include "runtime/model/config.h"
#include "runtime/trace/trace_line.h"
#include "tools/airlock_trace/show.h"

namespace airlock::trace {

Status write_trace(const OutputFile& file, const TraceHeader& header,
                   const std::function<TraceRecord(std::uint64_t number)>& record_at) {
  ASSIGN_OR_RETURN(const auto output, file.begin());
  output->add(encode_trace_line(header) + '\n');
  for (std::uint64_t number = 0; number < header.records && !output->failed(); ++number)
    output->add(encode_trace_line(record_at(number)) + '\n');
  return output->commit();
}

Status synthesise(const Options& options, const OutputFile& file) {
  ASSIGN_OR_RETURN(const LlamaConfig config, load_config(options.config));
  const bool is_tee = options.decode > 0 || options.wire == DType::kI8;
  const ForwardShape shape{
      *options.tokens, options.wire.value_or(config.dtype),
      options.attention.value_or(is_tee ? Attention::kTee : Attention::kOffload), options.logits};
  ASSIGN_OR_RETURN(std::vector<PlannedOp> plan, plan_forward(config.dims, shape));
  // The prompt gives the first token of an answer, and each of the others has a pass of one row.
  for (std::int64_t token = 1; token < options.decode; ++token) {
    ForwardShape step = shape;
    step.tokens = 1;
    step.position = shape.tokens + token - 1;
    ASSIGN_OR_RETURN(const std::vector<PlannedOp> next, plan_forward(config.dims, step));
    plan.insert(plan.end(), next.begin(), next.end());
  }
  if (shape.tokens + options.decode > config.max_position_embeddings) {
    log_warning(fmt::format("{} tokens are more than the model's max_position_embeddings, {}",
                            shape.tokens + options.decode, config.max_position_embeddings));
  }
  TraceHeader header;
  header.source = TraceSource::kSynthesised;
  header.build = build_name();
  header.started_at = utc_now();
  header.model = std::filesystem::path(options.config).filename().string();
  header.dims = config.dims;
  header.tokens = shape.tokens;
  header.runs = options.runs;
  header.wire = shape.wire;
  header.dtype = config.dtype;
  header.attention = name_of(shape.attention);
  header.backend = "remote";
  header.path_limit_bytes = options.policy.limit_bytes;
  header.ring_slots = static_cast<std::uint32_t>(options.policy.slot_count);
  header.wall_ns = 0;
  header.records = plan.size() * options.runs;
  RETURN_IF_ERROR(write_trace(file, header, [&](std::uint64_t seq) {
    return synthesise_record(plan, seq, config.dims, options.policy);
  }));
  log_info(fmt::format("{} ops, {} of {} tokens", *header.records, prefills_text(options.runs),
                       shape.tokens));
  return {};
}

}  // namespace airlock::trace
