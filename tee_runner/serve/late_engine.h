#pragma once

#include <atomic>
#include <limits>
#include <mutex>
#include <utility>

#include "tee_runner/generate/engine.h"

namespace airlock {

/// An engine that is still being made: until it is there, nothing is answered, and health() says
/// what it waits for. Thread-safe.
class LateEngine final : public Engine {
 public:
  /// What is waited for, an error; logged by nobody here.
  void say(Status why) {
    const std::lock_guard lock(mutex_);
    waits_for_ = std::move(why);
  }
  /// `engine` outlives this. Once.
  void set(Engine& engine) { engine_.store(&engine, std::memory_order_release); }

  Result<GenerationId> submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) override {
    Engine* const engine = there();
    if (engine == nullptr) return waits_for();
    return engine->submit(std::move(request), std::move(sink));
  }
  void cancel(GenerationId id) override {
    if (Engine* const engine = there()) engine->cancel(id);
  }
  std::int64_t context_length() const override {
    Engine* const engine = there();
    return engine != nullptr ? engine->context_length() : std::numeric_limits<std::int64_t>::max();
  }
  Status health() const override {
    Engine* const engine = there();
    return engine != nullptr ? engine->health() : waits_for();
  }
  Status liveness() const override {
    Engine* const engine = there();
    return engine != nullptr ? engine->liveness() : Status();
  }
  EngineFigures figures() const override {
    Engine* const engine = there();
    return engine != nullptr ? engine->figures() : EngineFigures();
  }

 private:
  // Pairs with set().
  Engine* there() const { return engine_.load(std::memory_order_acquire); }
  // Never ok, whether the engine has come meanwhile or not.
  Status waits_for() const {
    const std::lock_guard lock(mutex_);
    return waits_for_;
  }

  std::atomic<Engine*> engine_{nullptr};
  mutable std::mutex mutex_;
  Status waits_for_{StatusCode::kUnavailable, "starting: the model is not loaded yet"};
};

}  // namespace airlock
