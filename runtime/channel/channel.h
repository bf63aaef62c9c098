#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "proto/path.h"
#include "runtime/stats/transport_stats.h"

namespace airlock {

/// A message being written: a loan of the places where its tensors will travel. Destroying it
/// unsent aborts it and frees the places. One thread; must not outlive its channel.
class Message {
 public:
  virtual ~Message() = default;
  /// What prepare() made of the sizes.
  virtual const MessagePlan& plan() const = 0;
  /// Where tensor `index` travels, 64-byte aligned, of exactly the size that was asked for. Valid
  /// until send(); a place in a pool is the session's, for as long as the runner keeps it.
  virtual std::span<std::byte> tensor(std::size_t index) = 0;
  /// send() has begun to hand it over: it leaves whole, whatever becomes of this object, and is
  /// answered.
  virtual bool published() const = 0;
};

/// A message that came: a lease. Destroying it frees the slots and buffers. One thread; must not
/// outlive its channel.
class ReceivedMessage {
 public:
  virtual ~ReceivedMessage() = default;
  /// What follows from the sizes that Accept gave.
  virtual const MessagePlan& plan() const = 0;
  /// Private copy: the peer cannot change it any more.
  virtual std::span<const std::byte> header() const = 0;
  /// In place. In a ring slot and in the pool the peer CAN still change the bytes: read each once,
  /// and verify only private copies.
  virtual std::span<const std::byte> tensor(std::size_t index) const = 0;

  std::size_t tensor_count() const { return plan().tensor_count; }
};

/// Looks at the header of an arriving message, before memory is given to it, and plans it: the
/// sizes of its tensors and, where the session has a pool, their places. Not ok: the message is
/// refused, receive() returns this status and the session is over. It may be asked again about the
/// same header, and answers the same.
using AcceptPlan = std::function<Result<MessagePlan>(std::span<const std::byte> header)>;
/// The same for messages that take no pool: how many bytes each tensor has.
using Accept = std::function<Result<std::vector<std::size_t>>(std::span<const std::byte> header)>;

/// Moves whole messages, in order, between two processes. One thread. After kProtocolError or
/// kUnavailable the channel is poisoned: every later call returns that status.
class Channel {
 public:
  virtual ~Channel() = default;

  /// A loan for a message of this plan (plan_message() with policy(), and place_in_pool()). kBusy:
  /// no slot came free by the deadline (the peer is slow: ordinary). kResourceExhausted: no memory.
  /// Neither harms the channel. Several messages may be prepared at once, and sent in any order.
  virtual Result<std::unique_ptr<Message>> claim(const MessagePlan& plan, Deadline deadline) = 0;
  /// The same for tensors of these sizes, none of them in a pool.
  Result<std::unique_ptr<Message>> prepare(std::span<const std::size_t> tensor_bytes,
                                           Deadline deadline);
  /// Publishes. `header` is at most limits::kMaxEncodedHeaderBytes and implies the tensors' sizes.
  /// kBusy: not everything could be handed over by the deadline; receive what comes, then call
  /// again with the same arguments until ok. Never send another message in between.
  virtual Status send(Message& message, std::span<const std::byte> header, Deadline deadline) = 0;
  /// The next message. kDeadlineExceeded: none came (ordinary); one that came in part goes on in
  /// the next call, which asks its own Accept. Where leases already hold half of the ring's slots,
  /// the message is copied out and its slots are freed at once.
  virtual Result<std::unique_ptr<ReceivedMessage>> receive(const AcceptPlan& accept,
                                                           Deadline deadline) = 0;
  Result<std::unique_ptr<ReceivedMessage>> receive(const Accept& accept, Deadline deadline);

  virtual const PathPolicy& policy() const = 0;
  /// Where the path limit was to be found (RoutedChannelOptions): from here on it is this one, and
  /// messages are counted. Nothing may be under way.
  virtual void agree(std::size_t limit_bytes) = 0;
  /// Slots of the outgoing ring that are not free: claimed, or not yet given back by the peer; 0
  /// without a ring.
  virtual std::size_t slots_in_use() const = 0;
  /// What this end counted; readable from any thread while the channel lives.
  virtual TransportStats& stats() = 0;
};

/// Whether the peer is alive, as far as a thread that watches for it knows. Thread-safe. Carriers
/// ask in each slice of a wait (shm/wait.h), so a dead peer or a shutdown ends every wait soon.
class PeerWatch {
 public:
  virtual ~PeerWatch() = default;
  /// ok, or kUnavailable / kCancelled with what happened.
  virtual Status check() const = 0;
};

}  // namespace airlock
