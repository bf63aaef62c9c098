#include "tee_runner/serve/serve_metrics.h"

#include <fmt/format.h>

namespace airlock {
namespace {

void append_head(std::string& text, std::string_view name, std::string_view type,
                 std::string_view help) {
  text += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void append_one(std::string& text, std::string_view name, std::string_view type,
                std::string_view help, std::uint64_t value) {
  append_head(text, name, type, help);
  text += fmt::format("{} {}\n", name, value);
}

}  // namespace

void DurationHistogram::add(std::uint64_t ns) {
  ++count_;
  sum_ns_ += ns;
  for (std::size_t i = 0; i < kBounds_s.size(); ++i)
    counts_[i] += static_cast<double>(ns) <= kBounds_s[i] * 1e9 ? 1 : 0;
}

void DurationHistogram::append(std::string& text, std::string_view name,
                               std::string_view help) const {
  append_head(text, name, "histogram", help);
  for (std::size_t i = 0; i < kBounds_s.size(); ++i)
    text += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, kBounds_s[i], counts_[i]);
  text += fmt::format("{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", name, count_, name,
                      static_cast<double>(sum_ns_) / 1e9, name, count_);
}

void ServeMetrics::count_answer(const Usage& usage, std::uint64_t ttft_ns,
                                std::uint64_t duration_ns) {
  tokens_.prompt_tokens += usage.prompt_tokens;
  tokens_.cached_tokens += usage.cached_tokens;
  tokens_.completion_tokens += usage.completion_tokens;
  if (ttft_ns > 0) ttft_.add(ttft_ns);
  duration_.add(duration_ns);
}

std::string ServeMetrics::text(const Now& now) const {
  std::string text;
  append_head(text, "airlock_serve_requests_total", "counter", "Requests, by path and status.");
  for (const auto& [key, count] : requests_) {
    text += fmt::format("airlock_serve_requests_total{{path=\"{}\",status=\"{}\"}} {}\n",
                        name_of(key.first), key.second, count);
  }
  append_head(text, "airlock_serve_cancelled_total", "counter",
              "Answers that ended before their time, by cause.");
  for (const CancelCause cause : kValuesOf<CancelCause>) {
    text += fmt::format("airlock_serve_cancelled_total{{cause=\"{}\"}} {}\n", name_of(cause),
                        cancelled_[cause]);
  }
  append_one(text, "airlock_serve_connections_total", "counter", "Connections taken.",
             connections_);
  append_one(text, "airlock_serve_connections_refused_total", "counter",
             "Connections for which there was no room.", refused_connections_);
  append_one(text, "airlock_serve_connections", "gauge", "Connections now.", now.connections);
  append_one(text, "airlock_serve_answers", "gauge", "Requests that are being answered.",
             now.answers);
  append_one(text, "airlock_serve_ready", "gauge", "1 where prompts would be answered now.",
             now.ready ? 1 : 0);
  append_one(text, "airlock_serve_prompt_tokens_total", "counter", "Tokens of prompts.",
             tokens_.prompt_tokens);
  append_one(text, "airlock_serve_cached_prompt_tokens_total", "counter",
             "Of these, the ones whose keys and values were there already.", tokens_.cached_tokens);
  append_one(text, "airlock_serve_completion_tokens_total", "counter", "Tokens of answers.",
             tokens_.completion_tokens);
  ttft_.append(text, "airlock_serve_ttft_seconds",
               "From a request's place in the engine to its first token.");
  duration_.append(text, "airlock_serve_answer_seconds", "From a request's head to its end.");
  return text;
}

}  // namespace airlock
