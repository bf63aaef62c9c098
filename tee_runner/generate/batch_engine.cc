#include "tee_runner/generate/batch_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/deadline.h"
#include "base/log.h"
#include "base/thread.h"
#include "proto/limits.h"

namespace airlock {

namespace {

/// How often an engine without work looks whether its model is there.
constexpr std::chrono::milliseconds kIdleLook{500};

Status ended() { return {StatusCode::kUnavailable, "the engine has ended"}; }

/// What a step's failure is of: the step alone, or the session, which is over then.
bool is_of_the_step(StatusCode code) {
  return code == StatusCode::kResourceExhausted || code == StatusCode::kInvalidInput;
}

}  // namespace

Status try_model(EngineModel& model) {
  const std::int32_t token = 0;
  const Status tried = model.driver().prefill(std::span(&token, 1)).status();
  if (tried.code() == StatusCode::kMismatch) return tried;
  // Why it has gone says more than what came of that.
  RETURN_IF_ERROR(model.check());
  return tried;
}

struct BatchEngine::Sequence {
  Sequence(GenerationId of, GenerateRequest asked, std::shared_ptr<TokenSink> teller,
           Sampler chooser, std::shared_ptr<CacheMemory> memory)
      : id(of),
        request(std::move(asked)),
        sink(std::move(teller)),
        sampler(std::move(chooser)),
        cache(std::move(memory)),
        tokens(request.prompt) {}

  /// Whatever ended the engine: who waits is told.
  ~Sequence() {
    if (is_over) return;
    Finish lost;
    lost.reason = FinishReason::kFailed;
    lost.status = {StatusCode::kInternal, "the engine lost this answer"};
    lost.prompt_tokens = request.prompt.size();
    sink->on_finish(lost);
  }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;

  std::size_t fed() const { return static_cast<std::size_t>(cache.length()); }
  /// The next pass gives its logits for a token that it waits for.
  bool answers() const { return fed() + 1 == tokens.size(); }
  std::size_t generated() const { return tokens.size() - request.prompt.size(); }

