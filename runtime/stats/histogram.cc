#include "runtime/stats/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace airlock {
namespace {

// Below 8 a bucket a value; from there eight buckets for each power of two.
std::size_t bucket_of(std::uint64_t value) {
  if (value < 8) return static_cast<std::size_t>(value);
  const auto exponent = static_cast<std::size_t>(std::bit_width(value)) - 1;
  return (exponent - 2) * 8 + static_cast<std::size_t>((value >> (exponent - 3)) & 7U);
}

std::uint64_t upper_edge(std::size_t bucket) {
  if (bucket < 8) return bucket;
  const std::size_t exponent = bucket / 8 + 2;
  // Of the last bucket the shift gives 2^64, which wraps to 0, and the edge 2^64 - 1.
  return ((static_cast<std::uint64_t>(bucket % 8) + 9) << (exponent - 3)) - 1;
}

void raise(std::uint64_t& to, std::uint64_t value) { to = std::max(to, value); }
void raise(Counter& to, std::uint64_t value) {
  std::uint64_t seen = to.load(std::memory_order_relaxed);
  while (seen < value && !to.compare_exchange_weak(seen, value, std::memory_order_relaxed)) {
  }
}

}  // namespace

// The greatest is written first and read last: a reader then finds no value above it, and a
// percentile is never 0 by accident.

template <typename Cell>
void HistogramOf<Cell>::record(std::uint64_t value) {
  raise(max, value);
  airlock::merge(counts[bucket_of(value)], 1);
}

template <typename Cell>
void HistogramOf<Cell>::merge(const HistogramSnapshot& other) {
  raise(max, other.max);
  for (std::size_t i = 0; i < counts.size(); ++i) airlock::merge(counts[i], other.counts[i]);
}

template <typename Cell>
HistogramSnapshot HistogramOf<Cell>::snapshot() const {
  HistogramSnapshot snapshot;
  for (std::size_t i = 0; i < counts.size(); ++i) airlock::merge(snapshot.counts[i], counts[i]);
  airlock::merge(snapshot.max, max);
  return snapshot;
}

template <typename Cell>
std::uint64_t HistogramOf<Cell>::count() const {
  return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0});
}

template <typename Cell>
std::uint64_t HistogramOf<Cell>::percentile(double share) const {
  const std::uint64_t total = count();
  if (total == 0) return 0;
  const double clamped = std::clamp(share, 0.0, 1.0);
  const double wanted = std::ceil(clamped * static_cast<double>(total));
  const auto rank = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(wanted), 1, total);
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    seen += counts[i];
    if (seen >= rank) return std::min<std::uint64_t>(upper_edge(i), max);
  }
  return max;
}

template <typename Cell>
std::vector<std::pair<std::uint64_t, std::uint64_t>> HistogramOf<Cell>::buckets() const {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> filled;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] != 0) filled.emplace_back(upper_edge(i), counts[i]);
  }
  return filled;
}

template <typename Cell>
bool HistogramOf<Cell>::append(std::uint64_t upper, std::uint64_t count) {
  const std::size_t bucket = bucket_of(upper);
  const bool in_the_way = std::any_of(counts.begin() + static_cast<std::ptrdiff_t>(bucket),
                                      counts.end(), [](std::uint64_t n) { return n != 0; });
  if (upper_edge(bucket) != upper || in_the_way || bucket > bucket_of(max)) return false;
  counts[bucket] = count;
  return true;
}

template struct HistogramOf<Counter>;
template struct HistogramOf<std::uint64_t>;

}  // namespace airlock
