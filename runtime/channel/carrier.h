#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "proto/limits.h"
#include "proto/path.h"
#include "shm/wait.h"

namespace airlock {

/// Where those tensors of one message lie that take one path; the others' places are empty. Each
/// carrier derives its own: destroying it gives the places back. One thread; must not outlive its
/// carrier.
template <typename Byte>
struct Places {
  virtual ~Places() = default;
  std::array<std::span<Byte>, limits::kMaxTensorsPerMessage> places{};
};
/// To be written into, of a message that was not published.
using Loan = Places<std::byte>;
/// To be read, of a message that came.
using Lease = Places<const std::byte>;

/// Carries the tensors that take one path, of all messages of a session in order, in both
/// directions, and the messages' headers where they take that path. `sequence` is the message's
/// number in its direction, from 0. One thread. Waits until the deadline at most; Deadline::now():
/// not at all.
///
/// Where a place is of the sender's choice, claim() may have none and say kBusy, and publish() and
/// receive_tensors() exchange which it was (docs/adr/0010).
class Carrier {
 public:
  virtual ~Carrier() = default;

  /// Places for those tensors of `plan` that take this path. kBusy: none came free in time;
  /// kResourceExhausted: no memory.
  virtual Result<std::unique_ptr<Loan>> claim(const MessagePlan& plan, Deadline deadline) = 0;
  /// Sends what was written into a loan of this carrier's; while nothing is half sent (CHECKed).
  /// `header` is empty where it takes another path. From here on it leaves, whatever becomes of the
  /// loan. Does not wait: finish_send() does.
  virtual Status publish(Loan& loan, std::uint64_t sequence, std::span<const std::byte> header) = 0;
  /// kBusy: something is half sent still. Where it waits to receive, a carrier goes on sending too.
  virtual Status finish_send(Deadline deadline) = 0;
  /// Whether something is half sent.
  virtual bool sending() const = 0;

  /// The next message's header, a private copy of at most limits::kHeaderBytes. kDeadlineExceeded:
  /// none came.
  virtual Result<std::vector<std::byte>> receive_header(std::uint64_t sequence,
                                                        Deadline deadline) = 0;
  /// The tensors of that message that take this path; memory is given to them here.
  /// kDeadlineExceeded: more is to come, call again with the same arguments. kProtocolError: what
  /// came is not what `plan` says.
  virtual Result<std::unique_ptr<Lease>> receive_tensors(const MessagePlan& plan,
                                                         std::uint64_t sequence,
                                                         Deadline deadline) = 0;

  /// Places of outgoing messages that are not free, where they are numbered; else 0.
  virtual std::size_t slots_in_use() const = 0;
  virtual WaitCounters counters() const = 0;
};

}  // namespace airlock
