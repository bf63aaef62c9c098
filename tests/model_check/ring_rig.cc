#include "tests/model_check/ring_rig.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>

namespace airlock::model_check {
namespace {

constexpr std::uint64_t kEpoch = 0x0123456789ABCDEF;
constexpr std::uint32_t kSlotBytes = 4096;
/// One look of a spin, of 16 pauses, and the waiter's 50 us are over.
constexpr std::uint64_t kPauseNs = 4000;

Deadline for_ever() { return Deadline::after(std::chrono::hours(1)); }

std::uint64_t payload_of(std::uint64_t number, std::size_t part) { return number * 100 + part; }

}  // namespace

class RingRig::Access final : public shared::Observer {
 public:
  Access(RingRig& rig, Mutant mutant) : rig_(rig), explorer_(rig.explorer_), mutant_(mutant) {
    auto* superblock = reinterpret_cast<ring_layout::Superblock*>(rig.segment_->bytes().data());
    waiting_ = {&superblock->consumer_waiting, &superblock->producer_waiting};
    bells_ = {&superblock->published_bell, &superblock->freed_bell};
    shared::observer = this;
  }
  ~Access() override { shared::observer = &explorer_; }

  std::uint64_t load(const void* word, std::size_t bytes, std::memory_order order) override {
    const bool is_consumer = explorer_.running_thread() == 1;
    if (is_flag(word)) {
      weaken(is_consumer ? Mutant::kSeePublishedRelaxed : Mutant::kSeeReleasedRelaxed,
             std::memory_order_relaxed, order);
    }
    if (is_one_of(word, waiting_))
      weaken(Mutant::kAskNotSequential, std::memory_order_acquire, order);
    if (is_one_of(word, bells_)) {
      weaken(Mutant::kSeenBellRelaxed, std::memory_order_relaxed, order);
      weaken(Mutant::kSeenBellAcquire, std::memory_order_acquire, order);
    }
    return explorer_.load(word, bytes, order);
  }
  void store(void* word, std::size_t bytes, std::uint64_t value, std::memory_order order) override {
    const bool is_consumer = explorer_.running_thread() == 1;
    if (is_flag(word)) {
      weaken(is_consumer ? Mutant::kReleaseRelaxed : Mutant::kPublishRelaxed,
             std::memory_order_relaxed, order);
    }
    if (is_one_of(word, waiting_)) {
      if (mutant_ == (value == 1 ? Mutant::kNobodyArms : Mutant::kNobodyDisarms)) return;
      if (value == 1) weaken(Mutant::kArmNotSequential, std::memory_order_release, order);
    }
    explorer_.store(word, bytes, value, order);
  }
  void add(std::uint32_t& word, std::uint32_t value, std::memory_order order) override {
    if (mutant_ == Mutant::kBellNotRung) return;
    weaken(Mutant::kBellNotSequential, std::memory_order_acq_rel, order);
    explorer_.add(word, value, order);
  }
  void read(std::span<const std::byte> bytes) override { explorer_.read(bytes); }
  void write(std::span<const std::byte> bytes) override { explorer_.write(bytes); }
  int futex_wait(std::uint32_t& word, std::uint32_t seen, std::uint64_t timeout_ns) override {
    return explorer_.futex_wait(word, seen, timeout_ns);
  }
  void futex_wake(std::uint32_t& word) override {
    if (mutant_ != Mutant::kNoWake) explorer_.futex_wake(word);
  }
  void sleep_ns(std::uint64_t ns) override { explorer_.sleep_ns(ns); }
  void pause_cpu() override { explorer_.pause_cpu(); }
  bool can_spin() override { return explorer_.can_spin(); }

 private:
  bool is_flag(const void* word) const {
    for (std::uint32_t i = 0; i < rig_.geometry_.slot_count; ++i) {
      if (word == &rig_.control(i).flag) return true;
    }
    return false;
  }
  static bool is_one_of(const void* word, const std::array<const void*, 2>& words) {
    return word == words[0] || word == words[1];
  }
  void weaken(Mutant mutant, std::memory_order weaker, std::memory_order& order) const {
    if (mutant_ == mutant) order = weaker;
  }

