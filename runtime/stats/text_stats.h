#pragma once

#include <cstdint>

#include "runtime/stats/counters.h"
#include "runtime/stats/histogram.h"

namespace airlock {

/// What a program that writes text counted. docs/STATS.md defines each.
template <typename Cell>
struct TextStatsOf {
  // Of the prompts that were taken; and those of them whose keys and values were there already.
  Cell prompt_tokens{};
  Cell cached_tokens{};
  Cell generated_tokens{};
  // Answers that began, and that ended.
  Cell begun{};
  Cell finished{};
  // The most that keys and values took at one time, those kept for a next turn included.
  Cell cache_peak_bytes{};
  // From a prompt's arrival to its first token, and from token to token.
  HistogramOf<Cell> ttft_ns{};
  HistogramOf<Cell> itl_ns{};
  bool operator==(const TextStatsOf&) const = default;
  static void visit(auto&& each, auto&... stats) {
    each("prompt_tokens", stats.prompt_tokens...);
    each("cached_tokens", stats.cached_tokens...);
    each("generated_tokens", stats.generated_tokens...);
    each("begun", stats.begun...);
    each("finished", stats.finished...);
    each("cache_peak_bytes", stats.cache_peak_bytes...);
    each("ttft_ns", stats.ttft_ns...);
    each("itl_ns", stats.itl_ns...);
  }
};
using TextStats = TextStatsOf<Counter>;
using TextSnapshot = TextStatsOf<std::uint64_t>;

}  // namespace airlock
