#include "runtime/channel/local_channel.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/channel/buffer_pool.h"
#include "runtime/channel/bulk_transfer.h"
#include "runtime/channel/frame.h"
#include "runtime/channel/poison.h"

namespace airlock {
namespace {

/// How often the ring is looked at while a message is half sent on the socket.
constexpr std::chrono::milliseconds kBusySlice{1};

class LocalMessage final : public Message {
 public:
  LocalMessage(RingProducer& ring, std::vector<std::uint32_t> claimed)
      : ring_(ring), slots(std::move(claimed)) {}
  ~LocalMessage() override {
    if (!started) ring_.abort(slots);
  }

  std::span<std::byte> tensor(std::size_t index) override { return places[index]; }

 private:
  RingProducer& ring_;

 public:
  std::vector<std::uint32_t> slots;
  std::vector<std::size_t> slot_payload_bytes;  // one a slot
  std::vector<std::span<std::byte>> places;     // one a tensor
  std::vector<BulkTensor> bulk;
  std::vector<std::size_t> tensor_bytes;
  bool started = false;
};

class LocalReceived final : public ReceivedMessage {
 public:
  LocalReceived(RingConsumer& ring, FrameHeader frame) : ring_(ring), frame_(std::move(frame)) {}
  ~LocalReceived() override {
    for (const std::uint32_t slot : held_slots) ring_.release(slot);
  }

  std::span<const std::byte> header() const override { return frame_.rpc_header; }
  std::size_t tensor_count() const override { return places.size(); }
  std::span<const std::byte> tensor(std::size_t index) const override { return places[index]; }

  const FrameHeader& frame() const { return frame_; }

 private:
  RingConsumer& ring_;
  FrameHeader frame_;

 public:
  std::vector<std::uint32_t> held_slots;
  std::vector<std::span<const std::byte>> places;  // one a tensor
  std::vector<PooledBuffer> buffers;               // what places outside the ring point into
};

class LocalChannelImpl final : public Channel {
 public:
  explicit LocalChannelImpl(LocalChannelOptions options)
      : policy_{true, options.out_ring.slot_bytes(), options.out_ring.slot_count()},
        epoch_(options.epoch),
        stats_(options.stats != nullptr ? *options.stats : own_stats_),
        out_segment_(std::move(options.out_segment)),
        in_segment_(std::move(options.in_segment)),
        out_ring_(std::move(options.out_ring)),
        in_ring_(std::move(options.in_ring)),
        pool_(kBulkCacheBytes),
        bulk_({std::move(options.socket), std::move(options.peer_route), options.epoch, policy_,
               options.watch, &stats_, options.attached}) {
    CHECK(in_ring_.slot_bytes() == out_ring_.slot_bytes());
    CHECK(in_ring_.slot_count() == out_ring_.slot_count());
  }

  Result<std::unique_ptr<Message>> prepare(std::span<const std::size_t> tensor_bytes,
                                           Deadline deadline) override;
  Status send(Message& message, std::span<const std::byte> header, Deadline deadline) override;
  Result<std::unique_ptr<ReceivedMessage>> receive(const Accept& accept,
                                                   Deadline deadline) override;
  const PathPolicy& policy() const override { return policy_; }
  std::size_t slots_in_use() const override { return out_ring_.slots_in_use(); }
  TransportStats& stats() override { return stats_; }

 private:
  Result<std::vector<std::uint32_t>> claim(std::size_t slot_count, Deadline deadline);
  Status publish(LocalMessage& message, std::span<const std::byte> header);
  Status pump();
  Status advance(const Accept& accept, bool& accepted, Deadline deadline);
  Status take_header(Deadline deadline);
  Status place_ring_tensors(std::span<const Path> paths);
  Status copy_out(std::span<const Path> paths);
  Status fail(Status status, Path path) { return poison_.set(std::move(status), stats_[path]); }
  void note_ring_counters();

