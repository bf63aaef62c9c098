// An engine whose model goes, comes back or lies, and one that hangs.

#include <gmock/gmock.h>

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <deque>
#include <future>
#include <limits>
#include <new>
#include <stdexcept>
#include <thread>

#include "base/sink.h"
#include "tests/support/sanitizer.h"
#include "tests/tee_runner/generate/batch_engine_rig.h"

namespace {
/// How much more this thread is given of what operator new gives.
thread_local std::size_t allocations_left = std::numeric_limits<std::size_t>::max();
}  // namespace

// ASan has its own, and compares who gives with who takes back.
#if !AIRLOCK_ASAN
// Not inline: where only one of a pair is, the compiler takes them for strangers.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (allocations_left == 0) throw std::bad_alloc();
  --allocations_left;
  if (void* const memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

TEST_F(BatchEngineTest, why_a_server_is_not_back_is_said) {
  auto lasting = options();
  lasting.reconnect = []() -> Result<std::unique_ptr<EngineModel>> {
    return Status(StatusCode::kMismatch, "it has another model");
  };
  const auto engine = start(lasting);
  world_.is_there = false;
  const Deadline give_up = Deadline::after(kPatience);
  while (engine->health().message().find("another model") == std::string::npos &&
         !give_up.expired())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_THAT(engine->health().message(), HasSubstr("it has another model"));
  EXPECT_EQ(engine->health().code(), StatusCode::kUnavailable);
}

TEST_F(BatchEngineTest, a_server_that_goes_is_told_and_comes_back_by_itself) {
  auto lasting = options();
  lasting.max_sequences = 1;
  lasting.reconnect = [this]() -> Result<std::unique_ptr<EngineModel>> {
    if (!world_.is_there) return Status(StatusCode::kUnavailable, "no server");
    return std::unique_ptr<EngineModel>(std::make_unique<TinyModel>(world_));
  };
  const auto engine = start(lasting);
  const auto answer = std::make_shared<Answer>();
  const auto waits = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 390), answer).ok());
  ASSERT_TRUE(engine->submit(request_of({2}, 390), waits).ok());
  answer->await_tokens(1);
  world_.is_there = false;
  for (const auto& each : {answer, waits}) {
    const Finish end = each->end();
    EXPECT_EQ(end.reason, FinishReason::kFailed);
    EXPECT_EQ(end.status.code(), StatusCode::kUnavailable);
    EXPECT_THAT(end.status.message(), HasSubstr("it was killed"));
  }
  EXPECT_EQ(engine->health().code(), StatusCode::kUnavailable);
  EXPECT_EQ(engine->submit(request_of({1}, 4), answer).status().code(), StatusCode::kUnavailable);
  world_.is_there = true;
  const Deadline give_up = Deadline::after(kPatience);
  while (!engine->health().ok() && !give_up.expired())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto again = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 4), again).ok());
  EXPECT_EQ(again->end().reason, FinishReason::kLength);
  EXPECT_EQ(again->ids(), greedy({1}, 4));
}

