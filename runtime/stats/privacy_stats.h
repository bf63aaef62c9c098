#pragma once

#include <cstdint>

#include "runtime/stats/counters.h"

namespace airlock {

/// What a private mode did at the runner. A pad is one row of one linear's input. docs/STATS.md
/// defines each.
template <typename Cell>
struct PrivacyStatsOf {
  // Pads whose products were made, and those that hid a row; rows whose product was not there yet
  // when its op was submitted.
  Cell pads_made{};
  Cell pads_used{};
  Cell pads_late{};
  // Made, and wiped without a use.
  Cell pads_dropped{};
  // The most bytes that products took which were made before they were asked for.
  Cell reserve_peak_bytes{};
  // Making products of pads; rounding and hiding inputs; taking results in; checking them.
  Cell pad_ns{};
  Cell mask_ns{};
  Cell unmask_ns{};
  Cell verify_ns{};
  // Rows that were checked, and ops that failed their check.
  Cell checks{};
  Cell failures{};
  bool operator==(const PrivacyStatsOf&) const = default;
  static void visit(auto&& each, auto&... stats) {
    each("pads_made", stats.pads_made...);
    each("pads_used", stats.pads_used...);
    each("pads_late", stats.pads_late...);
    each("pads_dropped", stats.pads_dropped...);
    each("reserve_peak_bytes", stats.reserve_peak_bytes...);
    each("pad_ns", stats.pad_ns...);
    each("mask_ns", stats.mask_ns...);
    each("unmask_ns", stats.unmask_ns...);
    each("verify_ns", stats.verify_ns...);
    each("checks", stats.checks...);
    each("failures", stats.failures...);
  }
};
using PrivacyStats = PrivacyStatsOf<Counter>;
using PrivacySnapshot = PrivacyStatsOf<std::uint64_t>;

}  // namespace airlock
