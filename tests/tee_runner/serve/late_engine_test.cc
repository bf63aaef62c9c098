// An engine that comes while it is asked.

#include "tee_runner/serve/late_engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <thread>

#include "base/deadline.h"

namespace airlock {
namespace {

class ReadyEngine final : public Engine {
 public:
  Result<GenerationId> submit(GenerateRequest, std::shared_ptr<TokenSink>) override { return 7; }
  void cancel(GenerationId) override {}
  std::int64_t context_length() const override { return 16; }
  Status health() const override { return {}; }
  Status liveness() const override { return {}; }
  EngineFigures figures() const override { return {}; }
};

TEST(LateEngine, one_that_comes_while_it_is_asked_answers_or_is_waited_for) {
  constexpr std::size_t kTrials = 2000;
  ReadyEngine ready;
  std::deque<LateEngine> late(kTrials);
  std::atomic<std::size_t> asked{0};
  std::thread comes([&] {
    for (std::size_t i = 0; i < kTrials; ++i) {
      while (asked.load() <= i) std::this_thread::yield();
      late[i].set(ready);
    }
  });
  const Deadline patience = Deadline::after(std::chrono::seconds(60));
  for (LateEngine& engine : late) {
    ++asked;
    auto answered = engine.submit({}, nullptr);
    while (answered.status().code() == StatusCode::kUnavailable && !patience.expired()) {
      std::this_thread::yield();
      answered = engine.submit({}, nullptr);
    }
    EXPECT_TRUE(answered.ok() && *answered == 7U) << answered.status().to_string();
    EXPECT_TRUE(engine.health().ok());
  }
  comes.join();
}

}  // namespace
}  // namespace airlock