TEST_F(BatchEngineTest, a_server_that_is_not_back_in_time_is_given_up) {
  auto lasting = options();
  lasting.reconnect = []() -> Result<std::unique_ptr<EngineModel>> {
    return Status(StatusCode::kResourceExhausted, "server full");
  };
  lasting.reconnect_for = std::chrono::milliseconds(50);
  std::promise<Status> gave_up;
  lasting.gave_up = [&gave_up](const Status& why) { gave_up.set_value(why); };
  const auto engine = start(lasting);
  world_.is_there = false;
  auto given_up = gave_up.get_future();
  ASSERT_EQ(given_up.wait_for(kPatience), std::future_status::ready);
  const Status why = given_up.get();
  EXPECT_EQ(why.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(why.message(), HasSubstr("not back within 0.05 s: server full"));
  EXPECT_EQ(engine->health().message(), why.message());
  EXPECT_TRUE(engine->liveness().ok());
}

/// Holds the engine's thread until it is let go.
class Holder final : public TokenSink {
 public:
  bool on_token(const GeneratedToken&) override {
    held_.set_value();
    gate_.get_future().wait();
    return false;
  }
  void on_finish(const Finish&) override {}
  void await() { EXPECT_EQ(held_.get_future().wait_for(kPatience), std::future_status::ready); }
  void let_go() { gate_.set_value(); }

 private:
  std::promise<void> held_;
  std::promise<void> gate_;
};

TEST_F(BatchEngineTest, a_thread_that_hangs_is_seen) {
  auto watched = options();
  watched.stall_after = std::chrono::seconds(2);  // over its look when idle
  const auto engine = start(watched);
  const auto alive_becomes = [&engine](bool wanted) {
    const Deadline patience = Deadline::after(kPatience);
    while (engine->liveness().ok() != wanted && !patience.expired())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return engine->liveness().ok() == wanted;
  };
  EXPECT_TRUE(engine->liveness().ok());
  const auto holder = std::make_shared<Holder>();
  ASSERT_TRUE(engine->submit(request_of({1}, 2), holder).ok());
  holder->await();
  EXPECT_TRUE(alive_becomes(false));
  EXPECT_THAT(engine->liveness().message(), HasSubstr("has not moved for"));
  EXPECT_TRUE(engine->health().ok());
  holder->let_go();
  EXPECT_TRUE(alive_becomes(true));
}

TEST_F(BatchEngineTest, who_lies_is_asked_no_more_also_where_it_hangs_up) {
  BatchEngineOptions lasting = options();
  lasting.reconnect = [this]() -> Result<std::unique_ptr<EngineModel>> {
    world_.is_there = true;
    return std::unique_ptr<EngineModel>(std::make_unique<TinyModel>(world_));
  };
  std::promise<Status> gave_up;
  lasting.gave_up = [&gave_up](const Status& why) { gave_up.set_value(why); };
  const auto engine = start(lasting);
  const auto before = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 2), before).ok());
  EXPECT_EQ(before->end().reason, FinishReason::kLength);
  const int made = world_.made;
  world_.lies = true;
  const auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 4), answer).ok());
  const Finish end = answer->end();
  EXPECT_EQ(end.reason, FinishReason::kFailed);
  EXPECT_EQ(end.status.code(), StatusCode::kMismatch);
  EXPECT_TRUE(answer->ids().empty());
  auto told = gave_up.get_future();
  ASSERT_EQ(told.wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(told.get().code(), StatusCode::kMismatch);
  EXPECT_EQ(engine->health().code(), StatusCode::kMismatch);
  EXPECT_EQ(engine->submit(request_of({1}, 4), answer).status().code(), StatusCode::kMismatch);
  EXPECT_EQ(world_.made, made) << "it was asked for again";
}

TEST_F(BatchEngineTest, who_lies_to_the_first_token_after_it_came_back_is_asked_no_more) {
  BatchEngineOptions lasting = options();
  std::atomic<int> asked{0};
  lasting.reconnect = [&]() -> Result<std::unique_ptr<EngineModel>> {
    // One of another model is no liar, and may be another one the next time.
    if (++asked == 1) return Status(StatusCode::kMismatch, "it has another model");
    world_.lies = true;
    world_.is_there = true;
    auto made = std::make_unique<TinyModel>(world_);
    EXPECT_TRUE(made->check().ok());  // arms it; it hangs up once it has lied
    return std::unique_ptr<EngineModel>(std::move(made));
  };
  std::promise<Status> gave_up;
  lasting.gave_up = [&gave_up](const Status& why) { gave_up.set_value(why); };
  const auto engine = start(lasting);
  world_.is_there = false;
  auto told = gave_up.get_future();
  ASSERT_EQ(told.wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(told.get().code(), StatusCode::kMismatch);
  EXPECT_EQ(engine->health().code(), StatusCode::kMismatch);
  EXPECT_THAT(engine->health().message(), HasSubstr("failed its check"));
  EXPECT_FALSE(world_.is_there);
  EXPECT_EQ(asked, 2);
}

TEST_F(BatchEngineTest, one_whose_first_token_fails_is_not_taken_and_asked_for_again) {
  world_.fails = true;
  TinyModel model(world_);
  ASSERT_TRUE(model.check().ok());
  const Status failed = try_model(model);
  EXPECT_FALSE(failed.ok());
  BatchEngineOptions lasting = options();
  lasting.reconnect = [this]() -> Result<std::unique_ptr<EngineModel>> {
    world_.is_there = true;
    world_.fails = world_.made < 4;
    auto made = std::make_unique<TinyModel>(world_);
    EXPECT_TRUE(made->check().ok());
    return std::unique_ptr<EngineModel>(std::move(made));
  };
  world_.fails = false;
  const auto engine = start(lasting);
  const auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 390), answer).ok());
  answer->await_tokens(1);
  world_.is_there = false;
  answer->end();
  const Deadline patience = Deadline::after(kPatience);
  while (!engine->health().ok() && !patience.expired())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(engine->health().ok());
  EXPECT_EQ(world_.made, 5);
}

