#include "tests/tee_runner/serve/fake_engine.h"

#include <chrono>

#include "base/check.h"

namespace airlock {
namespace {

constexpr std::chrono::seconds kWatchdog{60};
constexpr std::chrono::milliseconds kTurn{10};

}  // namespace

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Result<GenerationId> FakeEngine::submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) {
  const std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(check(request.sampling));
  for (const std::int32_t id : request.prompt) {
    if (id < 0 || id >= options_.vocab)
      return Status(StatusCode::kInvalidInput, "a token is beyond the vocabulary");
  }
  if (request.prompt.empty() || exceeds_context(request.prompt.size()))
    return Status(StatusCode::kInvalidInput, "no prompt, or too long a one");
  RETURN_IF_ERROR(health_);
  if (running_.size() >= options_.most_answers)
    return Status(StatusCode::kResourceExhausted, "the queue is full");
  last_ = request;
  running_.push_back({next_id_, std::move(request), std::move(sink)});
  changed_.notify_all();
  return next_id_++;
}

void FakeEngine::cancel(GenerationId id) {
  const std::lock_guard lock(mutex_);
  for (Running& each : running_) each.cancelled = each.cancelled || each.id == id;
  changed_.notify_all();
}

Status FakeEngine::health() const {
  const std::lock_guard lock(mutex_);
  return health_;
}

Status FakeEngine::liveness() const {
  if (pulse_.age() < options_.stall_after) return {};
  return {StatusCode::kInternal, "the thread has not moved"};
}

void FakeEngine::let(std::size_t steps) {
  const std::lock_guard lock(mutex_);
  steps_ += steps;
  changed_.notify_all();
}

void FakeEngine::set_health(Status status) {
  const std::lock_guard lock(mutex_);
  health_ = std::move(status);
}

void FakeEngine::set_failure(Status status) {
  const std::lock_guard lock(mutex_);
  failure_ = std::move(status);
}

GenerateRequest FakeEngine::last_request() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

std::size_t FakeEngine::cancelled_count() const {
  const std::lock_guard lock(mutex_);
  return cancelled_;
}

void FakeEngine::wait_for_answers(std::size_t count) {
  std::unique_lock lock(mutex_);
  CHECK(changed_.wait_for(lock, kWatchdog, [&] { return running_.size() == count; }));
}

void FakeEngine::wait_for_ended(std::size_t count) {
  std::unique_lock lock(mutex_);
  CHECK(changed_.wait_for(lock, kWatchdog, [&] { return ended_ >= count; }));
}

Finish FakeEngine::finish_of(const Running& running, FinishReason reason) {
  return {.reason = reason,
          .status = {},
          .prompt_tokens = running.request.prompt.size(),
          .cached_tokens = 1,
          .generated_tokens = running.given,
          .ttft_ns = running.given > 0 ? 1000U : 0U};
}

bool FakeEngine::step(Running& running, const Status& failure) {
  const auto end = [&](FinishReason reason) {
    Finish finish = finish_of(running, reason);
    if (reason == FinishReason::kFailed) finish.status = failure;
    running.sink->on_finish(finish);
    return false;
  };
  if (running.cancelled) return end(FinishReason::kCancelled);
  if (!failure.ok()) return end(FinishReason::kFailed);
  const auto& prompt = running.request.prompt;
  if (running.given >= static_cast<std::size_t>(running.request.max_tokens))
    return end(FinishReason::kLength);
  if (!options_.endless && running.given == prompt.size()) return end(FinishReason::kStop);
  GeneratedToken token{prompt[running.given++ % prompt.size()], 0, {}};
  if (const auto count = running.request.sampling.log_probabilities) {
    token.log_probability = -0.25;
    for (int i = 0; i < *count; ++i) token.top.push_back({(token.id + i) % 256, -0.25 - i});
  }
  return running.sink->on_token(token) || end(FinishReason::kStop);
}

void FakeEngine::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto any_cancelled = [&] {
      for (const Running& each : running_) {
        if (each.cancelled) return true;
      }
      return false;
    };
    const auto has_work = [&] {
      return stopping_ || (!running_.empty() && (!options_.gated || steps_ > 0 || any_cancelled()));
    };
    do {
      while (frozen_) std::this_thread::sleep_for(kTurn);
      pulse_.beat();
    } while (!changed_.wait_for(lock, kTurn, has_work));
    if (stopping_) break;
    const bool gives = !options_.gated || steps_ > 0;
    if (options_.gated && gives) --steps_;
    for (auto each = running_.begin(); each != running_.end();) {
      const bool goes_on = !gives && !each->cancelled ? true : step(*each, failure_);
      cancelled_ += each->cancelled && !goes_on ? 1 : 0;
      ended_ += goes_on ? 0 : 1;
      each = goes_on ? std::next(each) : running_.erase(each);
    }
    changed_.notify_all();
    // Those who submit and cancel get their turn.
    lock.unlock();
    std::this_thread::yield();
    if (options_.pause.count() > 0) std::this_thread::sleep_for(options_.pause);
    lock.lock();
  }
  for (Running& each : running_) each.sink->on_finish(finish_of(each, FinishReason::kCancelled));
  running_.clear();
}

EngineFigures FakeEngine::figures() const {
  EngineFigures figures{.active = 3,
                        .queued = 2,
                        .max_active = 16,
                        .max_queued = 64,
                        .oldest_wait_ns = 1'500'000'000,
                        .kept = 1,
                        .cache_used_bytes = 4096,
                        .cache_limit_bytes = 8192};
  figures.text.generated_tokens = 77;
  figures.text.itl_ns.record(20'000'000);
  figures.text.itl_ns.record(20'000'000);
  return figures;
}

}  // namespace airlock
