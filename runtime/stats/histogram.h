#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/stats/counters.h"

namespace airlock {

inline constexpr std::size_t kHistogramBucketCount = 496;  // values up to 2^64 - 1

/// The percentiles that files and pages name, with their shares.
inline constexpr std::array<std::pair<std::string_view, double>, 3> kPercentiles = {
    {{"p50", 0.50}, {"p90", 0.90}, {"p99", 0.99}}};

/// Counts of durations in log-linear buckets (eight a power of two: error at most 12.5 %).
/// Histograms merge by adding counts; percentiles are never averaged. With Counters any thread
/// records and any thread takes snapshots; a snapshot is a plain value.
template <typename Cell>
struct HistogramOf {
  std::array<Cell, kHistogramBucketCount> counts{};
  Cell max{};

  void record(std::uint64_t value);
  void merge(const HistogramOf<std::uint64_t>& other);
  void merge(const HistogramOf<Counter>& other) { merge(other.snapshot()); }
  HistogramOf<std::uint64_t> snapshot() const;
  // Of a snapshot: with Counters each bucket is read at a time of its own.
  std::uint64_t count() const;
  /// Upper edge of the bucket that holds the given share (0..1] of the values, at most max; 0 when
  /// empty.
  std::uint64_t percentile(double share) const;
  /// (upper edge, count) of the buckets that are not empty, ascending.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> buckets() const;
  /// The reverse, bucket by bucket, under a `max` that was set before. False where `upper` is no
  /// bucket's upper edge, or the bucket is not above those that are filled, or it is above max's.
  bool append(std::uint64_t upper, std::uint64_t count);
  bool operator==(const HistogramOf&) const = default;
};

using Histogram = HistogramOf<Counter>;
using HistogramSnapshot = HistogramOf<std::uint64_t>;

}  // namespace airlock