  const PathPolicy policy_;
  const std::uint64_t epoch_;
  TransportStats own_stats_;  // counted where nobody gave a place
  TransportStats& stats_;
  Poison poison_;
  std::shared_ptr<Segment> out_segment_;
  std::shared_ptr<Segment> in_segment_;
  RingProducer out_ring_;
  RingConsumer in_ring_;
  BufferPool pool_;
  BulkTransfer bulk_;
  std::uint64_t next_send_ = 0;
  std::uint64_t next_receive_ = 0;
  std::unique_ptr<LocalReceived> arriving_;  // a message that is not complete
  bool arriving_placed_ = false;             // accepted, and its memory given
};

void LocalChannelImpl::note_ring_counters() {
  const RingCounters out = out_ring_.counters();
  const RingCounters in = in_ring_.counters();
  PathStats& stats = stats_[Path::kRing];
  stats.spins.store(out.spins + in.spins, std::memory_order_relaxed);
  stats.parks.store(out.parks + in.parks, std::memory_order_relaxed);
  stats.slot_waits.store(out.slot_waits, std::memory_order_relaxed);
}

/// Sends what there is room for of a message that is half sent; having no room is no error here.
Status LocalChannelImpl::pump() {
  if (!bulk_.sending()) return {};
  Status sent = bulk_.advance_send();
  if (sent.code() == StatusCode::kResourceExhausted) return {};
  return sent;
}

Result<std::vector<std::uint32_t>> LocalChannelImpl::claim(std::size_t slot_count,
                                                           Deadline deadline) {
  for (;;) {
    if (const Status pumped = pump(); !pumped.ok()) return fail(pumped, Path::kZmq);
    const bool busy = bulk_.sending();
    auto slots = out_ring_.claim(slot_count, busy ? Deadline::now() : deadline,
                                 [this] { return bulk_.check_peer(); });
    note_ring_counters();
    if (slots.ok()) return slots;
    if (slots.status().code() != StatusCode::kResourceExhausted) {
      return fail(slots.status(), Path::kRing);
    }
    if (!busy || deadline.expired()) return slots;
    const Status waited = bulk_.wait(BulkTransfer::For::kSend, deadline.slice(kBusySlice));
    if (!waited.ok() && waited.code() != StatusCode::kDeadlineExceeded) {
      return fail(waited, Path::kZmq);
    }
  }
}

Result<std::unique_ptr<Message>> LocalChannelImpl::prepare(
    std::span<const std::size_t> tensor_bytes, Deadline deadline) {
  RETURN_IF_ERROR(poison_.status());
  RETURN_IF_ERROR(check_tensor_sizes(tensor_bytes));
  const std::vector<Path> paths = choose_paths(policy_, tensor_bytes);
  ASSIGN_OR_RETURN(auto slots, claim(slots_needed(policy_, paths), deadline));
  auto message = std::make_unique<LocalMessage>(out_ring_, std::move(slots));
  message->tensor_bytes.assign(tensor_bytes.begin(), tensor_bytes.end());
  message->slot_payload_bytes.assign(message->slots.size(), 0);
  ASSIGN_OR_RETURN(message->bulk, take_buffers(pool_, tensor_bytes, paths));
  std::size_t next_slot = 0;
  std::size_t next_bulk = 0;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (paths[i] == Path::kZmq) {
      message->places.push_back(message->bulk[next_bulk++].buffer.bytes());
      continue;
    }
    message->slot_payload_bytes[next_slot] = tensor_bytes[i];
    message->places.push_back(
        out_ring_.payload(message->slots[next_slot++]).first(tensor_bytes[i]));
  }
  return std::unique_ptr<Message>(std::move(message));
}

/// From here on the receiver knows of the message: its rest leaves whatever happens to `message`.
Status LocalChannelImpl::publish(LocalMessage& message, std::span<const std::byte> header) {
  const std::uint64_t sequence = next_send_;
  const auto frame = encode_frame(epoch_, sequence, message.tensor_bytes, header);
  if (const Status status = out_ring_.commit(message.slots, frame, message.slot_payload_bytes);
      !status.ok()) {
    return fail(status, Path::kRing);
  }
  ++next_send_;
  message.started = true;
  bulk_.start_send({sequence, {}, std::move(message.bulk), std::move(message.tensor_bytes)});
  return {};
}

Status LocalChannelImpl::send(Message& message, std::span<const std::byte> header,
                              Deadline deadline) {
  RETURN_IF_ERROR(poison_.status());
  auto& ours = static_cast<LocalMessage&>(message);  // every Message of this channel is one
  if (!ours.started) {
    if (bulk_.sending()) {  // a message that was dropped half sent still has to leave
      const Status rest = bulk_.finish_send(deadline);
      if (rest.code() == StatusCode::kResourceExhausted) return rest;
      if (!rest.ok()) return fail(rest, Path::kZmq);
    }
    RETURN_IF_ERROR(publish(ours, header));
  }
  const Status sent = bulk_.finish_send(deadline);
  if (sent.ok() || sent.code() == StatusCode::kResourceExhausted) return sent;
  return fail(sent, Path::kZmq);
}

Status LocalChannelImpl::take_header(Deadline deadline) {
  auto received = in_ring_.receive(deadline, [this] { return bulk_.check_peer(); });
  note_ring_counters();
  if (!received.ok()) return received.status();
  std::vector<std::uint32_t> slots;
  for (const RingMessage::Part& part : received->parts) slots.push_back(part.slot);
  auto frame = decode_frame(received->header, {epoch_, next_receive_});
  if (!frame.ok()) {
    for (const std::uint32_t slot : slots) in_ring_.release(slot);
    return frame.status();
  }
  arriving_ = std::make_unique<LocalReceived>(in_ring_, std::move(*frame));
  arriving_->held_slots = std::move(slots);
  arriving_placed_ = false;
  const std::vector<std::size_t>& tensor_bytes = arriving_->frame().tensor_bytes;
  const std::vector<Path> paths = choose_paths(policy_, tensor_bytes);
  if (received->parts.size() != slots_needed(policy_, paths)) {
    return Status(StatusCode::kProtocolError,
                  fmt::format("a message takes {} slots, expected {}", received->parts.size(),
                              slots_needed(policy_, paths)));
  }
  std::vector<std::size_t> part_bytes(received->parts.size(), 0);
  std::size_t next = 0;
  arriving_->places.assign(paths.size(), {});
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (paths[i] != Path::kRing) continue;
    arriving_->places[i] = received->parts[next].payload;
    part_bytes[next++] = tensor_bytes[i];
  }
  for (std::size_t i = 0; i < part_bytes.size(); ++i) {
    if (received->parts[i].payload.size() != part_bytes[i]) {
      return Status(StatusCode::kProtocolError,
                    fmt::format("a slot holds {} bytes, expected {}",
                                received->parts[i].payload.size(), part_bytes[i]));
    }
  }
  return {};
}

