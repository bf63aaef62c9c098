#include "tests/hostile/raw_end.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>

#include "runtime/channel/frame.h"
#include "tests/channel/channel_rigs.h"

namespace airlock::hostile {

using testing_rigs::kEpoch;
using testing_rigs::kGeometry;

namespace {

/// To an opening, as it is by now: the header, and what is behind it.
void add_header(const Draft& draft, Bytes& opening) {
  constexpr std::size_t kCountAt = 16;
  const auto count = static_cast<std::uint32_t>(draft.header.size());
  if (opening.size() >= kOpeningBytes)
    std::memcpy(opening.data() + kCountAt, &count, sizeof(count));
  opening.insert(opening.end(), draft.header.begin(), draft.header.end());
  if (draft.behind.empty()) return;
  opening.resize(std::max(opening.size(), inline_start(draft.header.size())));
  opening.insert(opening.end(), draft.behind.begin(), draft.behind.end());
}

}  // namespace

RawEnd::RawEnd(Options options, Segments& segments)
    : options_(std::move(options)),
      policy_(testing_rigs::policy_of(options_.has_ring, options_.pool != nullptr,
                                      options_.inline_bytes)) {
  if (!options_.has_ring) return;
  const auto in = options_.out == Segments::kRequest ? Segments::kReply : Segments::kRequest;
  producer_.emplace(
      RingProducer::create(segments.hostile(options_.out), kGeometry, kEpoch).value());
  consumer_.emplace(RingConsumer::create(segments.hostile(in), kGeometry, kEpoch).value());
}

Draft RawEnd::draft(const Bytes& header, const std::vector<Bytes>& tensors,
                    std::span<const PoolPlace> places) const {
  return make_draft(policy_, sent_, header, tensors, places);
}

bool RawEnd::send(const Draft& draft, Deadline deadline) {
  ++sent_;
  for (const auto& [place, bytes] : draft.pool)
    std::memcpy(options_.pool->find(place, bytes.size()), bytes.data(), bytes.size());
  if (!draft.slots.empty()) {
    const auto slots = producer_->claim(draft.slots.size(), deadline, options_.gone);
    if (!slots.ok()) return false;
    for (std::size_t i = 0; i < slots->size(); ++i) {
      const Bytes& bytes = draft.slots[i];
      if (!bytes.empty())
        std::memcpy(producer_->payload((*slots)[i]).data(), bytes.data(), bytes.size());
    }
    if (!producer_->commit(*slots, draft.header).ok()) return false;
  }
  for (std::size_t i = 0; i < draft.frames.size(); ++i) {
    Bytes frame = draft.frames[i];
    if (i == 0 && !draft.has_ring) add_header(draft, frame);
    if (!send_frame(frame, deadline)) return false;
  }
  return true;
}

bool RawEnd::send_frame(const Bytes& frame, Deadline deadline) {
  auto copy = std::make_shared<const Bytes>(frame);
  options_.socket.queue(*copy, copy);
  for (;;) {
    const Status sent = options_.socket.flush();
    if (sent.ok()) return true;
    if (deadline.expired() || options_.socket.disconnected() || !options_.gone().ok()) return false;
    (void)options_.socket.poll(ZmtpSocket::Wake::kWritable,
                               deadline.slice(std::chrono::milliseconds(1)));
  }
}

std::optional<Bytes> RawEnd::receive_frame(Deadline deadline) {
  for (;;) {
    const auto size =
        options_.socket.receive_into(incoming_, deadline.slice(std::chrono::milliseconds(10)));
    if (size.ok())
      return Bytes(incoming_.begin(), incoming_.begin() + static_cast<std::ptrdiff_t>(*size));
    broken_ = size.status().code() != StatusCode::kDeadlineExceeded;
    if (broken_ || deadline.expired() || !options_.gone().ok()) return std::nullopt;
  }
}

std::optional<Bytes> RawEnd::receive_header(Deadline deadline, std::vector<Bytes>& slots) {
  if (!options_.has_ring) {
    const auto frame = receive_frame(deadline);
    if (!frame) return std::nullopt;
    const auto opened = decode_opening(*frame, {kEpoch, received_++});
    if (!opened.ok()) return std::nullopt;
    if (!opened->behind.empty()) slots.emplace_back(opened->behind.begin(), opened->behind.end());
    return Bytes(opened->header.begin(), opened->header.end());
  }
  auto message = consumer_->receive(deadline, WaitCheck());
  if (!message.ok()) {
    broken_ = message.status().code() != StatusCode::kDeadlineExceeded;
    return std::nullopt;
  }
  for (const std::uint32_t slot : message->slots) {
    const auto payload = consumer_->payload(slot);
    slots.emplace_back(payload.begin(), payload.end());
    consumer_->release(slot);
  }
  return std::move(message->header);
}

std::optional<RawEnd::Received> RawEnd::receive(const SizesOf& sizes_of, Deadline deadline,
                                                std::span<const PoolPlace> places) {
  if (broken_) return std::nullopt;
  std::vector<Bytes> slots;
  auto header = receive_header(deadline, slots);
  if (!header) return std::nullopt;
  const auto sizes = sizes_of(*header);
  auto plan = sizes.ok() ? plan_message(policy_, *sizes) : sizes.status();
  // An error has no tensors. What answers another request than the last one has other places.
  const bool are_its = sizes.ok() && sizes->size() == places.size();
  broken_ = !plan.ok() || (options_.has_ring && plan->ring_slots != slots.size()) ||
            !place_in_pool(*plan, are_its ? places : places.first(0)).ok();
  if (broken_) return std::nullopt;
  // What an honest side has begun to send comes soon.
  const Deadline rest = Deadline::after(std::chrono::seconds(20));
  if (options_.has_ring && plan->uses(Path::kZmq) && !receive_frame(rest)) return std::nullopt;
  Received received{std::move(*header), {}};
  std::size_t slot = plan->has_inline && options_.has_ring ? 1 : 0;
  for (const MessagePlan::Tensor& tensor : plan->tensors()) {
    if (tensor.is_inline) {
      Bytes& bytes = received.tensors.emplace_back(tensor.bytes);
      if (tensor.bytes > 0)
        std::memcpy(bytes.data(), slots.at(0).data() + tensor.inline_at, tensor.bytes);
      continue;
    }
    if (tensor.path == Path::kRing) {
      received.tensors.push_back(std::move(slots[slot++]));
      received.tensors.back().resize(tensor.bytes);
      continue;
    }
    if (tensor.path == Path::kPool) {
      const std::byte* const at = options_.pool->find(tensor.place, tensor.bytes);
      received.tensors.emplace_back(at, at + tensor.bytes);
      continue;
    }
    Bytes all;
    while (all.size() < tensor.bytes) {
      const auto frame = receive_frame(rest);
      if (!frame) return std::nullopt;
      all.insert(all.end(), frame->begin(), frame->end());
    }
    received.tensors.push_back(std::move(all));
  }
  return received;
}

void RawEnd::ring_bells(Segments& segments) {
  for (const auto ring : {Segments::kRequest, Segments::kReply}) {
    auto* const superblock =
        reinterpret_cast<ring_layout::Superblock*>(segments.hostile(ring).bytes().data());
    for (const Doorbell& bell :
         {Doorbell{&superblock->published_bell, &superblock->consumer_waiting},
          Doorbell{&superblock->freed_bell, &superblock->producer_waiting}}) {
      std::atomic_ref(*bell.waiting).store(1);
      wake_waiters(bell);
    }
  }
}

}  // namespace airlock::hostile
