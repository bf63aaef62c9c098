#include "runtime/channel/ring_carrier.h"

#include <cstring>
#include <utility>

#include "runtime/channel/buffer_pool.h"
#include "shm/ring.h"

namespace airlock {
namespace {

/// What is kept at most of buffers for copies that nobody uses.
constexpr std::size_t kCopyCacheBytes = std::size_t{128} << 20;

/// Gives a slot to each tensor that takes the ring, in order; those that ride behind the header
/// share its own, the first. How many slots have tensors. That they fit is the plan's promise.
template <typename Byte, typename Payload>
std::size_t place_tensors(const MessagePlan& plan, std::span<const std::uint32_t> slots,
                          const Payload& payload, Places<Byte>& into) {
  std::size_t next = plan.has_inline ? 1 : 0;
  for (std::size_t i = 0; i < plan.tensor_count; ++i) {
    const MessagePlan::Tensor& tensor = plan.planned[i];
    if (tensor.path != Path::kRing) continue;
    const std::size_t slot = tensor.is_inline ? 0 : next++;
    CHECK(slot < slots.size());
    const std::span<Byte> area = payload(slots[slot]);
    CHECK(tensor.inline_at + tensor.bytes <= area.size());
    into.places[i] = area.subspan(tensor.inline_at, tensor.bytes);
  }
  return next;
}

struct RingLoan final : Loan {
  RingLoan(RingProducer& producer, std::vector<std::uint32_t> claimed)
      : ring(producer), slots(std::move(claimed)) {}
  ~RingLoan() override {
    if (!published) ring.abort(slots);
  }

  RingProducer& ring;
  const std::vector<std::uint32_t> slots;
  bool published = false;
};

struct RingLease final : Lease {
  RingLease(RingConsumer& consumer, std::vector<std::uint32_t> held)
      : ring(consumer), slots(std::move(held)) {}
  ~RingLease() override { release(); }

  void release() {
    for (const std::uint32_t slot : std::exchange(slots, {})) ring.release(slot);
  }
  /// Of each tensor into memory of the pool; the slots go home.
  Status copy_out(BufferPool& pool) {
    for (std::span<const std::byte>& place : places) {
      if (place.empty()) continue;
      ASSIGN_OR_RETURN(PooledBuffer copy, pool.take(place.size()));
      std::memcpy(copy.bytes().data(), place.data(), place.size());
      place = copy.bytes();
      copies.push_back(std::move(copy));
    }
    release();
    return {};
  }

  RingConsumer& ring;
  std::vector<std::uint32_t> slots;
  std::vector<PooledBuffer> copies;
};

class RingCarrier final : public Carrier {
 public:
  RingCarrier(RingCarrierOptions options, RingProducer out, RingConsumer in)
      : options_(std::move(options)),
        out_(std::move(out)),
        in_(std::move(in)),
        copies_(kCopyCacheBytes) {}

  Result<std::unique_ptr<Loan>> claim(const MessagePlan& plan, Deadline deadline) override {
    ASSIGN_OR_RETURN(auto slots, out_.claim(plan.ring_slots, deadline, options_.check));
    auto loan = std::make_unique<RingLoan>(out_, std::move(slots));
    place_tensors(
        plan, loan->slots, [this](std::uint32_t slot) { return out_.payload(slot); }, *loan);
    return std::unique_ptr<Loan>(std::move(loan));
  }

  Status publish(Loan& loan, std::uint64_t, std::span<const std::byte> header) override {
    auto& ours = static_cast<RingLoan&>(loan);
    RETURN_IF_ERROR(out_.commit(ours.slots, header));
    ours.published = true;
    return {};
  }
  Status finish_send(Deadline) override { return {}; }
  bool sending() const override { return false; }

  Result<std::vector<std::byte>> receive_header(std::uint64_t, Deadline deadline) override {
    CHECK(arrived_ == nullptr);
    ASSIGN_OR_RETURN(RingMessage message, in_.receive(deadline, options_.check));
    arrived_ = std::make_unique<RingLease>(in_, std::move(message.slots));
    return std::move(message.header);
  }

  Result<std::unique_ptr<Lease>> receive_tensors(const MessagePlan& plan, std::uint64_t,
                                                 Deadline) override {
    CHECK(arrived_ != nullptr);
    const std::size_t slot_count = arrived_->slots.size();
    if (slot_count != plan.ring_slots) {
      return Status(StatusCode::kProtocolError, "a message takes {} slots, expected {}", slot_count,
                    plan.ring_slots);
    }
    const std::size_t with_tensors = place_tensors(
        plan, arrived_->slots, [this](std::uint32_t slot) { return in_.payload(slot); }, *arrived_);
    // A slot without a tensor carried only the header, of which there is a private copy.
    if (with_tensors == 0 || in_.held_slots() > in_.slot_count() / 2) {
      RETURN_IF_ERROR(arrived_->copy_out(copies_));
    }
    return std::unique_ptr<Lease>(std::move(arrived_));
  }

  std::size_t slots_in_use() const override { return out_.slots_in_use(); }
  WaitCounters counters() const override {
    const WaitCounters out = out_.counters();
    const WaitCounters in = in_.counters();
    return {out.spins + in.spins, out.parks + in.parks, out.slot_waits};
  }

 private:
  const RingCarrierOptions options_;
  RingProducer out_;
  RingConsumer in_;
  BufferPool copies_;
  /// Of the message whose header was received last, until its tensors are asked for.
  std::unique_ptr<RingLease> arrived_;
};

}  // namespace

Result<std::unique_ptr<Carrier>> make_ring_carrier(RingCarrierOptions options) {
  ASSIGN_OR_RETURN(RingProducer out,
                   RingProducer::create(*options.out_segment, options.geometry, options.epoch));
  ASSIGN_OR_RETURN(RingConsumer in,
                   RingConsumer::create(*options.in_segment, options.geometry, options.epoch));
  return std::unique_ptr<Carrier>(
      std::make_unique<RingCarrier>(std::move(options), std::move(out), std::move(in)));
}

}  // namespace airlock
