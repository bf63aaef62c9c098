#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shm/ring.h"
#include "tests/model_check/explorer.h"

namespace airlock::model_check {

/// One change to the ring's accesses that ought to be found: an order that is weaker than it must
/// be, or an access that is not made. Changes of statements are in edit_source.py.
enum class Mutant {
  kNone,
  kPublishRelaxed,       // the producer's store of a flag
  kSeePublishedRelaxed,  // the consumer's load of a flag
  kReleaseRelaxed,       // the consumer's store of a flag
  kSeeReleasedRelaxed,   // the producer's load of a flag
  kBellNotSequential,    // acq_rel
  kArmNotSequential,     // the store of 1 to the waiting word: release
  kAskNotSequential,     // the load of the waiting word: acquire
  kBellNotRung,
  kNobodyArms,
  kNoWake,
  kSeenBellRelaxed,  // the load of the bell while arming
  // These two the protocol bears. Who arms may see an old bell, as long as a new one brings what
  // was published: the futex compares again. And a waiting word that stays 1 costs needless wakes.
  kSeenBellAcquire,
  kNobodyDisarms,
};

/// What both ends do, and how far the explorer goes.
struct Scenario {
  std::string name;
  std::uint32_t slot_count = 2;
  /// Messages that are in the ring when it begins.
  std::size_t before = 0;
  std::size_t sent = 2;
  /// At most those before and the sent ones.
  std::size_t received = 2;
  std::size_t parts = 1;
  /// Slots that the consumer keeps; what is more it gives back, the newest first.
  std::size_t held = 0;
  /// Before each message a claim is given back unsent.
  bool aborts = false;
  /// Pairs of messages: both are claimed, and the second claim is committed first.
  bool crossed = false;
  /// Each claim and each receive is tried once without waiting.
  bool tries = false;
  WaitMode mode = WaitMode::kFutex;
  unsigned early_wakes = 0;
  bool spins = false;
  /// 0 (producer) or 1 (consumer) dies, at each of its steps in turn.
  std::optional<std::size_t> dies = {};
};

/// A ring in memory of the explorer's, and a producer and a consumer that check all that they see.
class RingRig {
 public:
  /// For a death, all of its steps together.
  Report explore(const Scenario& scenario, Mutant mutant = Mutant::kNone,
                 std::uint64_t max_executions = 100'000'000);

 private:
  /// Passes the ring's accesses on to the explorer, changed as the mutant says.
  class Access;

  void set_up();
  void produce();
  void consume();
  void finish();
  Status send(const std::vector<std::uint32_t>& slots, std::uint64_t number);
  bool take_one(std::uint64_t number, std::vector<std::uint32_t>& held);
  WaitCheck check();
  ring_layout::SlotControl& control(std::uint32_t slot);
  std::string word_name(const void* address);

  Explorer explorer_;
  Scenario scenario_;
  std::unique_ptr<Segment> segment_;
  RingGeometry geometry_;
  std::optional<RingProducer> producer_;
  std::optional<RingConsumer> consumer_;
  std::size_t received_ = 0;
  std::uint32_t gone_ = 0;
};

/// kQuick ones take a second together, and are enough to find every mutant. kLong ones take
/// minutes.
enum class Extent { kQuick, kUsual, kLong };
std::vector<Scenario> ring_scenarios(Extent extent);

/// Whether one of the quick scenarios fails; prints which, how soon, and the execution.
bool is_caught(const std::string& name, Mutant mutant);

}  // namespace airlock::model_check
