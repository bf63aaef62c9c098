#include "runtime/channel/routed_channel.h"

#include <optional>
#include <utility>

namespace airlock {
namespace {

/// How often one carrier is looked at while a message is half sent on another.
constexpr std::chrono::milliseconds kBusySlice{1};

/// A message's places on each path that it uses.
template <typename Byte>
using PlacesByPath = PerValue<Path, std::unique_ptr<Places<Byte>>>;

class RoutedMessage final : public Message {
 public:
  explicit RoutedMessage(const MessagePlan& plan) : plan_(plan) {}

  const MessagePlan& plan() const override { return plan_; }
  std::span<std::byte> tensor(std::size_t index) override {
    return loans[plan_.planned[index].path]->places[index];
  }

  bool published() const override { return published_; }
  void set_published() { published_ = true; }

  PlacesByPath<std::byte> loans;

 private:
  const MessagePlan plan_;
  bool published_ = false;
};

class RoutedReceived final : public ReceivedMessage {
 public:
  explicit RoutedReceived(std::vector<std::byte> header) : header_(std::move(header)) {}

  const MessagePlan& plan() const override { return *accepted; }
  std::span<const std::byte> header() const override { return header_; }
  std::span<const std::byte> tensor(std::size_t index) const override {
    return leases[accepted->planned[index].path]->places[index];
  }

  std::optional<MessagePlan> accepted;
  PlacesByPath<const std::byte> leases;

 private:
  const std::vector<std::byte> header_;
};

class RoutedChannel final : public Channel {
 public:
  using Channel::receive;

  explicit RoutedChannel(RoutedChannelOptions options)
      : policy_(options.policy),
        counts_(!options.awaits_limit),
        stats_(options.stats != nullptr ? *options.stats : own_stats_),
        watch_(options.watch),
        carriers_(std::move(options.carriers)) {
    CHECK(carriers_[Path::kZmq] != nullptr);
    CHECK(policy_.has_ring == (carriers_[Path::kRing] != nullptr));
    CHECK(policy_.has_pool == (carriers_[Path::kPool] != nullptr));
  }

  Result<std::unique_ptr<Message>> claim(const MessagePlan& plan, Deadline deadline) override {
    RETURN_IF_ERROR(fault_);
    auto message = std::make_unique<RoutedMessage>(plan);
    for (const Path path : kPaths) {
      if (!plan.uses(path)) continue;
      const auto claim = [&](Deadline slice) -> Status {
        ASSIGN_OR_RETURN(message->loans[path], carriers_[path]->claim(plan, slice));
        return {};
      };
      Status claimed = wait_on(path, deadline, claim);
      if (claimed.code() == StatusCode::kResourceExhausted) return claimed;
      RETURN_IF_ERROR(note(path, std::move(claimed)));
    }
    return std::unique_ptr<Message>(std::move(message));
  }

  Status send(Message& message, std::span<const std::byte> header, Deadline deadline) override {
    RETURN_IF_ERROR(fault_);
    auto& ours = static_cast<RoutedMessage&>(message);  // every Message of this channel is one
    if (!ours.published()) {
      RETURN_IF_ERROR(finish_send(deadline));  // a message that was dropped half sent has to leave
      RETURN_IF_ERROR(publish(ours, header));
    }
    return finish_send(deadline);
  }

  Result<std::unique_ptr<ReceivedMessage>> receive(const AcceptPlan& accept,
                                                   Deadline deadline) override {
    RETURN_IF_ERROR(fault_);
    if (arriving_ == nullptr) RETURN_IF_ERROR(receive_header(deadline));
    const auto accepted = accept(arriving_->header());
    if (!accepted.ok()) return fail(policy_.header_path(), accepted.status());
    if (!arriving_->accepted) arriving_->accepted = *accepted;
    const MessagePlan& plan = arriving_->plan();
    for (const Path path : kPaths) {
      std::unique_ptr<Lease>& lease = arriving_->leases[path];
      if (!plan.uses(path) || lease != nullptr) continue;
      const auto take = [&](Deadline slice) -> Status {
        ASSIGN_OR_RETURN(lease, carriers_[path]->receive_tensors(plan, next_receive_, slice));
        return {};
      };
      RETURN_IF_ERROR(note(path, wait_on(path, deadline, take)));
    }
    ++next_receive_;
    if (counts_) stats_.book_received(plan);
    return std::unique_ptr<ReceivedMessage>(std::move(arriving_));
  }

  const PathPolicy& policy() const override { return policy_; }
  void agree(std::size_t limit_bytes) override {
    CHECK(!counts_ && arriving_ == nullptr);
    policy_.limit_bytes = limit_bytes;
    counts_ = true;
    for (const Path path : kPaths) {
      if (carriers_[path] == nullptr) continue;
      uncounted_[path] = carriers_[path]->counters();
      show_waits(path);
    }
  }
  std::size_t slots_in_use() const override {
    std::size_t count = 0;
    for (const auto& carrier : carriers_) count += carrier ? carrier->slots_in_use() : 0;
    return count;
  }
  TransportStats& stats() override { return stats_; }

