#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/enum.h"
#include "proto/path.h"
#include "runtime/stats/counters.h"
#include "runtime/trace/passes.h"
#include "runtime/trace/trace.h"

namespace airlock::report {

/// What went on in one interval.
struct Bin {
  // Inputs count at the submit, outputs at the checked reply.
  PerValue<Path, std::uint64_t> bytes;
  // Submitted.
  std::uint64_t ops = 0;
  // Ring slots in use at any of these submits.
  std::uint64_t slots_most = 0;
  void merge(const Bin& other);
  bool operator==(const Bin&) const = default;
};

/// Equal intervals from 0 on, as many as are needed and never more than `most`: where a position
/// lies beyond, neighbours are merged and the width doubles. So a stream of any length fits,
/// whatever its end. A Bin is what merge() of runtime/stats/counters.h adds up. One thread.
template <typename Bin>
class BinsOf {
 public:
  /// `most` is at least 1.
  explicit BinsOf(std::size_t most) : most_(std::max<std::size_t>(most, 1)) {}
  /// The interval that holds `position`. The reference lives until the next call.
  Bin& at(std::uint64_t position) {
    while ((position >> width_log2_) >= most_) {
      // The last of an odd number is merged with an empty one.
      bins_.resize((bins_.size() + 1) / 2 * 2);
      for (std::size_t i = 0; i < bins_.size() / 2; ++i) {
        bins_[i] = bins_[2 * i];
        airlock::merge(bins_[i], bins_[2 * i + 1]);
      }
      bins_.resize(bins_.size() / 2);
      ++width_log2_;
    }
    const auto index = static_cast<std::size_t>(position >> width_log2_);
    if (index >= bins_.size()) bins_.resize(index + 1);
    return bins_[index];
  }

  /// Of one interval: a power of two.
  std::uint64_t width() const { return std::uint64_t{1} << width_log2_; }
  const std::vector<Bin>& bins() const { return bins_; }

 private:
  std::size_t most_;
  unsigned width_log2_ = 0;
  std::vector<Bin> bins_;
};

/// What went on, over time or over the ops' numbers. One thread.
class Bins : public BinsOf<Bin> {
 public:
  using BinsOf<Bin>::BinsOf;
  /// An op from `begin` to `end`.
  void add(std::uint64_t begin, std::uint64_t end, const TraceRecord& record);
};

/// The passes of one kind in their order, in one column each while they are few. One thread.
class PassBins : public BinsOf<PassSums> {
 public:
  using BinsOf<PassSums>::BinsOf;
  /// The next one.
  void add(const PassSums& pass) { merge(at(next_++), pass); }

 private:
  std::uint64_t next_ = 0;
};

}  // namespace airlock::report
