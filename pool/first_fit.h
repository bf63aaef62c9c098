#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/check.h"

namespace airlock {

/// Divides ranges of numbers (bytes of a lease, slots of a pool): each request gets the lowest free
/// run that is long enough, and what comes back joins its neighbours. Knows free runs only, and
/// touches none of what it divides. give() needs no memory: a destructor may call it. One thread.
class FirstFit {
 public:
  /// All requests are rounded up to multiples of `unit`; so must be what is added.
  explicit FirstFit(std::uint64_t unit) : unit_(unit) {}

  /// One more range to divide; meets none that is there (CHECKed). Ranges that touch are one.
  void add(std::uint64_t begin, std::uint64_t length) {
    make_spare();
    put(begin, length);
  }
  /// The begin of `length` (rounded up; more than 0) from the lowest run that has so much; nullopt:
  /// none has.
  std::optional<std::uint64_t> take(std::uint64_t length);
  /// Gives back what take() gave, with the same length; what is free already is our bug (CHECKed).
  void give(std::uint64_t begin, std::uint64_t length) {
    CHECK(taken_count_ > 0);
    --taken_count_;
    put(begin, round_up(length));
  }

  std::uint64_t free_length() const { return free_length_; }
  /// The longest that take() could give now.
  std::uint64_t longest_run() const;

 private:
  std::uint64_t round_up(std::uint64_t length) const {
    return (length + unit_ - 1) / unit_ * unit_;
  }
  void put(std::uint64_t begin, std::uint64_t length);
  void make_spare();

  using Runs = std::map<std::uint64_t, std::uint64_t>;
  const std::uint64_t unit_;
  Runs runs_;  // free: begin and length, none next to another
  /// For runs to come: what was taken may come back as one run each.
  std::vector<Runs::node_type> spare_;
  std::size_t node_count_ = 0;  // in runs_ and spare_
  std::size_t taken_count_ = 0;
  std::uint64_t free_length_ = 0;
};

}  // namespace airlock