 private:
  /// Ends the channel. Counted as an error of `path`, except where the peer left or shutdown was
  /// asked for: every clean session ends so.
  Status fail(Path path, Status status) {
    if (!fault_.ok()) return fault_;
    if (status.code() == StatusCode::kProtocolError && watch_ != nullptr) {
      if (Status gone = watch_->check(); !gone.ok()) status = std::move(gone);
    }
    fault_ = std::move(status);
    if (fault_.code() != StatusCode::kCancelled && fault_.code() != StatusCode::kUnavailable) {
      stats_[path].errors.fetch_add(1, std::memory_order_relaxed);
    }
    return fault_;
  }

  void show_waits(Path path) {
    if (!counts_) return;
    const WaitCounters counters = carriers_[path]->counters();
    const WaitCounters& before = uncounted_[path];
    PathStats& stats = stats_[path];
    stats.spins.store(counters.spins - before.spins, std::memory_order_relaxed);
    stats.parks.store(counters.parks - before.parks, std::memory_order_relaxed);
    stats.slot_waits.store(counters.slot_waits - before.slot_waits, std::memory_order_relaxed);
  }

  /// After each step on a carrier: what is no ordinary flow ends the channel.
  Status note(Path path, Status status) {
    show_waits(path);
    const StatusCode code = status.code();
    const bool ordinary = code == StatusCode::kOk || code == StatusCode::kBusy ||
                          code == StatusCode::kDeadlineExceeded;
    return ordinary ? std::move(status) : fail(path, std::move(status));
  }

  /// kBusy: something is half sent still.
  Status finish_send(Deadline deadline) {
    for (const Path path : kPaths) {
      Carrier* const carrier = carriers_[path].get();
      if (carrier == nullptr || !carrier->sending()) continue;
      RETURN_IF_ERROR(note(path, carrier->finish_send(deadline)));
    }
    return {};
  }

  /// Runs `step`, which may wait until the deadline that it is given, on the carrier of `path`.
  /// While something is half sent on another carrier, that goes on leaving instead: no carrier
  /// waits for ever for a peer that waits for the rest.
  template <typename Step>
  Status wait_on(Path path, Deadline deadline, const Step& step) {
    for (;;) {
      bool alone = true;
      for (const Path other : kPaths) {
        alone = alone && (other == path || !carriers_[other] || !carriers_[other]->sending());
      }
      Status status = step(alone ? deadline : Deadline::now());
      const bool not_yet =
          status.code() == StatusCode::kBusy || status.code() == StatusCode::kDeadlineExceeded;
      if (!not_yet || alone || deadline.expired()) return status;
      const Status sent = finish_send(deadline.slice(kBusySlice));
      if (!sent.ok() && sent.code() != StatusCode::kBusy) return sent;
    }
  }

  /// The fastest path first: the header leaves before the rest, so that the peer makes room for it.
  Status publish(RoutedMessage& message, std::span<const std::byte> header) {
    CHECK(header.size() <= limits::kMaxEncodedHeaderBytes);
    const MessagePlan& plan = message.plan();
    const std::uint64_t sequence = next_send_++;
    // Whether what lies in the pool is whole, before anybody hears of it.
    if (plan.uses(Path::kPool)) {
      RETURN_IF_ERROR(note(
          Path::kPool, carriers_[Path::kPool]->publish(*message.loans[Path::kPool], sequence, {})));
    }
    for (const Path path : kPaths) {
      if (!plan.uses(path) || path == Path::kPool) continue;
      const auto part = path == plan.header_path ? header : std::span<const std::byte>();
      RETURN_IF_ERROR(note(path, carriers_[path]->publish(*message.loans[path], sequence, part)));
    }
    message.set_published();
    if (counts_) stats_.book_sent(plan);
    return {};
  }

  /// The header's arrival. What came in part stays in arriving_.
  Status receive_header(Deadline deadline) {
    const Path path = policy_.header_path();
    std::vector<std::byte> header;
    const auto take = [&](Deadline slice) -> Status {
      ASSIGN_OR_RETURN(header, carriers_[path]->receive_header(next_receive_, slice));
      return {};
    };
    RETURN_IF_ERROR(note(path, wait_on(path, deadline, take)));
    if (header.size() > limits::kMaxEncodedHeaderBytes) {
      return fail(
          path, {StatusCode::kProtocolError, "a message's header has {} bytes, expected at most {}",
                 header.size(), limits::kMaxEncodedHeaderBytes});
    }
    arriving_ = std::make_unique<RoutedReceived>(std::move(header));
    return {};
  }

  PathPolicy policy_;
  bool counts_;
  PerValue<Path, WaitCounters> uncounted_;  // of the time before agree()
  TransportStats own_stats_;                // counted where nobody gave a place
  TransportStats& stats_;
  const PeerWatch* const watch_;
  PerValue<Path, std::unique_ptr<Carrier>> carriers_;
  /// Why the channel ended; every later call returns it.
  Status fault_;
  std::uint64_t next_send_ = 0;
  std::uint64_t next_receive_ = 0;
  std::unique_ptr<RoutedReceived> arriving_;  // a message that is not complete
};

}  // namespace

std::unique_ptr<Channel> make_routed_channel(RoutedChannelOptions options) {
  return std::make_unique<RoutedChannel>(std::move(options));
}

}  // namespace airlock
