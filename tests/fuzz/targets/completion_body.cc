// Bodies of /v1/completions and /v1/chat/completions.

#include "base/check.h"
#include "base/safe_text.h"
#include "runtime/json/reader.h"
#include "tee_runner/chat/messages.h"
#include "tee_runner/generate/stop_scanner.h"
#include "tee_runner/serve/completion_request.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  return bytes_of(
      {R"({"model":"m","messages":[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"b"}]}],)"
       R"("max_completion_tokens":7,"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"stop":["x","y"],"n":3,)"
       R"("stream":true,"stream_options":{"include_usage":true},"logprobs":true,"top_logprobs":2,"seed":-3,"user":"u"})",
       R"({"model":"m","prompt":[1,2,3],"max_tokens":0,"logprobs":5,"best_of":1,"echo":false,"suffix":null})",
       R"({"model":"m","prompt":"a","repetition_penalty":1.1,"presence_penalty":-1,"frequency_penalty":2,"tools":[]})"});
}

void check_accepted(const CompletionRequest& request) {
  CHECK(!request.model.empty());
  CHECK(request.choices >= 1 && request.choices <= kMaxChoices);
  CHECK(request.stop.size() <= kMaxStops);
  for (const std::string& stop : request.stop) CHECK(!stop.empty() && stop.size() <= kMaxStopBytes);
  CHECK(!request.max_tokens ||
        (*request.max_tokens >= 0 && *request.max_tokens <= kMostAskedTokens));
  const SamplingSettings& sampling = request.sampling;
  CHECK(sampling.temperature >= 0 && sampling.temperature <= 2);
  CHECK(sampling.top_p >= 0 && sampling.top_p <= 1 && sampling.min_p >= 0 && sampling.min_p <= 1);
  CHECK(sampling.top_k >= 0 && sampling.top_k <= SamplingSettings::kMaxTopK);
  CHECK(sampling.log_probabilities.value_or(0) <= SamplingSettings::kMaxLogProbabilities);
  CHECK(!request.include_usage || request.stream);
  if (request.kind == CompletionKind::kText) return CHECK(request.max_tokens);
  CHECK(!request.messages.empty() && request.messages.size() <= kMaxChatMessages);
  std::size_t bytes = 0;
  for (const ChatMessage& message : request.messages) bytes += message.content.size();
  CHECK(bytes <= kMaxChatBytes);
}

bool run(std::span<const std::byte> input) {
  bool accepted = false;
  for (const CompletionKind kind : {CompletionKind::kText, CompletionKind::kChat}) {
    ApiError error;
    const auto request = read_completion_request(text_of(input), kind, error);
    if (request) {
      CHECK(error.message.empty());
      check_accepted(*request);
      accepted = true;
      continue;
    }
    CHECK(error.status == 400 && !error.message.empty() && error.message.size() < 1000);
    CHECK(!has_controls(error.message));
    CHECK(parse_json(error_json(error), "error").ok());
  }
  return accepted;
}

}  // namespace

constinit const Target kCompletionBody = {"completion_body", seeds, run};

}  // namespace airlock::fuzz
