#include "tests/model_check/fetch_paths.h"

#include <unistd.h>

#include <functional>
#include <optional>
#include <utility>

#include "base/check.h"
#include "shm/ring.h"
#include "tests/model_check/fetch_counter.h"

namespace airlock {
namespace {

constexpr std::uint64_t kEpoch = 7;
constexpr RingGeometry kGeometry{8, 4096};
/// Nothing to wait for: each flag is looked at once, or twice where a second pass is due.
constexpr unsigned kOneLook = 1;
constexpr unsigned kTwoLooks = 2;
constexpr unsigned kWaits = 0;

class CountedRing {
 public:
  CountedRing() {
    shared::observer = &counter_;
    const std::string name = "airlock-fetches-" + std::to_string(::getpid());
    segment_ = Segment::create(name, ring_segment_bytes(kGeometry).value()).value();
    segment_->unlink();
    CHECK(format_ring(*segment_, kGeometry, kEpoch).ok());
    counter_.watch(segment_, kGeometry);
    producer.emplace(RingProducer::create(*segment_, kGeometry, kEpoch).value());
    consumer.emplace(RingConsumer::create(*segment_, kGeometry, kEpoch).value());
  }
  ~CountedRing() { shared::observer = nullptr; }

  /// One operation, and whether it must end well.
  Status count(const std::string& name, unsigned looks, const std::function<Status()>& operation) {
    counter_.begin(name, looks);
    Status status = operation();
    for (std::string& fault : counter_.end()) faults.push_back(std::move(fault));
    return status;
  }
  ring_layout::SlotControl& control(std::uint32_t slot) {
    std::byte* const begin = segment_->bytes().data() + sizeof(ring_layout::Superblock);
    return reinterpret_cast<ring_layout::SlotControl*>(begin)[slot];
  }
  std::vector<std::uint32_t> claim(std::size_t parts) {
    std::vector<std::uint32_t> slots;
    CHECK(count("claim", kOneLook, [&]() -> Status {
            ASSIGN_OR_RETURN(slots, producer->claim(parts, Deadline::now(), {}));
            return {};
          }).ok());
    return slots;
  }
  void send(std::size_t parts) {
    const std::vector<std::uint32_t> slots = claim(parts);
    const std::vector<std::byte> header(100 + 10 * parts);
    CHECK(count("commit", kOneLook, [&] { return producer->commit(slots, header); }).ok());
  }
  Status receive(unsigned looks, Deadline deadline = Deadline::now()) {
    return count("receive", looks, [&]() -> Status {
      ASSIGN_OR_RETURN(last, consumer->receive(deadline, {}));
      return {};
    });
  }
  void release() {
    for (const std::uint32_t slot : std::exchange(last.slots, {})) {
      CHECK(count("release", kOneLook, [&] {
              consumer->release(slot);
              return Status();
            }).ok());
    }
  }

  std::optional<RingProducer> producer;
  std::optional<RingConsumer> consumer;
  RingMessage last;
  std::vector<std::string> faults;

 private:
  FetchCounter counter_;
  std::shared_ptr<Segment> segment_;
};

void honest_paths(CountedRing& ring) {
  for (const std::size_t parts : {1, 4, 2}) {
    ring.send(parts);
    CHECK(ring.receive(kOneLook).ok());
    ring.release();
  }
  // Nothing came; and the same with a wait that spins and parks.
  CHECK(ring.receive(kOneLook).code() == StatusCode::kDeadlineExceeded);
  CHECK(ring.receive(kWaits, Deadline::after(std::chrono::milliseconds(5))).code() ==
        StatusCode::kDeadlineExceeded);
  ring.producer->abort(ring.claim(3));
  // Full.
  for (int i = 0; i < 8; ++i) ring.send(1);
  const auto claim_more = [&] { return ring.producer->claim(1, Deadline::now(), {}).status(); };
  CHECK(ring.count("claim in vain", kTwoLooks, claim_more).code() == StatusCode::kBusy);
  CHECK(ring.count("slots in use", kOneLook,
                   [&] {
                     return ring.producer->slots_in_use() == 8 ? Status()
                                                               : Status(StatusCode::kInternal, "?");
                   })
            .ok());
  // Given back in another order, so that later messages lie in lower slots.
  CHECK(ring.receive(kOneLook).ok());
  const RingMessage kept = std::exchange(ring.last, {});
  for (int i = 0; i < 3; ++i) {
    CHECK(ring.receive(kOneLook).ok());
    ring.release();
  }
  ring.send(2);
  for (int i = 0; i < 5; ++i) {
    CHECK(ring.receive(kTwoLooks).ok());
    ring.release();
  }
  ring.last = kept;
  ring.release();
}

/// After an honest message, what the peer makes of it.
std::vector<std::string> refused(const std::function<void(CountedRing&)>& tamper) {
  CountedRing ring;
  ring.send(2);
  tamper(ring);
  CHECK(ring.receive(kTwoLooks).code() == StatusCode::kProtocolError);
  CHECK(ring.receive(kTwoLooks).code() == StatusCode::kProtocolError);
  return ring.faults;
}

}  // namespace

std::vector<std::string> fetched_twice_by_the_ring() {
  CountedRing ring;
  honest_paths(ring);
  std::vector<std::string> faults = ring.faults;
  const std::function<void(CountedRing&)> tampers[] = {
      [](CountedRing& it) { it.control(0).flag = 3; },
      [](CountedRing& it) { ++it.control(0).header.epoch; },
      [](CountedRing& it) { it.control(0).header.sequence = 9; },
      [](CountedRing& it) { it.control(0).header.header_bytes = 4097; },
      [](CountedRing& it) { it.control(1).header.header_bytes = 1; },
      [](CountedRing& it) { it.control(0).header.part_count = 0; },
      [](CountedRing& it) { it.control(0).header.part_count = 3; },
      [](CountedRing& it) { it.control(1).header.part_count = 4; },
      [](CountedRing& it) { it.control(0).header.part_index = 1; },
      [](CountedRing& it) { it.control(1).header.reserved[2] = 1; },
      [](CountedRing& it) { it.control(1).flag = 0; },
  };
  for (const auto& tamper : tampers) {
    for (std::string& fault : refused(tamper)) faults.push_back(std::move(fault));
  }
  return faults;
}

}  // namespace airlock
