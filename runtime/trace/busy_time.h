#pragma once

#include <cstdint>
#include <optional>

#include "runtime/trace/trace.h"

namespace airlock {

/// The union of spans of time that come in order of their starts. Of others it is at least never
/// more than what they cover from the first to the last.
class BusyTime {
 public:
  void begin(std::uint64_t at_ns);  // once, before the first add()
  void add(std::uint64_t start_ns, std::uint64_t end_ns);
  bool begun() const { return begun_; }
  bool in_order() const { return in_order_; }
  std::uint64_t wall_ns() const { return last_ns_ - first_ns_; }
  /// Of the span that ended last.
  std::uint64_t end_ns() const { return last_ns_; }
  std::uint64_t busy_ns() const { return busy_ns_; }

 private:
  bool begun_ = false;
  bool in_order_ = true;
  std::uint64_t first_ns_ = 0;
  std::uint64_t last_ns_ = 0;
  std::uint64_t start_ns_ = 0;  // of the last span
  std::uint64_t busy_ns_ = 0;
};

/// Time of the TEE between a trace's ops, in which none of those in `ops` was under way. `wall_ns`
/// is the header's, where `ops` are all of the trace; nullopt: only what lies between the first
/// and the last of them is asked for, which a recording alone tells (an import lays its ops out
/// itself). nullopt where it is not known: a synthesised trace has no times, and of ops that are
/// out of order, or longer than the wall, nothing can be said.
std::optional<std::uint64_t> between_ops_ns(TraceSource source, const BusyTime& ops,
                                            std::optional<std::uint64_t> wall_ns);

}  // namespace airlock