  const GenerationId id;
  const GenerateRequest request;
  const std::shared_ptr<TokenSink> sink;
  Sampler sampler;
  SequenceCache cache;
  std::vector<std::int32_t> tokens;  // the prompt, and what was chosen
  std::size_t cached_tokens = 0;
  const std::uint64_t start_ns = now_ns();
  std::uint64_t first_ns = 0;  // when the first token came, and the last
  std::uint64_t last_ns = 0;
  std::optional<std::int32_t> stop_id;
  bool is_begun = false;
  bool is_over = false;
};

BatchEngine::BatchEngine(BatchEngineOptions options, std::unique_ptr<EngineModel> model,
                         TextStats& stats, std::shared_ptr<CacheMemory> memory)
    : options_(std::move(options)),
      pulse_(options_.pulse != nullptr ? *options_.pulse : own_pulse_),
      stats_(stats),
      memory_(std::move(memory)),
      model_(std::move(model)) {
  figures_.max_active = options_.max_sequences;
  figures_.max_queued = options_.max_queue;
  figures_.cache_limit_bytes = memory_->block_count() * memory_->block_bytes();
}

Result<std::unique_ptr<BatchEngine>> BatchEngine::create(BatchEngineOptions options,
                                                         std::unique_ptr<EngineModel> model,
                                                         TextStats& stats) {
  CHECK(options.context_length > 1 && options.max_sequences > 0 && options.chunk_alone > 0 &&
        options.rows_beside > 0);
  ASSIGN_OR_RETURN(std::shared_ptr<CacheMemory> memory,
                   CacheMemory::create(options.dims, options.cache_dtype, options.cache_bytes));
  // One that has all of the memory can be answered.
  const auto held = static_cast<std::int64_t>(memory->block_count()) * kCacheBlockPositions;
  if (held < options.context_length) {
    log_info(
        fmt::format("the context is {} positions, not {}: that is what there is memory for "
                    "(--cache-bytes)",
                    held, options.context_length));
    options.context_length = held;
  }
  std::unique_ptr<BatchEngine> engine(
      new BatchEngine(std::move(options), std::move(model), stats, std::move(memory)));
  ASSIGN_OR_RETURN(engine->thread_,
                   start_thread("the engine", [self = engine.get()] { self->work(); }));
  return engine;
}

BatchEngine::~BatchEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Status BatchEngine::check_request(const GenerateRequest& request) const {
  RETURN_IF_ERROR(check_tokens(request.prompt, options_.dims.vocab));
  if (exceeds_context(request.prompt.size())) {
    return {StatusCode::kInvalidInput,
            "the prompt has {} tokens: with one of an answer that is more than the context of {}",
            request.prompt.size(), options_.context_length};
  }
  if (request.max_tokens < 0)
    return {StatusCode::kInvalidInput, "max_tokens is {}, at least 0", request.max_tokens};
  return {};
}

Result<GenerationId> BatchEngine::submit(GenerateRequest request, std::shared_ptr<TokenSink> sink) {
  RETURN_IF_ERROR(check_request(request));
  ASSIGN_OR_RETURN(Sampler sampler, Sampler::create(request.sampling, options_.dims.vocab));
  RETURN_IF_ERROR(sampler.add_prompt(request.prompt));
  const std::lock_guard lock(mutex_);
  if (stopping_) return ended();
  RETURN_IF_ERROR(health_);
  if (queue_.size() >= options_.max_queue) {
    return Status(StatusCode::kResourceExhausted, "{} prompts are waiting already: try again later",
                  queue_.size());
  }
  const GenerationId id = next_id_++;
  queue_.push_back(std::make_unique<Sequence>(id, std::move(request), std::move(sink),
                                              std::move(sampler), memory_));
  known_.insert(id);
  figures_.queued = queue_.size();
  changed_.notify_all();
  return id;
}

void BatchEngine::cancel(GenerationId id) {
  const std::lock_guard lock(mutex_);
  if (!known_.contains(id)) return;
  cancelled_.insert(id);
  changed_.notify_all();
}

Status BatchEngine::health() const {
  const std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(health_);
  return stopping_ ? ended() : Status();
}

Status BatchEngine::liveness() const {
  const auto age = pulse_.age();
  if (age < options_.stall_after) return {};
  return {StatusCode::kInternal, "the engine's thread has not moved for {:.1f} s",
          std::chrono::duration<double>(age).count()};
}

EngineFigures BatchEngine::figures() const {
  EngineFigures figures;
  {
    const std::lock_guard lock(mutex_);
    figures = figures_;
    const std::uint64_t now = now_ns();
    for (const auto& waiting : queue_)
      figures.oldest_wait_ns = std::max(figures.oldest_wait_ns, now - waiting->start_ns);
  }
  merge(figures.text, stats_);
  return figures;
}

void BatchEngine::show_figures() {
  const std::lock_guard lock(mutex_);
  figures_.active = active_.size();
  figures_.queued = queue_.size();
  figures_.kept = kept_.size();
  figures_.cache_used_bytes = memory_->used_bytes();
  const std::uint64_t peak = stats_.cache_peak_bytes.load(std::memory_order_relaxed);
  if (figures_.cache_used_bytes > peak)
    merge(stats_.cache_peak_bytes, figures_.cache_used_bytes - peak);
}

void BatchEngine::work() {
  const Status status = without_exceptions([this]() -> Status {
    while (await_work()) {
      look_at_model();
      drop_cancelled();
      if (model_ == nullptr) continue;
      admit();
      show_figures();
      if (active_.empty()) continue;
      // What a pass throws, for want of memory, ends its answers and not the engine.
      const Status stepped = without_exceptions([this] {
        step();
        return Status();
      });
      if (!stepped.ok()) fail_step(stepped);
      show_figures();
    }
    return {};
  });
  if (!status.ok()) {
    // One after the other: where there is no memory for the first there is the second.
    (void)without_exceptions([&]() -> Status {
      log_error("the engine ended: " + status.to_string());
      return {};
    });
    (void)without_exceptions([&]() -> Status {
      if (!has_given_up_) give_up(status);
      return {};
    });
  }
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  (void)without_exceptions([&]() -> Status {
    const FinishReason reason = status.ok() ? FinishReason::kCancelled : FinishReason::kFailed;
    for (const auto& sequence : active_) finish(*sequence, reason, status);
    while (const auto sequence = take_waiting()) finish(*sequence, reason, status);
    return {};
  });
  active_.clear();
  while (take_waiting() != nullptr) {
  }
  kept_.clear();
  model_.reset();
}

/// False: the engine ends.
bool BatchEngine::await_work() {
  pulse_.beat();
  std::unique_lock lock(mutex_);
  if (!stopping_ && active_.empty()) {
    const auto pause = model_ == nullptr ? options_.reconnect_pause : kIdleLook;
    changed_.wait_for(lock, pause, [this] {
      return stopping_ || !cancelled_.empty() || (model_ != nullptr && !queue_.empty());
    });
  }
  return !stopping_;
}

/// Where it has gone everybody is told, and another one is asked for.
void BatchEngine::look_at_model() {
  if (model_ != nullptr) {
    const Status there = model_->check();
    if (!there.ok()) fail_all(there);
    return;
  }
  if (has_given_up_) return;
  // One that cannot be made, whatever is thrown, may be made another time.
  const Status asked = without_exceptions([this]() -> Status {
    ask_for_model();
    return {};
  });
  if (!asked.ok()) miss_model(asked);
}

void BatchEngine::ask_for_model() {
  auto again = options_.reconnect();
  if (!again.ok()) return miss_model(again.status());
  const Status tried = try_model(**again);
  // Who lies is another matter than who has another model: it is asked for nothing more.
  if (tried.code() == StatusCode::kMismatch) return give_up(tried);
  if (!tried.ok()) return miss_model(tried);
  model_ = std::move(again).value();
  const std::lock_guard lock(mutex_);
  health_ = {};
  log_info("the server is there again");
}

/// It was asked for once more, in vain.
void BatchEngine::miss_model(const Status& why) {
  if (reconnect_until_ && reconnect_until_->expired()) {
    const std::chrono::duration<double> asked = *options_.reconnect_for;
    return give_up(
        {why.code(), "the server was not back within {} s: {}", asked.count(), why.message()});
  }
  if (why.code() == StatusCode::kCancelled) return;  // as at every end of the program
  const std::lock_guard lock(mutex_);
  if (health_.message().ends_with(why.message())) return;
  health_ = Status(StatusCode::kUnavailable, "the server is not back: {}", why.message());
  log_warning(health_.message());
}

void BatchEngine::give_up(const Status& why) {
  has_given_up_ = true;
  const Status kept = without_exceptions([&]() -> Status {
    const std::lock_guard lock(mutex_);
    health_ = why;
    return {};
  });
  if (!kept.ok()) {
    // There is no memory for its words; who waits for the end hears of it all the same.
    const std::lock_guard lock(mutex_);
    health_ = Status(why.code(), std::string());
  }
  if (options_.gave_up) options_.gave_up(why);
}

void BatchEngine::fail_all(const Status& why) {
  // Who answered wrongly once is asked for nothing more.
  const bool is_final = why.code() == StatusCode::kMismatch;
  // In this process there is no server that could go.
  const Status gone =
      is_final ? why
      : options_.reconnect || why.code() == StatusCode::kUnavailable
          ? Status(StatusCode::kUnavailable, "the server went away: {}", why.message())
          : why;
  Sequences waiting;
  {
    const std::lock_guard lock(mutex_);
    health_ = gone;
    waiting = std::exchange(queue_, {});
  }
  model_.reset();
  log_warning(gone.message());
  for (const auto& sequence : active_) finish(*sequence, FinishReason::kFailed, gone);
  for (const auto& sequence : waiting) finish(*sequence, FinishReason::kFailed, gone);
  active_.clear();
  show_figures();
  if (options_.reconnect_for) reconnect_until_ = Deadline::after(*options_.reconnect_for);
  if (is_final || !options_.reconnect) give_up(gone);
}

void BatchEngine::drop_cancelled() {
  std::unordered_set<GenerationId> cancelled;
  Sequences dropped;
  {
    const std::lock_guard lock(mutex_);
    cancelled = std::exchange(cancelled_, {});
    if (cancelled.empty()) return;
    for (auto& sequence : queue_) {
      if (cancelled.contains(sequence->id)) dropped.push_back(std::move(sequence));
    }
    std::erase(queue_, nullptr);
  }
  for (const auto& sequence : dropped) finish(*sequence, FinishReason::kCancelled);
  for (const auto& sequence : active_) {
    if (cancelled.contains(sequence->id)) finish(*sequence, FinishReason::kCancelled);
  }
  std::erase_if(active_, [](const auto& sequence) { return sequence->is_over; });
}

/// Who used what is kept longest ago loses it first.
bool BatchEngine::promise(Sequence& sequence, std::size_t positions) {
  const std::size_t lacking = sequence.cache.lacking_blocks(static_cast<std::int64_t>(positions));
  if (lacking > memory_->free_blocks() + kept_.blocks()) return false;
  while (!sequence.cache.promise(static_cast<std::int64_t>(positions)).ok()) {
    if (!kept_.drop_oldest()) return false;
  }
  return true;
}

/// For its tokens and the beginning of an answer, behind what of them is there already.
bool BatchEngine::find_room(Sequence& sequence) {
  const GenerateRequest& request = sequence.request;
  if (sequence.cache.length() == 0) {
    if (auto prefix = kept_.take(request.owner, sequence.tokens))
      sequence.cache = std::move(*prefix);
    if (!sequence.is_begun) sequence.cached_tokens = sequence.fed();
  }
  const auto left = static_cast<std::size_t>(request.max_tokens) - sequence.generated();
  const std::size_t positions =
      std::min({sequence.tokens.size() + std::min<std::size_t>(left, kCacheBlockPositions),
                static_cast<std::size_t>(options_.context_length)});
  return promise(sequence, positions);
}

/// The youngest begins again, as the first of those that wait.
void BatchEngine::give_way() {
  std::unique_ptr<Sequence> youngest = std::move(active_.back());
  active_.pop_back();
  youngest->cache.clear();
  const std::lock_guard lock(mutex_);
  queue_.push_front(std::move(youngest));
}

/// The first of those that wait; null: none does.
std::unique_ptr<BatchEngine::Sequence> BatchEngine::take_waiting() {
  const std::lock_guard lock(mutex_);
  if (queue_.empty()) return nullptr;
  std::unique_ptr<Sequence> first = std::move(queue_.front());
  queue_.pop_front();
  return first;
}

void BatchEngine::admit() {
  while (active_.size() < options_.max_sequences) {
    std::unique_ptr<Sequence> next = take_waiting();
    if (next == nullptr) return;
    if (next->request.max_tokens == 0) {
      finish(*next, FinishReason::kLength);
      continue;
    }
    if (!find_room(*next)) {
      // Who waits holds no memory: what of it was kept goes back to where others can have it.
      const std::vector<std::int32_t> fed(next->tokens.begin(),
                                          next->tokens.begin() + next->cache.length());
      kept_.keep(next->request.owner, fed, std::move(next->cache));
      const std::lock_guard lock(mutex_);
      queue_.push_front(std::move(next));
      return;
    }
    if (!std::exchange(next->is_begun, true)) {
      merge(stats_.begun, 1);
      merge(stats_.prompt_tokens, next->request.prompt.size());
      merge(stats_.cached_tokens, next->cached_tokens);
    }
    active_.push_back(std::move(next));
  }
}

/// What each sequence gives to the next pass, in their order. Prompts share what a pass takes of
/// them, the oldest first; one that gets nothing of it, or for whose next token there is no room,
/// waits.
std::vector<SequencePass> BatchEngine::plan_step() {
  const auto others =
      std::ranges::count_if(active_, [](const auto& sequence) { return sequence->answers(); });
  const std::int64_t beside =
      std::max({options_.rows_beside - others, options_.rows_beside / 4, std::int64_t{1}});
  auto left = static_cast<std::size_t>(others > 0 ? beside : options_.chunk_alone);
  std::vector<SequencePass> passes;
  for (const auto& sequence : active_) {
    const std::size_t wanted = sequence->tokens.size() - sequence->fed();
    std::size_t count = wanted == 1 ? 1 : std::min(wanted, left);
    if (!promise(*sequence, sequence->fed() + count)) count = 0;
    if (wanted > 1) left -= count;
    passes.push_back({std::span(sequence->tokens).subspan(sequence->fed(), count), &sequence->cache,
                      count == wanted});
  }
  return passes;
}

void BatchEngine::step() {
  const std::vector<SequencePass> planned = plan_step();
  std::vector<SequencePass> passes;
  std::ranges::copy_if(planned, std::back_inserter(passes),
                       [](const SequencePass& pass) { return !pass.tokens.empty(); });
  // All wait for memory that the others have.
  if (passes.empty()) return give_way();
  const auto logits = model_->driver().forward(passes);
  const Status there = model_->check();
  if (logits.ok() && there.ok()) return take_logits(planned, *logits);
  // A failed check is what it is, also where who failed it has hung up.
  const bool is_lie = logits.status().code() == StatusCode::kMismatch;
  const Status why = there.ok() || is_lie ? logits.status() : there;
  if (why.code() == StatusCode::kCancelled) return;  // whoever did that ends the engine next
  return is_of_the_step(why.code()) ? fail_step(why) : fail_all(why);
}

void BatchEngine::fail_step(const Status& why) {
  failures_.log(LogLevel::kWarning, "answers failed: " + why.to_string());
  for (const auto& sequence : active_) finish(*sequence, FinishReason::kFailed, why);
  active_.clear();
}

void BatchEngine::take_logits(const std::vector<SequencePass>& passes, const Tensor& logits) {
  const auto row = static_cast<std::size_t>(options_.dims.vocab);
  std::size_t next = 0;
  for (std::size_t i = 0; i < passes.size(); ++i) {
    if (passes[i].tokens.empty() || !passes[i].wants_logits) continue;
    take_token(*active_[i], logits.as<float>().subspan(next++ * row, row));
  }
  std::erase_if(active_, [](const auto& sequence) { return sequence->is_over; });
}

void BatchEngine::take_token(Sequence& sequence, std::span<const float> logits) {
  const auto sampled = sequence.sampler.sample(logits);
  if (!sampled.ok()) {
    failures_.log(LogLevel::kWarning, "an answer failed: " + sampled.status().to_string());
    return finish(sequence, FinishReason::kFailed, sampled.status());
  }
  const std::uint64_t now = now_ns();
  if (sequence.first_ns == 0) {
    sequence.first_ns = now;
    stats_.ttft_ns.record(now - sequence.start_ns);
  } else {
    stats_.itl_ns.record(now - sequence.last_ns);
  }
  sequence.last_ns = now;
  const GenerateRequest& request = sequence.request;
  if (std::ranges::find(request.stop_ids, sampled->token) != request.stop_ids.end()) {
    merge(stats_.generated_tokens, 1);
    sequence.stop_id = sampled->token;
    return finish(sequence, FinishReason::kStop);
  }
  sequence.tokens.push_back(sampled->token);
  merge(stats_.generated_tokens, 1);
  const GeneratedToken token{
      sampled->token, sampled->log_probability, {sampled->top.begin(), sampled->top.end()}};
  if (!sequence.sink->on_token(token)) return finish(sequence, FinishReason::kStop);
  const bool is_full = static_cast<std::int64_t>(sequence.generated()) >= request.max_tokens ||
                       static_cast<std::int64_t>(sequence.tokens.size()) >= options_.context_length;
  if (is_full) finish(sequence, FinishReason::kLength);
}

/// Tells its sink, and keeps what it has for a next turn.
void BatchEngine::finish(Sequence& sequence, FinishReason reason, Status status) {
  if (std::exchange(sequence.is_over, true)) return;
  {
    const std::lock_guard lock(mutex_);
    known_.erase(sequence.id);
  }
  Finish finish;
  finish.reason = reason;
  finish.status = std::move(status);
  finish.prompt_tokens = sequence.request.prompt.size();
  finish.cached_tokens = sequence.cached_tokens;
  finish.generated_tokens = sequence.generated() + (sequence.stop_id ? 1 : 0);
  finish.stop_id = sequence.stop_id;
  if (sequence.first_ns != 0) finish.ttft_ns = sequence.first_ns - sequence.start_ns;
  if (reason != FinishReason::kFailed) {
    sequence.tokens.resize(sequence.fed());
    kept_.keep(sequence.request.owner, std::move(sequence.tokens), std::move(sequence.cache));
  }
  if (sequence.is_begun) merge(stats_.finished, 1);
  sequence.sink->on_finish(finish);
}

}  // namespace airlock
