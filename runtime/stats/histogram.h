#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace airlock {

inline constexpr std::size_t kHistogramBucketCount = 496;  // values up to 2^64 - 1

/// The percentiles that files and pages name, with their shares.
inline constexpr std::array<std::pair<std::string_view, double>, 3> kPercentiles = {
    {{"p50", 0.50}, {"p90", 0.90}, {"p99", 0.99}}};

/// A Histogram at one moment: a plain value, to be kept and merged.
struct HistogramSnapshot {
  std::array<std::uint64_t, kHistogramBucketCount> counts{};
  std::uint64_t max = 0;

  void record(std::uint64_t value);
  void merge(const HistogramSnapshot& other);
  std::uint64_t count() const;
  /// As Histogram's.
  std::uint64_t percentile(double share) const;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> buckets() const;
  /// The reverse, bucket by bucket, under a `max` that was set before. False where `upper` is no
  /// bucket's upper edge, or the bucket is not above those that are filled, or it is above max's.
  bool append(std::uint64_t upper, std::uint64_t count);
  bool operator==(const HistogramSnapshot&) const = default;
};

/// Counts of durations in log-linear buckets (eight a power of two: error at most 12.5 %).
/// Histograms merge by adding counts; percentiles are never averaged. Any
/// thread records, any thread reads.
class Histogram {
 public:
  static constexpr std::size_t kBucketCount = kHistogramBucketCount;

  void record(std::uint64_t value);
  void merge(const Histogram& other) { merge(other.snapshot()); }
  void merge(const HistogramSnapshot& other);
  std::uint64_t count() const { return snapshot().count(); }
  std::uint64_t max() const { return max_.load(std::memory_order_relaxed); }
  /// Upper edge of the bucket that holds the given share (0..1] of the values, at most max(); 0
  /// when empty.
  std::uint64_t percentile(double share) const { return snapshot().percentile(share); }
  /// (upper edge, count) of the buckets that are not empty, ascending.
  std::vector<std::pair<std::uint64_t, std::uint64_t>> buckets() const {
    return snapshot().buckets();
  }
  HistogramSnapshot snapshot() const;

 private:
  void raise_max(std::uint64_t value);

  // Relaxed throughout: counters that order nothing else.
  std::array<std::atomic<std::uint64_t>, kBucketCount> counts_{};
  std::atomic<std::uint64_t> max_{0};
};

}  // namespace airlock
