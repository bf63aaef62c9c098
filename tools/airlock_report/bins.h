#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/enum.h"
#include "proto/path.h"
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
/// whatever its end. One thread.
class Bins {
 public:
  /// `most` is at least 1.
  explicit Bins(std::size_t most);
  /// The interval that holds `position`. The reference lives until the next call.
  Bin& at(std::uint64_t position);
  /// An op from `begin` to `end`.
  void add(std::uint64_t begin, std::uint64_t end, const TraceRecord& record);

  /// Of one interval: a power of two.
  std::uint64_t width() const { return std::uint64_t{1} << width_log2_; }
  const std::vector<Bin>& bins() const { return bins_; }

 private:
  std::size_t most_;
  unsigned width_log2_ = 0;
  std::vector<Bin> bins_;
};

}  // namespace airlock::report
