// A ring's segment in the peer's hand: any superblock, any slot control words, any header area;
// then both ends are attached, and receive and claim once each.
//
//   input: the 64 bytes of the RingIdentity, 8 SlotControls of 128 bytes, the first slot's header
//   area. What the input lacks is as an honest peer's.

#include "shm/ring.h"

#include <unistd.h>

#include <cstring>
#include <set>

#include "base/check.h"
#include "tests/fuzz/take.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

constexpr RingGeometry kGeometry{8, 4096};
constexpr std::uint64_t kEpoch = 0x1122334455667788;
constexpr auto kOffsets = *ring_layout::ring_offsets(kGeometry);
constexpr std::size_t kControlBytes = kGeometry.slot_count * sizeof(ring_layout::SlotControl);

/// Mapped once; each run writes its head anew.
Segment& segment() {
  static const std::unique_ptr<Segment> kept = [] {
    const std::string name = make_segment_name(
        ::geteuid(), static_cast<std::uint64_t>(::getpid()) << 32, SegmentDirection::kRequest);
    auto made = Segment::create(name, kOffsets.total).value();
    made->unlink();
    return made;
  }();
  return *kept;
}

/// The segment as it is after an honest message of `parts`.
void publish(const std::vector<std::string>& parts, std::string_view header) {
  const auto bytes = segment().bytes();
  std::memset(bytes.data(), 0, kOffsets.header);
  CHECK(format_ring(segment(), kGeometry, kEpoch).ok());
  if (parts.empty()) return;
  auto producer = RingProducer::create(segment(), kGeometry, kEpoch).value();
  const auto slots = producer.claim(parts.size(), Deadline::now(), {}).value();
  for (std::size_t i = 0; i < parts.size(); ++i)
    std::memcpy(producer.payload(slots[i]).data(), parts[i].data(), parts[i].size());
  CHECK(producer.commit(slots, std::as_bytes(std::span(header))).ok());
}

std::vector<Bytes> seeds() {
  std::vector<Bytes> all;
  for (const std::vector<std::string>& parts :
       {std::vector<std::string>{"a"}, {"a", "b"}, {"a", "b", "c", "d"}}) {
    publish(parts, "header");
    const std::byte* base = segment().bytes().data();
    Bytes seed(base, base + sizeof(ring_layout::RingIdentity));
    seed.insert(seed.end(), base + kOffsets.control, base + kOffsets.control + kControlBytes);
    seed.insert(seed.end(), base + kOffsets.header, base + kOffsets.header + 64);
    all.push_back(std::move(seed));
  }
  return all;
}

void copy_part(std::span<const std::byte>& input, std::size_t offset, std::size_t bytes) {
  const std::size_t count = std::min(bytes, input.size());
  if (count > 0) std::memcpy(segment().bytes().data() + offset, input.data(), count);
  input = input.subspan(count);
}

bool is_inside(std::span<const std::byte> part) {
  const auto all = segment().bytes();
  return part.data() >= all.data() && part.data() + part.size() <= all.data() + all.size();
}

bool receive(RingConsumer& consumer) {
  const auto message = consumer.receive(Deadline::now(), {});
  if (!message.ok()) {
    check_refusal(message.status());
    CHECK(message.status().code() == StatusCode::kProtocolError ||
          message.status().code() == StatusCode::kDeadlineExceeded);
    return false;
  }
  CHECK(message->header.size() <= limits::kHeaderBytes);
  CHECK(!message->slots.empty() && message->slots.size() <= kGeometry.slot_count / 2);
  const std::set<std::uint32_t> distinct(message->slots.begin(), message->slots.end());
  CHECK(distinct.size() == message->slots.size() && *distinct.rbegin() < kGeometry.slot_count);
  for (const std::uint32_t slot : message->slots) {
    CHECK(is_inside(consumer.payload(slot)));
    CHECK(consumer.payload(slot).size() == kGeometry.slot_bytes);
    consumer.release(slot);
  }
  CHECK(consumer.held_slots() == 0);
  return true;
}

bool run(std::span<const std::byte> input) {
  publish({}, {});
  copy_part(input, 0, sizeof(ring_layout::RingIdentity));
  copy_part(input, kOffsets.control, kControlBytes);
  copy_part(input, kOffsets.header, limits::kHeaderBytes);
  auto consumer = RingConsumer::create(segment(), kGeometry, kEpoch);
  auto producer = RingProducer::create(segment(), kGeometry, kEpoch);
  CHECK(consumer.ok() == producer.ok());
  if (!consumer.ok()) {
    CHECK(consumer.status().code() == StatusCode::kProtocolError);
    check_refusal(consumer.status());
    return false;
  }
  const auto claimed = producer->claim(2, Deadline::now(), {});
  if (claimed.ok()) {
    for (const std::uint32_t slot : *claimed) CHECK(is_inside(producer->payload(slot)));
    producer->abort(*claimed);
  } else {
    CHECK(claimed.status().code() == StatusCode::kProtocolError ||
          claimed.status().code() == StatusCode::kBusy);
  }
  bool accepted = false;
  while (receive(*consumer)) accepted = true;
  return accepted;
}

}  // namespace

constinit const Target kRing = {"ring", seeds, run};

}  // namespace airlock::fuzz
