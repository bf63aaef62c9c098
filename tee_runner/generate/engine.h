#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/stats/text_stats.h"
#include "tee_runner/generate/sampler.h"

namespace airlock {

/// An answer that is asked for.
struct GenerateRequest {
  // At least one id of the vocabulary.
  std::vector<std::int32_t> prompt;
  SamplingSettings sampling;
  // 0: the prompt is checked and nothing is computed.
  std::int64_t max_tokens = 0;
  // Each ends the answer and is not given out.
  std::vector<std::int32_t> stop_ids;
  // Keys and values of earlier conversations are used again for the same owner alone.
  std::string owner;
};

enum class FinishReason : std::uint8_t {
  kStop,       // a stop id, or the sink had enough
  kLength,     // max_tokens, or the context is full
  kCancelled,  // by cancel(), or the engine ends
  kFailed,     // Finish::status says why
};

constexpr std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kFailed:
      return "failed";
  }
  return {};
}

/// One token of an answer, with what the sampler says of it.
struct GeneratedToken {
  std::int32_t id = 0;
  // Where SamplingSettings::log_probabilities asks for them: of the token, and of the likeliest.
  double log_probability = 0;
  std::vector<TokenLogProbability> top;
};

/// The end of an answer. Times are of the steady clock.
struct Finish {
  FinishReason reason = FinishReason::kStop;
  // Not ok with kFailed alone.
  Status status;
  std::size_t prompt_tokens = 0;
  // Of the prompt: those whose keys and values were there already.
  std::size_t cached_tokens = 0;
  // The stop id, where one came, included.
  std::size_t generated_tokens = 0;
  std::optional<std::int32_t> stop_id = {};
  // From submit() to the first token; 0 without one.
  std::uint64_t ttft_ns = 0;
};

/// Who gets an answer. Called by the engine's own thread, which must not be kept: other answers
/// wait. Throws nothing.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  /// False: enough, the answer ends (FinishReason::kStop).
  virtual bool on_token(const GeneratedToken& token) = 0;
  /// Once, and last.
  virtual void on_finish(const Finish& finish) = 0;
};

using GenerationId = std::uint64_t;

/// What an engine has now, and what it counted.
struct EngineFigures {
  std::size_t active = 0;
  std::size_t queued = 0;
  std::size_t max_active = 0;
  std::size_t max_queued = 0;
  std::uint64_t oldest_wait_ns = 0;  // of those that are queued, since submit()
  std::size_t kept = 0;              // prefixes for a next turn
  std::uint64_t cache_used_bytes = 0;
  std::uint64_t cache_limit_bytes = 0;
  TextSnapshot text = {};
};

/// Answers many prompts at once: the sequences under way share each step's products. Thread-safe.
class Engine {
 public:
  virtual ~Engine() = default;

  /// Queues a prompt. kInvalidInput: no id, one beyond the vocabulary, a setting out of range, or a
  /// prompt that alone fills the context (exceeds_context() tells that one beforehand);
  /// kResourceExhausted: the queue is full; kUnavailable: the engine has ended, or its server is
  /// away. Otherwise the sink will be told the finish.
  virtual Result<GenerationId> submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) = 0;
  /// The answer ends within a step (FinishReason::kCancelled). One that is over: nothing.
  virtual void cancel(GenerationId id) = 0;
  /// Positions that a prompt and its answer have at most.
  virtual std::int64_t context_length() const = 0;
  /// Ok where prompts would be answered now; else why not: the server is away.
  virtual Status health() const = 0;
  /// Ok while its thread moves, whatever health() is; else for how long it has not: it hangs, and
  /// nothing but a new process helps.
  virtual Status liveness() const = 0;
  virtual EngineFigures figures() const = 0;

  bool exceeds_context(std::size_t prompt_tokens) const {
    return prompt_tokens >= static_cast<std::size_t>(context_length());
  }
};

}  // namespace airlock
