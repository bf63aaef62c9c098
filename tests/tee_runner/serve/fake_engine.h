#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "base/pulse.h"
#include "tee_runner/generate/engine.h"

namespace airlock {

/// An engine without a model: the answer to a prompt is the prompt, token by token, over and over
/// up to max_tokens where it is endless, else once. A thread of its own gives each answer under way
/// a token in turn.
class FakeEngine : public Engine {
 public:
  struct Options {
    std::int64_t context = 4096;
    std::int32_t vocab = 259;
    std::size_t most_answers = 4096;
    bool endless = false;
    // No token before let().
    bool gated = false;
    // Between two steps.
    std::chrono::milliseconds pause{0};
    // Without a turn of its thread, until liveness() says so.
    std::chrono::milliseconds stall_after{60'000};
  };
  explicit FakeEngine(Options options) : options_(options), thread_([this] { run(); }) {}
  FakeEngine() : FakeEngine(Options()) {}
  ~FakeEngine() override;

  Result<GenerationId> submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) override;
  void cancel(GenerationId id) override;
  std::int64_t context_length() const override { return options_.context; }
  Status health() const override;
  Status liveness() const override;
  EngineFigures figures() const override;

  /// So many more steps, of each of which every answer gets a token.
  void let(std::size_t steps);
  void set_health(Status status);
  /// The next answers end with this failure instead of a token.
  void set_failure(Status status);
  /// Its thread stands still, and goes on.
  void set_frozen(bool frozen) { frozen_ = frozen; }
  /// What was submitted last.
  GenerateRequest last_request() const;
  std::size_t cancelled_count() const;
  /// A watchdog ends the process.
  void wait_for_answers(std::size_t count);
  /// So many answers have ended since the beginning.
  void wait_for_ended(std::size_t count);

 private:
  struct Running {
    GenerationId id;
    GenerateRequest request;
    std::shared_ptr<TokenSink> sink;
    std::size_t given = 0;
    bool cancelled = false;
  };
  void run();
  // Whether it goes on.
  bool step(Running& running, const Status& failure);
  static Finish finish_of(const Running& running, FinishReason reason);

  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::list<Running> running_;
  Status health_;
  Status failure_;
  GenerateRequest last_;
  std::size_t steps_ = 0;
  std::size_t cancelled_ = 0;
  std::size_t ended_ = 0;
  GenerationId next_id_ = 1;
  bool stopping_ = false;
  std::atomic<bool> frozen_{false};
  Pulse pulse_;
  std::thread thread_;
};

}  // namespace airlock
