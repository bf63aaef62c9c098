#include "tee_runner/text_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/process_limits.h"
#include "proto/limits.h"
#include "tee_runner/private_session.h"

namespace airlock {
namespace {

constexpr std::chrono::milliseconds kPause{500};

Result<std::unique_ptr<EngineModel>> make_tried(LlamaSource& source) {
  ASSIGN_OR_RETURN(auto made, source.make());
  RETURN_IF_ERROR(try_model(*made));
  return made;
}

/// What a server may have mended when it is asked again. All else a person must mend, or it is of
/// this process, in which a new start helps more than another attempt.
bool may_pass(StatusCode code, bool was_refused) {
  return code == StatusCode::kUnavailable || code == StatusCode::kDeadlineExceeded ||
         code == StatusCode::kProtocolError || code == StatusCode::kDevice ||
         (code == StatusCode::kResourceExhausted && was_refused);
}

/// The first, whose server is waited for as `limits` say.
Result<std::unique_ptr<EngineModel>> first_model(LlamaSource& source, const EngineLimits& limits,
                                                 BackendChoice backend) {
  if (!limits.server_patience) return source.make();
  if (backend == BackendChoice::kLocal) return make_tried(source);
  // From the first attempt's end on: it reads the whole model for its digest.
  std::optional<Deadline> patience;
  for (std::string said;;) {
    auto made = make_tried(source);
    const Status& why = made.status();
    if (made.ok() || !may_pass(why.code(), source.was_refused())) return made;
    if (!patience) patience = Deadline::after(*limits.server_patience);
    if (patience->expired()) return made;
    if (why.message() != said) {
      const std::chrono::duration<double> asked = *limits.server_patience;
      log_info(fmt::format("the server is waited for, for {} s in all: {}", asked.count(),
                           why.message()));
      if (limits.waits) limits.waits(why);
      said = why.message();
    }
    std::this_thread::sleep_for(patience->slice(kPause).remaining());
  }
}

}  // namespace

Result<std::unique_ptr<TextSession>> TextSession::start(const TextOptions& options,
                                                        StatsReporter& reporter,
                                                        const EngineLimits& limits,
                                                        Recording* recording,
                                                        std::size_t prompt_tokens) {
  reporter.add_config("model", options.model.empty() ? options.synthetic : options.model);
  reporter.add_config("backend", name_of(options.backend));
  reporter.add_config("threads", std::to_string(options.threads));
  std::unique_ptr<TextSession> made(new TextSession());
  announce_privacy(options, reporter);
  ASSIGN_OR_RETURN(auto model, open_model(options));
  made->source_ =
      std::make_unique<LlamaSource>(options, std::move(model), reporter, recording, prompt_tokens);
  ASSIGN_OR_RETURN(auto first, first_model(*made->source_, limits, options.backend));
  const LlamaConfig& config = made->source_->config();
  BatchEngineOptions engine;
  engine.dims = config.dims;
  const std::int64_t context =
      options.context > 0 ? options.context : config.max_position_embeddings;
  engine.context_length = std::clamp<std::int64_t>(context, 2, airlock::limits::kMaxTokens);
  engine.cache_dtype = options.cache_type;
  engine.cache_bytes = options.cache_bytes;
  engine.max_sequences = limits.max_sequences;
  engine.max_queue = limits.max_queue;
  engine.gave_up = limits.gave_up;
  engine.pulse = &made->source_->pulse();
  const bool is_remote = options.backend == BackendChoice::kRemote;
  // A product of this process takes what an op may.
  if (!is_remote) engine.stall_after += options.op_timeout;
  if (limits.reconnects || (limits.server_patience && is_remote))
    engine.reconnect = [source = made->source_.get()] { return source->make(); };
  engine.reconnect_for = limits.server_patience;
  reporter.add_config("cache_type", name_of(engine.cache_dtype));
  reporter.add_config("cache_bytes", std::to_string(engine.cache_bytes));
  ASSIGN_OR_RETURN(made->engine_,
                   BatchEngine::create(std::move(engine), std::move(first), reporter.text()));
  reporter.add_config("context", std::to_string(made->engine_->context_length()));
  return made;
}

void keep_words_private() {
  forbid_core_dumps();
  if (keep_out_of_swap()) return;
  log_info(is_locked_memory_limited()
               ? "prompts and answers may come into swap, as locked memory is limited here; " +
                     how_to_lock_memory()
               : "prompts and answers may come into swap: the system locks no memory here");
}

GenerateRequest request_for(const TextOptions& options, const Prompt& prompt) {
  GenerateRequest request;
  request.prompt = prompt.ids;
  request.sampling = options.sampling;
  request.max_tokens = options.max_tokens;
  if (!options.ignore_eos) request.stop_ids = prompt.stop_ids;
  return request;
}

}  // namespace airlock
