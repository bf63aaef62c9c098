#include "tee_runner/serve/serve_metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

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

/// Upper edges in seconds, as Prometheus has them; the sum is of edges, at most 12.5 % too much.
void append_itl(std::string& text, const HistogramSnapshot& times) {
  constexpr std::array kBounds_s = {0.003, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 1.0, 3.0};
  constexpr std::string_view kName = "airlock_serve_itl_seconds";
  append_head(text, kName, "histogram", "From token to token of an answer, in the engine.");
  const auto buckets = times.buckets();
  std::uint64_t count = 0;
  double sum_s = 0;
  std::size_t next = 0;
  const auto take_up_to = [&](double bound_s) {
    for (; next < buckets.size(); ++next) {
      const auto& [edge_ns, in_bucket] = buckets[next];
      const double edge_s = static_cast<double>(edge_ns) / 1e9;
      if (edge_s > bound_s) return;
      count += in_bucket;
      sum_s += edge_s * static_cast<double>(in_bucket);
    }
  };
  for (const double bound_s : kBounds_s) {
    take_up_to(bound_s);
    text += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", kName, bound_s, count);
  }
  take_up_to(std::numeric_limits<double>::infinity());
  text += fmt::format("{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", kName, count, kName,
                      sum_s, kName, count);
}

void append_engine(std::string& text, const EngineFigures& engine) {
  append_one(text, "airlock_serve_sequences", "gauge", "Answers under way in the engine.",
             engine.active);
  append_one(text, "airlock_serve_sequences_limit", "gauge", "Of them at most (--max-sequences).",
             engine.max_active);
  append_one(text, "airlock_serve_free_sequences", "gauge", "What is left of that.",
             engine.max_active - std::min(engine.max_active, engine.active));
  append_one(text, "airlock_serve_queued", "gauge", "Prompts that wait for their turn.",
             engine.queued);
  append_one(text, "airlock_serve_queue_limit", "gauge", "Of them at most (--max-queue).",
             engine.max_queued);
  append_head(text, "airlock_serve_oldest_wait_seconds", "gauge",
              "How long the oldest of them has waited; 0 without one.");
  text += fmt::format("airlock_serve_oldest_wait_seconds {}\n",
                      static_cast<double>(engine.oldest_wait_ns) / 1e9);
  append_one(text, "airlock_serve_engine_prompt_tokens_total", "counter",
             "Tokens of prompts whose turn came, those of answers under way included.",
             engine.text.prompt_tokens);
  append_one(text, "airlock_serve_engine_generated_tokens_total", "counter",
             "Tokens as they are chosen, those of answers under way included.",
             engine.text.generated_tokens);
  append_one(text, "airlock_serve_kept_prefixes", "gauge",
             "Answers whose keys and values are kept for a next turn.", engine.kept);
  append_one(text, "airlock_serve_cache_bytes", "gauge", "Keys and values, those kept included.",
             engine.cache_used_bytes);
  append_one(text, "airlock_serve_cache_limit_bytes", "gauge", "What they may take.",
             engine.cache_limit_bytes);
  append_itl(text, engine.text.itl_ns);
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
  append_one(text, "airlock_serve_draining", "gauge",
             "1 once a signal has asked for the end, or the engine has given up.",
             now.leaving ? 1 : 0);
  append_one(text, "airlock_serve_prompt_tokens_total", "counter", "Tokens of prompts.",
             tokens_.prompt_tokens);
  append_one(text, "airlock_serve_cached_prompt_tokens_total", "counter",
             "Of these, the ones whose keys and values were there already.", tokens_.cached_tokens);
  append_one(text, "airlock_serve_completion_tokens_total", "counter", "Tokens of answers.",
             tokens_.completion_tokens);
  ttft_.append(text, "airlock_serve_ttft_seconds",
               "From a request's place in the engine to its first token.");
  append_engine(text, now.engine);
  duration_.append(text, "airlock_serve_answer_seconds", "From a request's head to its end.");
  return text;
}

}  // namespace airlock