/// Leases may hold half of the slots; a message beyond that is copied, so that the peer always
/// finds room.
Status LocalChannelImpl::copy_out(std::span<const Path> paths) {
  for (std::size_t i = 0; i < paths.size(); ++i) {
    if (paths[i] != Path::kRing || arriving_->places[i].empty()) continue;
    ASSIGN_OR_RETURN(PooledBuffer buffer, pool_.take(arriving_->places[i].size()));
    std::memcpy(buffer.bytes().data(), arriving_->places[i].data(), buffer.bytes().size());
    arriving_->places[i] = buffer.bytes();
    arriving_->buffers.push_back(std::move(buffer));
  }
  for (const std::uint32_t slot : std::exchange(arriving_->held_slots, {})) in_ring_.release(slot);
  return {};
}

Status LocalChannelImpl::place_ring_tensors(std::span<const Path> paths) {
  const bool any = std::find(paths.begin(), paths.end(), Path::kRing) != paths.end();
  // A slot without a tensor carried only the header, of which there is a private copy.
  if (!any || in_ring_.held_slots() > in_ring_.slot_count() / 2) return copy_out(paths);
  return {};
}

/// One step; waits only for a header, and only while nothing is half sent. ok: the message is
/// complete. kDeadlineExceeded: not yet.
Status LocalChannelImpl::advance(const Accept& accept, bool& accepted, Deadline deadline) {
  if (const Status pumped = pump(); !pumped.ok()) return fail(pumped, Path::kZmq);
  if (arriving_ == nullptr) {
    const Status taken = take_header(bulk_.sending() ? Deadline::now() : deadline);
    if (taken.code() == StatusCode::kDeadlineExceeded) return taken;
    if (!taken.ok()) return fail(taken, Path::kRing);
  }
  const FrameHeader& frame = arriving_->frame();
  if (!accepted) {
    if (const Status status = accept(frame.rpc_header, frame.tensor_bytes); !status.ok()) {
      return fail(status, Path::kRing);
    }
    accepted = true;
  }
  if (!arriving_placed_) {
    const std::vector<Path> paths = choose_paths(policy_, frame.tensor_bytes);
    if (const Status placed = place_ring_tensors(paths); !placed.ok()) {
      return fail(placed, Path::kRing);
    }
    auto bulk = take_buffers(pool_, frame.tensor_bytes, paths);
    if (!bulk.ok()) return fail(bulk.status(), Path::kZmq);
    for (const BulkTensor& tensor : *bulk) {
      arriving_->places[tensor.index] = tensor.buffer.bytes();
      arriving_->buffers.push_back(tensor.buffer);
    }
    bulk_.start_receive(next_receive_, std::move(*bulk));
    arriving_placed_ = true;
  }
  const Status received = bulk_.advance_receive();
  if (received.ok() || received.code() == StatusCode::kDeadlineExceeded) return received;
  return fail(received, Path::kZmq);
}

Result<std::unique_ptr<ReceivedMessage>> LocalChannelImpl::receive(const Accept& accept,
                                                                   Deadline deadline) {
  RETURN_IF_ERROR(poison_.status());
  for (bool accepted = false;;) {
    const Status step = advance(accept, accepted, deadline);
    if (step.ok()) break;
    if (step.code() != StatusCode::kDeadlineExceeded || !poison_.status().ok()) return step;
    if (deadline.expired()) return step;
    const bool wants_header = arriving_ == nullptr;
    const Status waited = wants_header
                              ? bulk_.wait(BulkTransfer::For::kSend, deadline.slice(kBusySlice))
                              : bulk_.wait(BulkTransfer::For::kReceive, deadline);
    if (!waited.ok() && waited.code() != StatusCode::kDeadlineExceeded) {
      return fail(waited, Path::kZmq);
    }
  }
  ++next_receive_;
  const std::vector<std::size_t>& tensor_bytes = arriving_->frame().tensor_bytes;
  stats_.book_received(Path::kRing, choose_paths(policy_, tensor_bytes), tensor_bytes);
  return std::unique_ptr<ReceivedMessage>(std::move(arriving_));
}

}  // namespace

std::unique_ptr<Channel> LocalChannel::create(LocalChannelOptions options) {
  return std::make_unique<LocalChannelImpl>(std::move(options));
}

}  // namespace airlock
