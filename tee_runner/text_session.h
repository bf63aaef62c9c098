#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/status.h"
#include "tee_runner/generate/batch_engine.h"
#include "tee_runner/generate/prompt.h"
#include "tee_runner/options.h"
#include "tee_runner/served_llama.h"
#include "tee_runner/stats_reporter.h"

namespace airlock {

/// What an engine may have under way.
struct EngineLimits {
  std::size_t max_sequences = 1;
  std::size_t max_queue = 64;
  bool reconnects = false;  // a server that went away is asked for again, for ever
  // The same for so long; and at the start for so long from the first attempt's end on where it
  // failed for what the server may mend: kUnavailable, kDeadlineExceeded, kProtocolError, kDevice,
  // and kResourceExhausted where the server said so. The first model is tried with a token.
  std::optional<std::chrono::nanoseconds> server_patience = {};
  std::function<void(const Status&)> waits = {};    // at the start, for a server that is not there
  std::function<void(const Status&)> gave_up = {};  // as BatchEngineOptions has it
};

/// What a command that writes text stands on: an engine, and what it asks. One thread.
class TextSession {
 public:
  /// Connects, or loads, and starts the engine. Options, reporter and recording (of so many tokens)
  /// outlive it.
  static Result<std::unique_ptr<TextSession>> start(const TextOptions& options,
                                                    StatsReporter& reporter,
                                                    const EngineLimits& limits,
                                                    Recording* recording = nullptr,
                                                    std::size_t prompt_tokens = 0);
  /// An engine that waits for its server waits no longer.
  ~TextSession() {
    if (source_ != nullptr) source_->cancel();
  }
  BatchEngine& engine() { return *engine_; }

 private:
  std::unique_ptr<LlamaSource> source_;
  std::unique_ptr<BatchEngine> engine_;
};

/// For the start of such a command: what it holds from here on comes into no core dump and, where
/// the system allows it, into no swap; where it does not, the log says so and what to do.
void keep_words_private();

/// A request for an answer to `prompt` as the options say.
GenerateRequest request_for(const TextOptions& options, const Prompt& prompt);

}  // namespace airlock
