#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>

#include "base/status.h"
#include "runtime/backend.h"
#include "runtime/replay/counts.h"
#include "runtime/replay/material.h"
#include "runtime/replay/settings.h"
#include "runtime/replay/verify.h"

namespace airlock {

/// Tells the time to a replay and waits for it: the steady clock, or a test's.
class ReplayClock {
 public:
  virtual ~ReplayClock() = default;
  virtual std::uint64_t now_ns();
  virtual void sleep_until(std::uint64_t at_ns);
};

/// What a replay stands on; all of it outlives the replay.
struct ReplayParts {
  Backend& backend;
  RecordSource& records;
  const ReplayInputs& inputs;
  // Null: outputs are not compared.
  const ReplayVerifier* verifier;
  ReplayClock& clock;
  ReplayTally& tally;
  // Whether the server is there: asked while nothing is waited for but a recorded start.
  std::function<Status()> check_server;
  // The longest time for one op.
  std::chrono::milliseconds op_timeout{300000};
};

/// One client's replay: asks a backend for the ops of a trace, in their order. At most `inflight`
/// are under way; the oldest is waited for first. An op never waits for another's result, as it did
/// when it was recorded. One thread.
class Replay {
 public:
  /// Of `settings` it takes speed, repeat and inflight.
  Replay(const ReplayParts& parts, const ReplaySettings& settings)
      : parts_(parts), settings_(settings) {}

  /// Until the last repetition ends or something fails; names the op that did. Outputs that differ
  /// are counted and no failure.
  Status run();

 private:
  struct UnderWay {
    TraceRecord record;
    std::uint64_t start_ns = 0;
    std::unique_ptr<Pending> pending;
  };
  Status replay_once();
  Status submit(const TraceRecord& record);
  Status start(const TraceRecord& record);
  Status await_start(const TraceRecord& record);
  Status complete_oldest();
  Status drain();
  void book_rest();
  Status verify(const UnderWay& op);

  ReplayParts parts_;
  ReplaySettings settings_;
  std::deque<UnderWay> under_way_;
  std::uint64_t pass_start_ns_ = 0;
  std::optional<std::uint64_t> first_start_ns_;  // recorded, of this pass
};

}  // namespace airlock