  RingRig& rig_;
  Explorer& explorer_;
  const Mutant mutant_;
  std::array<const void*, 2> waiting_;
  std::array<const void*, 2> bells_;
};

ring_layout::SlotControl& RingRig::control(std::uint32_t slot) {
  std::byte* const begin = segment_->bytes().data() + sizeof(ring_layout::Superblock);
  return reinterpret_cast<ring_layout::SlotControl*>(begin)[slot];
}

Report RingRig::explore(const Scenario& scenario, Mutant mutant, std::uint64_t max_executions) {
  scenario_ = scenario;
  geometry_ = {scenario.slot_count, kSlotBytes};
  // A segment has the length that its geometry demands.
  const std::string name = fmt::format("airlock-model-{}", ::getpid());
  segment_ = Segment::create(name, ring_segment_bytes(geometry_).value()).value();
  segment_->unlink();
  explorer_.set_plain_region(segment_->bytes());
  Program program;
  program.setup = [this] { set_up(); };
  program.threads = {[this] { produce(); }, [this] { consume(); }};
  program.finish = [this] { finish(); };
  Options options;
  options.early_wakes = scenario.early_wakes;
  options.max_executions = max_executions;
  if (scenario.spins) options.pause_ns = kPauseNs;
  const Access access(*this, mutant);
  if (!scenario.dies) return explorer_.explore(program, options);
  Report all;
  all.exhaustive = true;
  for (std::size_t step = 0;; ++step) {
    options.death = {*scenario.dies, step, &gone_};
    const Report one = explorer_.explore(program, options);
    all.executions += one.executions;
    all.redundant += one.redundant;
    all.cut += one.cut;
    all.longest = std::max(all.longest, one.longest);
    all.exhaustive = all.exhaustive && one.exhaustive;
    all.failure = one.failure;
    all.trace = one.trace;
    // The last death came after all the rest.
    if (!one.died || !one.failure.empty()) return all;
    all.died = true;
  }
}

void RingRig::set_up() {
  std::memset(
      segment_->bytes().data(), 0,
      sizeof(ring_layout::Superblock) + geometry_.slot_count * sizeof(ring_layout::SlotControl));
  gone_ = 0;
  received_ = 0;
  CHECK(format_ring(*segment_, geometry_, kEpoch).ok());
  producer_.emplace(RingProducer::create(*segment_, geometry_, kEpoch, scenario_.mode).value());
  consumer_.emplace(RingConsumer::create(*segment_, geometry_, kEpoch, scenario_.mode).value());
  for (std::size_t i = 0; i < scenario_.before; ++i)
    CHECK(send(producer_->claim(scenario_.parts, Deadline::now(), {}).value(), i).ok());
  // The words begin with what they hold now.
  auto* superblock = reinterpret_cast<ring_layout::Superblock*>(segment_->bytes().data());
  for (std::uint32_t i = 0; i < geometry_.slot_count; ++i)
    explorer_.name_word(&control(i).flag, sizeof(std::uint32_t), fmt::format("flag {}", i));
  const auto name = [this](const std::uint32_t& word, const char* text) {
    explorer_.name_word(&word, sizeof(word), text);
  };
  name(superblock->published_bell, "published_bell");
  name(superblock->consumer_waiting, "consumer_waiting");
  name(superblock->freed_bell, "freed_bell");
  name(superblock->producer_waiting, "producer_waiting");
  name(gone_, "gone");
}

WaitCheck RingRig::check() {
  if (!scenario_.dies) return {};
  return [this]() -> Status {
    if (explorer_.load(&gone_, sizeof(gone_), std::memory_order_acquire) == 0) return {};
    return {StatusCode::kUnavailable, "the peer died"};
  };
}

Status RingRig::send(const std::vector<std::uint32_t>& slots, std::uint64_t number) {
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const std::span<std::byte> place = producer_->payload(slots[i]).first(sizeof(number));
    const std::uint64_t value = payload_of(number, i);
    explorer_.write(place);
    std::memcpy(place.data(), &value, sizeof(value));
  }
  return producer_->commit(slots, std::as_bytes(std::span(&number, 1)));
}

