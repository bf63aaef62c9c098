#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "base/enum.h"
#include "base/saturating.h"

/// What all structs of counters have in common. Each is a template on its cell: with a Counter it
/// is what the program adds to, with a std::uint64_t its snapshot, a plain value to be kept and
/// merged. Each lists its members once,
///
///   static void visit(each, stats...)    each(key, stats.member...) for every member,
///
/// where a member is a cell, a histogram or another such struct; PerValue is one too. Merging,
/// snapshots, the check of what a file holds, JSON and reading it back follow from that list.
namespace airlock {

/// Relaxed: it orders nothing else. One thread adds, any thread reads; it only grows.
using Counter = std::atomic<std::uint64_t>;

/// Adds what `from` counted. A sum of snapshots stops at the largest number.
inline void merge(std::uint64_t& to, std::uint64_t from) { to = add_saturating(to, from); }
inline void merge(Counter& to, std::uint64_t from) {
  if (from != 0) to.fetch_add(from, std::memory_order_relaxed);
}
/// The same for a struct: by its own merge(), where it has one, else member by member.
template <typename To, typename From>
requires std::is_class_v<From>
void merge(To& to, const From& from) {
  if constexpr (std::is_same_v<From, Counter>) {
    merge(to, from.load(std::memory_order_relaxed));
  } else if constexpr (requires { to.merge(from); }) {
    to.merge(from);
  } else {
    To::visit([](std::string_view, auto& a, const auto& b) { merge(a, b); }, to, from);
  }
}

/// All that a table's values counted.
template <typename E, typename Stats>
Stats sum_of(const PerValue<E, Stats>& table) {
  Stats sum;
  for (const Stats& stats : table) merge(sum, stats);
  return sum;
}

template <typename E, template <typename> class Of>
auto snapshot_of(const PerValue<E, Of<Counter>>& stats) {
  PerValue<E, Of<std::uint64_t>> snapshot;
  merge(snapshot, stats);
  return snapshot;
}

}  // namespace airlock
