#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "tools/airlock_xfer/host_buffer.h"
#include "tools/airlock_xfer/pair.h"
#include "tools/airlock_xfer/table.h"

namespace airlock::xfer {

/// Measures rows over one Pair. One thread; the pair outlives it.
///
/// An echo is timed from prepare() to the received reply: one copy from private memory into the
/// place where the tensor travels, its way, the peer's copy into the reply's place, and the way
/// back. A check reads the reply in place after the clock was stopped. In stream mode the peer
/// copies each tensor out before its small reply; checks are a pass of their own.
class Meter {
 public:
  Meter(Pair& pair, const Options& options) : pair_(pair), options_(options) {}

  /// A row that its path cannot carry has no `measured`. Errors: as the channels', and
  /// kDeadlineExceeded where the peer stalled.
  Result<Row> measure(PathAsked path, std::size_t bytes);

 private:
  struct Pass {
    Channel& channel;
    ControlPacket order;
    std::size_t bytes;
    std::uint64_t next_message = 0;
    std::uint64_t replies = 0;
    std::uint64_t replies_on_same_cpu = 0;

    void note_reply(std::uint32_t peer_cpu);
    double same_cpu_share() const {
      return static_cast<double>(replies_on_same_cpu) / static_cast<double>(replies);
    }
  };
  struct Times {
    std::vector<double> each_ns;
    double total_ns = 0;
  };

  Status start_size(std::size_t bytes);
  Result<Measured> measure_echo(ChannelKind kind);
  Result<Measured> measure_stream(ChannelKind kind);
  Result<Pass> begin_pass(ChannelKind kind, bool peer_check);
  Result<std::uint64_t> end_pass(Pass& pass);
  Result<std::uint64_t> echo_once(Pass& pass, std::uint64_t& wrong_bytes);
  Result<Times> stream(Pass& pass, std::uint64_t count, double max_seconds);
  Status post(Pass& pass, Message& message, std::deque<std::uint64_t>& started_ns, Times& times);
  Status take_reply(Pass& pass, std::deque<std::uint64_t>& started_ns, Times& times,
                    Deadline deadline);

  Pair& pair_;
  const Options& options_;
  HostBuffer source_;  // of the size under way
  double memcpy_ns_ = 0;
  std::uint64_t row_ = 0;
  std::uint64_t written_ = 0;  // tensors that this process sent in stream mode
};

/// The median time of a memcpy from `source` to warm memory. kResourceExhausted: no memory.
Result<double> memcpy_ns(std::span<const std::byte> source);

}  // namespace airlock::xfer
