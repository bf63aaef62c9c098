#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shm/ring.h"

namespace airlock {

inline constexpr std::uint64_t kTestEpoch = 0x0123456789ABCDEF;

inline std::string unique_segment_name() {
  static std::atomic<std::uint64_t> next{0};
  const std::uint64_t id = (std::uint64_t{static_cast<std::uint32_t>(::getpid())} << 32) | next++;
  return make_segment_name(::geteuid(), id, SegmentDirection::kRequest);
}

inline Deadline soon() {
  return Deadline::after(std::chrono::seconds(60));
}  // a watchdog, not a bound

/// A segment with a formatted ring, and both ends in this process and this mapping (TSan needs
/// that).
struct TestRing {
  explicit TestRing(RingGeometry wanted = {8, 4096}, WaitMode mode = WaitMode::kFutex)
      : geometry(wanted) {
    auto created = Segment::create(unique_segment_name(), ring_segment_bytes(geometry).value());
    EXPECT_TRUE(created.ok()) << created.status().to_string();
    segment = std::move(created).value();
    EXPECT_TRUE(format_ring(*segment, geometry, kTestEpoch).ok());
    producer.emplace(RingProducer::create(*segment, geometry, kTestEpoch, mode).value());
    consumer.emplace(RingConsumer::create(*segment, geometry, kTestEpoch, mode).value());
  }
  template <typename T>
  T* at(std::size_t offset) {
    return reinterpret_cast<T*>(segment->bytes().data() + offset);
  }
  ring_layout::SlotControl* control(std::uint32_t slot) {
    return at<ring_layout::SlotControl>(ring_layout::ring_offsets(geometry)->control) + slot;
  }
  ring_layout::Superblock* superblock() { return at<ring_layout::Superblock>(0); }

  RingGeometry geometry;
  std::unique_ptr<Segment> segment;
  std::optional<RingProducer> producer;
  std::optional<RingConsumer> consumer;
};

inline std::span<const std::byte> text_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

inline std::string to_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Sends one message of these payloads; fails with what claim() or commit() says.
inline Status send(RingProducer& producer, std::string_view header,
                   const std::vector<std::string>& payloads, Deadline deadline = soon()) {
  ASSIGN_OR_RETURN(const std::vector<std::uint32_t> slots,
                   producer.claim(payloads.size(), deadline, {}));
  for (std::size_t i = 0; i < slots.size(); ++i) {
    std::memcpy(producer.payload(slots[i]).data(), payloads[i].data(), payloads[i].size());
  }
  return producer.commit(slots, text_bytes(header));
}

inline void release_all(RingConsumer& consumer, const RingMessage& message) {
  for (const std::uint32_t slot : message.slots) consumer.release(slot);
}

/// Messages of random shape that both sides can make from the same seed.
class MessageMaker {
 public:
  MessageMaker(std::uint32_t seed, RingGeometry geometry) : random_(seed), geometry_(geometry) {}
  std::pair<std::string, std::vector<std::string>> next() {
    std::string header(random_() % 3840, static_cast<char>(random_()));
    std::vector<std::string> payloads(1 + random_() % (geometry_.slot_count / 2));
    for (std::string& payload : payloads) {
      payload.resize(random_() % 4 == 0 ? random_() % 64 : random_() % (geometry_.slot_bytes + 1));
      std::uint32_t state = static_cast<std::uint32_t>(random_());
      for (char& c : payload) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
    }
    return {std::move(header), std::move(payloads)};
  }

 private:
  std::mt19937 random_;
  RingGeometry geometry_;
};

/// The first bytes of a slot's payload.
inline std::string payload_text(const RingConsumer& consumer, std::uint32_t slot,
                                std::size_t bytes) {
  return to_text(consumer.payload(slot).first(bytes));
}

inline bool equals(const RingConsumer& consumer, const RingMessage& message,
                   const std::string& header, const std::vector<std::string>& payloads) {
  if (to_text(message.header) != header || message.slots.size() != payloads.size()) return false;
  for (std::size_t i = 0; i < payloads.size(); ++i) {
    if (payload_text(consumer, message.slots[i], payloads[i].size()) != payloads[i]) return false;
  }
  return true;
}

}  // namespace airlock
