// A prompt of 1000 tokens beside eight answers under way, with LLaMA-3.2-1B's shape in one process:
// how long its first token takes and how much longer the others' steps are, over what each takes
// alone.
//   company [THREADS [ROUNDS [PROMPT]]]
#include <fmt/format.h>

#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <vector>

#include "base/deadline.h"
#include "bench/local_llama.h"
#include "bench/numbers.h"
#include "bench/record.h"
#include "tee_runner/generate/batch_engine.h"

namespace airlock {
namespace {

constexpr std::size_t kOthers = 8;
constexpr std::int64_t kForEver = 100000;
constexpr std::size_t kSettled = 10;  // steps of the others that are looked at alone

class LocalModel final : public EngineModel {
 public:
  explicit LocalModel(std::size_t threads) : llama_(threads) {}
  LlamaDriver& driver() override { return llama_.driver(); }
  Status check() override { return {}; }

 private:
  bench::LocalLlama llama_;
};

/// When each token came.
class Times final : public TokenSink {
 public:
  bool on_token(const GeneratedToken&) override {
    const std::lock_guard lock(mutex_);
    came_ns_.push_back(now_ns());
    changed_.notify_all();
    return true;
  }
  void on_finish(const Finish&) override {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    changed_.notify_all();
  }
  void await_tokens(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return came_ns_.size() >= count; });
  }
  void await_end() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_over_; });
  }
  std::vector<std::uint64_t> came_ns() {
    const std::lock_guard lock(mutex_);
    return came_ns_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::uint64_t> came_ns_;
  bool is_over_ = false;
};

/// Milliseconds between tokens that came in [from, to).
void add_steps(Times& times, std::uint64_t from, std::uint64_t to, std::vector<double>& ms) {
  const std::vector<std::uint64_t> came = times.came_ns();
  for (std::size_t i = 1; i < came.size(); ++i) {
    if (came[i - 1] >= from && came[i] < to)
      ms.push_back(static_cast<double>(came[i] - came[i - 1]) * 1e-6);
  }
}

struct Figures {
  std::vector<double> first_alone, first_beside, steps_alone, steps_beside;  // ms
};

class Company {
 public:
  Company(BatchEngine& engine, std::size_t prompt) : engine_(engine), prompt_(prompt) {}

  void round(Figures& figures) {
    figures.first_alone.push_back(first_token_ms());
    std::vector<std::shared_ptr<Times>> others;
    std::vector<GenerationId> ids;
    for (std::size_t i = 0; i < kOthers; ++i) {
      others.push_back(std::make_shared<Times>());
      ids.push_back(submit({static_cast<std::int32_t>(100 + i)}, kForEver, others.back()));
    }
    for (const auto& other : others) other->await_tokens(2);
    const std::uint64_t settled = now_ns();
    const std::size_t seen = others[0]->came_ns().size();
    others[0]->await_tokens(seen + kSettled);
    const std::uint64_t begun = now_ns();
    figures.first_beside.push_back(first_token_ms());
    const std::uint64_t done = now_ns();
    for (std::size_t i = 0; i < kOthers; ++i) {
      add_steps(*others[i], settled, begun, figures.steps_alone);
      add_steps(*others[i], begun, done, figures.steps_beside);
      engine_.cancel(ids[i]);
      others[i]->await_end();
    }
  }

 private:
  GenerationId submit(std::vector<std::int32_t> prompt, std::int64_t max_tokens,
                      std::shared_ptr<TokenSink> sink) {
    GenerateRequest request;
    request.prompt = std::move(prompt);
    request.max_tokens = max_tokens;
    // Nobody has cached anything for it.
    request.owner = std::to_string(++owners_);
    return engine_.submit(std::move(request), std::move(sink)).value();
  }
  double first_token_ms() {
    const auto times = std::make_shared<Times>();
    const std::uint64_t start = now_ns();
    submit(std::vector<std::int32_t>(prompt_, 7), 1, times);
    times->await_end();
    return static_cast<double>(times->came_ns().at(0) - start) * 1e-6;
  }

  BatchEngine& engine_;
  const std::size_t prompt_;
  std::uint64_t owners_ = 0;
};

void run(std::size_t threads, std::size_t rounds, std::size_t prompt) {
  BatchEngineOptions options;
  options.dims = bench::kLlama1B;
  options.context_length = 8192;
  options.cache_bytes = std::uint64_t{3} << 30;
  TextStats stats;
  const auto engine =
      BatchEngine::create(options, std::make_unique<LocalModel>(threads), stats).value();
  Figures figures;
  Company company(*engine, prompt);
  for (std::size_t i = 0; i < rounds; ++i) company.round(figures);
  const double first = bench::median_of(figures.first_alone);
  const double beside = bench::median_of(figures.first_beside);
  const double step = bench::median_of(figures.steps_alone);
  const double longer = bench::median_of(figures.steps_beside);
  fmt::print(
      "{} threads, a prompt of {} tokens, {} others, {} rounds, pieces of {} alone and {} "
      "beside\n\n"
      "| what | alone ms | in company ms | ratio |\n| --- | ---: | ---: | ---: |\n"
      "| first token of the prompt | {:.0f} | {:.0f} | {:.2f} |\n"
      "| a step of the others | {:.1f} | {:.1f} | {:.2f} |\n",
      threads, prompt, kOthers, rounds, options.chunk_alone, options.rows_beside, first, beside,
      beside / first, step, longer, longer / step);
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const auto numbers =
      airlock::bench::numbers_of(argc, argv, "company [THREADS [ROUNDS [PROMPT, to 8000]]]",
                                 {{2, 64}, {3, 100}, {1000, 8000}});
  if (!numbers) return 2;
  const auto [threads, rounds, prompt] = *numbers;
  airlock::run(static_cast<std::size_t>(threads), static_cast<std::size_t>(rounds),
               static_cast<std::size_t>(prompt));
  return 0;
}