TEST_F(BatchEngineTest, a_reconnect_that_throws_is_one_more_miss) {
  BatchEngineOptions lasting = options();
  std::atomic<int> asked{0};
  lasting.reconnect = [&]() -> Result<std::unique_ptr<EngineModel>> {
    if (++asked == 1) throw std::bad_alloc();
    world_.is_there = true;
    return std::unique_ptr<EngineModel>(std::make_unique<TinyModel>(world_));
  };
  const auto engine = start(lasting);
  world_.is_there = false;
  const Deadline patience = Deadline::after(kPatience);
  while ((asked < 2 || !engine->health().ok()) && !patience.expired())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(engine->health().ok()) << engine->health().to_string();
  EXPECT_EQ(asked, 2);
}

/// Whose check throws.
template <typename Thrown>
class Broken final : public EngineModel {
 public:
  LlamaDriver& driver() override { throw Thrown("broken"); }
  Status check() override { throw Thrown("broken"); }
};

struct NoMemory : std::bad_alloc {
  explicit NoMemory(const char*) {}
};

TEST_F(BatchEngineTest, an_engine_that_ends_of_itself_says_so) {
  const auto end_of = [this](std::unique_ptr<EngineModel> model) {
    std::promise<Status> gave_up;
    BatchEngineOptions watched = options();
    watched.gave_up = [&gave_up](const Status& why) { gave_up.set_value(why); };
    const auto engine = BatchEngine::create(watched, std::move(model), stats_).value();
    auto told = gave_up.get_future();
    EXPECT_EQ(told.wait_for(kPatience), std::future_status::ready);
    EXPECT_FALSE(engine->health().ok());
    return told.get().code();
  };
  EXPECT_EQ(end_of(std::make_unique<Broken<NoMemory>>()), StatusCode::kResourceExhausted);
  EXPECT_EQ(end_of(std::make_unique<Broken<std::runtime_error>>()), StatusCode::kInternal);
}

/// Whose check fails, and what comes of that in the engine has memory for `left` things.
class Starved final : public EngineModel {
 public:
  Starved(StatusCode code, std::size_t left) : code_(code), left_(left) {}
  LlamaDriver& driver() override { throw std::bad_alloc(); }
  Status check() override {
    Status why(code_, "more words than a string has room for in itself");
    allocations_left = left_;
    if (code_ == StatusCode::kResourceExhausted) throw std::bad_alloc();
    return why;
  }

 private:
  const StatusCode code_;
  const std::size_t left_;
};

TEST_F(BatchEngineTest, an_engine_that_gives_up_says_so_however_little_memory_there_is) {
  if (AIRLOCK_ASAN) GTEST_SKIP() << "operator new is the sanitizer's: memory is never short";
  (void)stderr_sink();  // as in a program, it is there before memory is short
  struct Case {
    StatusCode code;
    std::size_t left;
    std::promise<StatusCode> gave_up;
    std::unique_ptr<BatchEngine> engine;
  };
  std::deque<Case> cases;
  for (const StatusCode code :
       {StatusCode::kResourceExhausted, StatusCode::kMismatch, StatusCode::kInternal}) {
    for (std::size_t left = 0; left < 20; ++left) {
      Case& each = cases.emplace_back(Case{code, left, {}, nullptr});
      BatchEngineOptions watched = options();
      watched.cache_bytes = std::uint64_t{1} << 20;
      watched.gave_up = [&each](const Status& why) { each.gave_up.set_value(why.code()); };
      each.engine =
          BatchEngine::create(watched, std::make_unique<Starved>(code, left), stats_).value();
    }
  }
  for (Case& each : cases) {
    auto told = each.gave_up.get_future();
    ASSERT_EQ(told.wait_for(kPatience), std::future_status::ready)
        << name_of(each.code) << ", " << each.left << " left";
    EXPECT_EQ(each.engine->health().code(), told.get());
  }
}

TEST_F(BatchEngineTest, a_listener_that_throws_ends_no_process) {
  BatchEngineOptions watched = options();
  std::promise<void> asked;
  watched.gave_up = [&asked](const Status&) {
    asked.set_value();
    throw std::bad_alloc();
  };
  const auto engine =
      BatchEngine::create(watched, std::make_unique<Broken<NoMemory>>(), stats_).value();
  EXPECT_EQ(asked.get_future().wait_for(kPatience), std::future_status::ready);
}

TEST_F(BatchEngineTest, an_attempt_that_was_cancelled_is_an_end_and_no_miss) {
  BatchEngineOptions lasting = options();
  std::atomic<int> asked{0};
  lasting.reconnect = [&asked]() -> Result<std::unique_ptr<EngineModel>> {
    ++asked;
    return Status(StatusCode::kCancelled, "the program ends");
  };
  const auto engine = start(lasting);
  world_.is_there = false;
  const Deadline patience = Deadline::after(kPatience);
  while (asked < 2 && !patience.expired())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_THAT(engine->health().message(), HasSubstr("it was killed"));
}

}  // namespace
}  // namespace airlock::testing