void RingRig::produce() {
  // Empty where the peer died.
  const auto claim = [this]() -> std::vector<std::uint32_t> {
    if (scenario_.tries) {
      auto tried = producer_->claim(scenario_.parts, Deadline::now(), {});
      if (tried.ok()) return std::move(tried).value();
      if (tried.status().code() != StatusCode::kBusy)
        explorer_.fail("claim, tried: " + tried.status().to_string());
    }
    auto claimed = producer_->claim(scenario_.parts, for_ever(), check());
    if (claimed.ok()) return std::move(claimed).value();
    if (!scenario_.dies || claimed.status().code() != StatusCode::kUnavailable)
      explorer_.fail("claim: " + claimed.status().to_string());
    return {};
  };
  for (std::uint64_t number = scenario_.before; number < scenario_.before + scenario_.sent;) {
    std::vector<std::uint32_t> slots = claim();
    if (scenario_.aborts && !slots.empty()) {
      producer_->abort(slots);
      slots = claim();
    }
    if (slots.empty()) break;
    Status sent;
    if (scenario_.crossed) {
      const std::vector<std::uint32_t> second = claim();
      if (second.empty()) break;
      sent = send(second, number++);
    }
    if (sent.ok()) sent = send(slots, number++);
    if (!sent.ok()) explorer_.fail("commit: " + sent.to_string());
  }
}

bool RingRig::take_one(std::uint64_t number, std::vector<std::uint32_t>& held) {
  auto message = consumer_->receive(scenario_.tries ? Deadline::now() : for_ever(), check());
  if (scenario_.tries && message.status().code() == StatusCode::kDeadlineExceeded)
    message = consumer_->receive(for_ever(), check());
  if (!message.ok()) {
    if (scenario_.dies && message.status().code() == StatusCode::kUnavailable) return false;
    explorer_.fail("receive: " + message.status().to_string());
    return false;
  }
  const auto expect = [&](std::span<const std::byte> bytes, std::uint64_t expected,
                          const char* what) {
    std::uint64_t value = 0;
    if (bytes.size() == sizeof(value)) std::memcpy(&value, bytes.data(), sizeof(value));
    if (bytes.size() != sizeof(value) || value != expected)
      explorer_.fail(fmt::format("{} of message {} is {} in {} bytes, expected {}", what, number,
                                 value, bytes.size(), expected));
  };
  expect(message->header, number, "the header");
  if (message->slots.size() != scenario_.parts) explorer_.fail("a message of other parts");
  for (std::size_t i = 0; i < message->slots.size(); ++i) {
    const auto place = consumer_->payload(message->slots[i]).first(sizeof(number));
    explorer_.read(place);
    expect(place, payload_of(number, i), "a payload");
    held.push_back(message->slots[i]);
  }
  ++received_;
  return true;
}

void RingRig::consume() {
  std::vector<std::uint32_t> held;
  for (std::uint64_t number = 0; number < scenario_.received; ++number) {
    if (!take_one(number, held)) return;
    while (held.size() > scenario_.held) {
      // The newest first, so that slots come free in another order than they were taken.
      consumer_->release(held.back());
      held.pop_back();
    }
  }
}

void RingRig::finish() {
  if (!scenario_.dies) {
    if (received_ != scenario_.received) explorer_.fail("not all messages came");
    return;
  }
  if (*scenario_.dies != 0 || received_ == scenario_.received) return;
  // What the producer published before it died was received, all of it.
  for (std::uint32_t i = 0; i < geometry_.slot_count; ++i) {
    const ring_layout::SlotControl& slot = control(i);
    if (slot.flag % 2 == 1 && slot.header.part_index == 0 &&
        slot.header.sequence == received_ * scenario_.parts + ring_layout::kFirstSequence) {
      explorer_.fail(
          fmt::format("message {} was published whole before its producer died, and "
                      "was not received",
                      received_));
    }
  }
}

}  // namespace airlock::model_check
