#include "tests/model_check/explorer.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <exception>
#include <utility>

#include "base/check.h"
#include "tests/model_check/seam/virtual_clock.h"

namespace airlock::model_check {
namespace {

/// Unwinds a fiber whose execution is over.
struct Abandoned {};
/// Unwinds the fiber of a thread that dies.
struct Died {};

constexpr std::uint64_t kTimedOut = 0;
constexpr std::uint64_t kInterrupted = 1;
/// Ways on of a thread that has no choice, and of one that may also be interrupted.
constexpr std::uint64_t kOneWay = 1;
constexpr std::uint64_t kTwoWays = 3;
/// The clock's first time: Deadlines may lie before it.
constexpr std::uint64_t kFirstNs = 1'000'000'000;

constexpr unsigned bit(std::size_t thread) { return 1u << thread; }
std::size_t lowest(std::uint64_t set) { return static_cast<std::size_t>(std::countr_zero(set)); }

}  // namespace

Explorer::Explorer() { shared::observer = this; }
Explorer::~Explorer() { shared::observer = nullptr; }

Report Explorer::explore(const Program& program, const Options& options) {
  CHECK(program.threads.size() <= kMaxThreads);
  options_ = options;
  report_ = {};
  nodes_.clear();
  events_.clear();
  threads_.resize(program.threads.size());
  for (Thread& thread : threads_) {
    if (!thread.fiber) thread.fiber = std::make_unique<Fiber>();
  }
  do {
    run(program);
    if (!report_.failure.empty()) return std::move(report_);
    if (report_.executions + report_.redundant + report_.cut >= options_.max_executions)
      return std::move(report_);
  } while (next_decision());
  report_.exhaustive = true;
  return std::move(report_);
}

/// One execution: first the decisions of nodes_ again, then new ones.
void Explorer::run(const Program& program) {
  replayed_ = nodes_.empty() ? 0 : nodes_.size() - 1;
  bool goes_on = begin(program);
  std::size_t depth = 0;
  while (goes_on) goes_on = step(depth++);
  report_.longest = std::max(report_.longest, events_.size());
  const bool ended = std::ranges::all_of(
      threads_, [](const Thread& thread) { return thread.state == ThreadState::kEnded; });
  abandon();
  if (!report_.failure.empty()) return;
  if (cut_) {
    ++report_.cut;
  } else if (!ended) {
    ++report_.redundant;
  } else {
    ++report_.executions;
    if (program.finish) program.finish();
  }
}

bool Explorer::begin(const Program& program) {
  died_ = cut_ = unordered_ = false;
  memory_.reset();
  events_.resize(replayed_);
  current_ = threads_.size();
  VirtualClock::ns = kFirstNs;
  program.setup();
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    Thread& thread = threads_[i];
    thread.state = ThreadState::kReady;
    thread.operation_count = 0;
    thread.event_count = 0;
    thread.before = {};
    thread.early_wakes_left = options_.early_wakes;
    thread.clock_ns = kFirstNs;
    thread.dies_now = thread.ran_to_its_end = false;
    thread.fiber->set_body([this, i, &program] { body(i, program.threads[i]); });
    run_fiber(i);
  }
  return report_.failure.empty();
}

/// Executes one step; false where the execution is over, whatever the reason.
bool Explorer::step(std::size_t depth) {
  if (depth == options_.max_steps) cut_ = true;
  if (cut_) return false;
  if (depth == nodes_.size() && !add_node()) return false;
  Event event;
  event.thread = nodes_[depth].thread;
  event.alternative = nodes_[depth].alternative;
  event.operation = threads_[event.thread].pending;
  const bool is_new = depth >= replayed_;
  if (!is_new) event.before = events_[depth].before;
  execute(event, nodes_[depth].idle);
  find_races(event, is_new);
  Thread& thread = threads_[event.thread];
  thread.before = event.before;
  if (is_new) events_.push_back(event);
  if (unordered_) {
    note_failure(fmt::format("thread {} stores to {}, unordered with the store before it",
                             event.thread, memory_.name_of(event.operation.word)));
  }
  if (event.operation.kind == OperationKind::kFutexWake) wake(event);
  if (thread.state == ThreadState::kReady) run_fiber(event.thread);
  return report_.failure.empty();
}

/// The state that was reached, as a node with a first decision; false where there is none.
bool Explorer::add_node() {
  Node node;
  Alternatives any = 0;
  for (std::size_t i = 0; i < threads_.size(); ++i)
    any |= node.enabled[i] = alternatives_of(i, false);
  if (any == 0) {
    node.idle = true;
    for (std::size_t i = 0; i < threads_.size(); ++i)
      any |= node.enabled[i] = alternatives_of(i, true);
    const std::string waiting = who_waits();
    if (any == 0 && !waiting.empty()) note_failure("deadlock: " + waiting);
    if (any == 0) return false;
  }
  if (options_.reduce && !nodes_.empty()) put_to_sleep(nodes_.back(), events_.back(), node);
  // Whoever ran last goes on, if it can: fewest switches, and traces that are easy to read.
  const std::size_t last = events_.empty() ? 0 : events_.back().thread;
  bool chosen = choose(node, last);
  for (std::size_t i = 0; i < threads_.size() && !chosen; ++i) chosen = choose(node, i);
  if (!chosen) return false;
  for (std::size_t i = 0; i < threads_.size() && (node.idle || !options_.reduce); ++i) {
    if (node.enabled[i] != 0) node.wanted |= bit(i);
  }
  nodes_.push_back(node);
  return true;
}

bool Explorer::choose(Node& node, std::size_t thread) {
  node.wanted |= bit(thread);
  node.done |= bit(thread);
  const Alternatives ways = node.enabled[thread] & ~node.asleep[thread];
  if (ways == 0) return false;
  node.thread = thread;
  node.alternative = lowest(ways);
  node.left = ways & (ways - 1);
  return true;
}

Explorer::Alternatives Explorer::alternatives_of(std::size_t index, bool idle) const {
  const Thread& thread = threads_[index];
  const Operation& operation = thread.pending;
  const bool early = thread.early_wakes_left > 0;
  if (thread.state == ThreadState::kEnded) return 0;
  if (thread.state == ThreadState::kParked) {
    // The wait's timeout is no help against a lost wake: only for the death of a peer does it run.
    if (idle) return died_ ? kOneWay : 0;
    return early ? kTwoWays : 0;
  }
  if (operation.kind == OperationKind::kSleep) return idle || early ? kOneWay : 0;
  if (!only_loads(operation)) return kOneWay;
  const std::size_t oldest = memory_.oldest_readable(index, operation.word, operation.order);
  const std::size_t newest = memory_.newest(operation.word);
  return ((Alternatives{2} << newest) - 1) & ~((Alternatives{1} << oldest) - 1);
}

/// What was asleep before `event` and is independent of it sleeps on.
void Explorer::put_to_sleep(const Node& from, const Event& event, Node& into) const {
  if (from.idle || into.idle) return;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    if (i == event.thread) continue;
    for (Alternatives left = from.asleep[i]; left != 0; left &= left - 1) {
      Event sleeper;
      sleeper.thread = i;
      sleeper.operation = threads_[i].pending;
      sleeper.alternative = lowest(left);
      // A thread that `event` woke is another one now.
      const bool woken =
          event.operation.kind == OperationKind::kFutexWake && covers(threads_[i].before, event);
      if (!woken && !relation(event, sleeper).dependent)
        into.asleep[i] |= Alternatives{1} << sleeper.alternative;
    }
  }
}

/// Turns back to the latest node with a way on that is wanted and was not taken.
bool Explorer::next_decision() {
  for (; !nodes_.empty(); nodes_.pop_back()) {
    Node& node = nodes_.back();
    if (node.left != 0) {
      node.alternative = lowest(node.left);
      node.left &= node.left - 1;
      return true;
    }
    if (options_.reduce) node.asleep[node.thread] = node.enabled[node.thread];
    while ((node.wanted & ~node.done) != 0) {
      if (choose(node, lowest(node.wanted & ~node.done))) return true;
    }
  }
  return false;
}

void Explorer::execute(Event& event, bool idle) {
  Thread& thread = threads_[event.thread];
  event.ordinal = ++thread.event_count;
  if (thread.state == ThreadState::kParked || event.operation.kind == OperationKind::kSleep) {
    const bool timed_out = thread.state == ThreadState::kReady || event.alternative == kTimedOut;
    if (timed_out) thread.clock_ns += thread.timeout_ns;
    thread.result = timed_out ? ETIMEDOUT : EINTR;
    thread.state = ThreadState::kReady;
    if (!idle) --thread.early_wakes_left;
    if (idle) memory_.let_time_pass(event.thread);
    // Only when all had come to rest: after everything.
    for (std::size_t i = 0; i < threads_.size() && idle; ++i)
      join(thread.before, threads_[i].before);
  } else {
    take_effect(event);
  }
  memory_.tick(event.thread);
}

void Explorer::take_effect(Event& event) {
  Thread& thread = threads_[event.thread];
  const Operation& operation = event.operation;
  bool ordered = true;
  thread.result = 0;
  if (only_loads(operation)) event.behind = memory_.newest(operation.word) - event.alternative;
  switch (operation.kind) {
    case OperationKind::kLoad:
      memory_.load(event.thread, operation.word, event.alternative, operation.order);
      thread.result = memory_.value(operation.word, event.alternative);
      break;
    case OperationKind::kStore:
      ordered = memory_.store(event.thread, operation.word, operation.value, operation.order);
      break;
    case OperationKind::kAdd:
      event.alternative = memory_.newest(operation.word);
      thread.result = memory_.value(operation.word, event.alternative);
      ordered = memory_.add(event.thread, operation.word, operation.value, operation.order);
      break;
    case OperationKind::kFence:
      memory_.fence(event.thread, operation.order);
      break;
    case OperationKind::kFutexWait:
      memory_.load(event.thread, operation.word, event.alternative, std::memory_order_relaxed);
      if (memory_.value(operation.word, event.alternative) != operation.value) {
        thread.result = EAGAIN;
        break;
      }
      thread.state = ThreadState::kParked;
      thread.pending = {OperationKind::kWakeEarly, operation.word};
      break;
    case OperationKind::kFutexWake:  // see wake()
    case OperationKind::kWakeEarly:
    case OperationKind::kSleep:
      break;
  }
  event.value_read = thread.result;
  if (!writes(operation)) return;
  event.written = memory_.newest(operation.word);
  cut_ = cut_ || event.written + 1 >= kMaxStores;
  if (thread.dies_now) died_ = true;
  unordered_ = !ordered && options_.stores_are_ordered;
}

/// Who is parked on the word goes on, up to its next operation.
void Explorer::wake(const Event& event) {
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    Thread& thread = threads_[i];
    if (thread.state != ThreadState::kParked || thread.pending.word != event.operation.word)
      continue;
    thread.state = ThreadState::kReady;
    thread.result = 0;
    join(thread.before, event.before);
    if (report_.failure.empty()) run_fiber(i);
  }
}

/// Sets event.before, and (of a new event) notes which earlier ones have to be tried after it.
void Explorer::find_races(Event& event, bool is_new) {
  if (!is_new) return;
  event.before = threads_[event.thread].before;
  event.before[event.thread] = event.ordinal;
  // From the latest on: so whatever lies between an earlier event and this one is in `before` when
  // that event's turn comes.
  for (std::size_t i = events_.size(); i-- > 0;) {
    const Event& earlier = events_[i];
    if (earlier.thread == event.thread || comes_before(earlier, event)) continue;
    const Relation related = relation(earlier, event);
    if (related.worth_reversing && options_.reduce) want_reversed(i, event);
    if (related.dependent) join(event.before, earlier.before);
  }
}

/// At the state before events_[earlier], some thread has to be run with which an execution can
/// begin where `event` comes first: one whose next event needs none of those between, or `event`
/// itself.
void Explorer::want_reversed(std::size_t earlier, const Event& event) {
  Node& node = nodes_[earlier];
  std::vector<const Event*> between;
  Threads seen = 0;
  Threads initial = 0;
  const auto consider = [&](const Event& next) {
    const bool is_first = (seen & bit(next.thread)) == 0;
    seen |= bit(next.thread);
    if (!is_first) return;
    for (const Event* previous : between) {
      if (previous->thread != next.thread && comes_before(*previous, next)) return;
    }
    initial |= bit(next.thread);
  };
  for (std::size_t i = earlier + 1; i < events_.size(); ++i) {
    if (comes_before(events_[earlier], events_[i])) continue;
    consider(events_[i]);
    between.push_back(&events_[i]);
  }
  consider(event);
  if ((initial & node.wanted) != 0) return;
  Threads enabled = 0;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    if (node.enabled[i] != 0) enabled |= bit(i);
  }
  initial &= enabled;
  node.wanted |= initial != 0 ? bit(lowest(initial)) : enabled;
}

// What follows runs on the fibers, or switches to them.

void Explorer::run_fiber(std::size_t thread) {
  current_ = thread;
  VirtualClock::ns = threads_[thread].clock_ns;
  threads_[thread].fiber->resume();
  threads_[thread].clock_ns = VirtualClock::ns;
  current_ = threads_.size();
}

void Explorer::body(std::size_t index, const std::function<void()>& program) {
  Thread& thread = threads_[index];
  try {
    program();
    if (options_.death && options_.death->thread == index) {
      thread.ran_to_its_end = true;
      thread.operation_count = options_.death->step;
      perform({});
    }
  } catch (const Abandoned&) {
  } catch (const Died&) {
  }
  thread.state = ThreadState::kEnded;
}

/// Stops before the operation until its turn comes.
std::uint64_t Explorer::perform(const Operation& operation) {
  // Destructors, while a fiber is unwound.
  if (std::uncaught_exceptions() > 0) return 0;
  if (abandoning_) throw Abandoned{};
  Thread& thread = threads_[current_];
  thread.pending = operation;
  const bool dies = options_.death && options_.death->thread == current_ &&
                    options_.death->step == thread.operation_count;
  if (dies) {
    thread.dies_now = true;
    report_.died = report_.died || !thread.ran_to_its_end;
    thread.pending = {OperationKind::kStore,
                      memory_.word_at(options_.death->gone, sizeof(std::uint32_t)),
                      std::memory_order_release, 1};
  }
  ++thread.operation_count;
  thread.fiber->yield();
  if (abandoning_) throw Abandoned{};
  if (dies) throw Died{};
  return thread.result;
}

/// Unwinds what is left of an execution.
void Explorer::abandon() {
  abandoning_ = true;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    if (!threads_[i].fiber->ended()) run_fiber(i);
  }
  abandoning_ = false;
}

void Explorer::fail(std::string what) {
  note_failure(std::move(what));
  if (in_thread() && std::uncaught_exceptions() == 0) throw Abandoned{};
}

void Explorer::note_failure(std::string what) {
  if (!report_.failure.empty()) return;
  report_.failure = std::move(what);
  for (const Event& event : events_) report_.trace.push_back(describe(event));
}

std::uint64_t Explorer::load(const void* word, std::size_t bytes, std::memory_order order) {
  if (in_thread() && !memory_.is_plain(word))
    return perform({OperationKind::kLoad, memory_.word_at(word, bytes), order});
  read({static_cast<const std::byte*>(word), bytes});
  std::uint64_t value = 0;
  std::memcpy(&value, word, bytes);
  return value;
}

void Explorer::store(void* word, std::size_t bytes, std::uint64_t value, std::memory_order order) {
  if (in_thread() && !memory_.is_plain(word)) {
    perform({OperationKind::kStore, memory_.word_at(word, bytes), order, value});
    return;
  }
  write({static_cast<const std::byte*>(word), bytes});
  std::memcpy(word, &value, bytes);
}

void Explorer::add(std::uint32_t& word, std::uint32_t value, std::memory_order order) {
  if (!in_thread()) {
    word += value;
    return;
  }
  perform({OperationKind::kAdd, memory_.word_at(&word, sizeof(word)), order, value});
}

void Explorer::fence(std::memory_order order) {
  if (order == std::memory_order_seq_cst) {
    perform({OperationKind::kFence, 0, order});
  } else {
    memory_.fence(current_, order);
  }
}

void Explorer::read(std::span<const std::byte> bytes) {
  if (!in_thread() || abandoning_) return;
  if (auto race = memory_.read(current_, bytes)) fail("data race: " + *race);
}

void Explorer::write(std::span<const std::byte> bytes) {
  if (!in_thread() || abandoning_) return;
  if (auto race = memory_.write(current_, bytes)) fail("data race: " + *race);
}

int Explorer::futex_wait(std::uint32_t& word, std::uint32_t seen, std::uint64_t timeout_ns) {
  threads_[current_].timeout_ns = timeout_ns;
  return static_cast<int>(perform({OperationKind::kFutexWait, memory_.word_at(&word, sizeof(word)),
                                   std::memory_order_seq_cst, seen}));
}

void Explorer::futex_wake(std::uint32_t& word) {
  perform({OperationKind::kFutexWake, memory_.word_at(&word, sizeof(word))});
}

void Explorer::sleep_ns(std::uint64_t ns) {
  threads_[current_].timeout_ns = ns;
  perform({OperationKind::kSleep, 0});
}

void Explorer::pause_cpu() { VirtualClock::ns += options_.pause_ns.value_or(0); }

std::string Explorer::who_waits() const {
  std::string text;
  for (std::size_t i = 0; i < threads_.size(); ++i) {
    if (threads_[i].state == ThreadState::kParked)
      text += fmt::format("{}nobody can wake thread {}, which sleeps on {}",
                          text.empty() ? "" : "; ", i, memory_.name_of(threads_[i].pending.word));
  }
  return text;
}

std::string Explorer::describe(const Event& event) const {
  const Operation& operation = event.operation;
  const char* const order = operation.order == std::memory_order_relaxed   ? "relaxed"
                            : operation.order == std::memory_order_acquire ? "acquire"
                            : operation.order == std::memory_order_release ? "release"
                            : operation.order == std::memory_order_acq_rel ? "acq_rel"
                                                                           : "seq_cst";
  const auto line = [&](const std::string& what) {
    return fmt::format("thread {}: {}", event.thread, what);
  };
  if (operation.kind == OperationKind::kFence) return line(fmt::format("fence {}", order));
  if (operation.kind == OperationKind::kSleep) return line("sleeps");
  const std::string name = memory_.name_of(operation.word);
  switch (operation.kind) {
    case OperationKind::kLoad: {
      return line(fmt::format("load {} {} = {}{}", name, order, event.value_read,
                              event.behind == 0 ? "" : fmt::format(" ({} behind)", event.behind)));
    }
    case OperationKind::kStore:
      return line(fmt::format("store {} {} := {}", name, order, operation.value));
    case OperationKind::kAdd:
      return line(
          fmt::format("add {} {} += {} to {}", name, order, operation.value, event.value_read));
    case OperationKind::kFutexWait:
      return line(fmt::format("futex wait {} while {}: {}", name, operation.value,
                              event.value_read == EAGAIN ? "it is not" : "parks"));
    case OperationKind::kFutexWake:
      return line(fmt::format("futex wake {}", name));
    default:
      return line(fmt::format("leaves futex {}: {}", name,
                              event.alternative == kInterrupted ? "interrupted" : "timed out"));
  }
}

}  // namespace airlock::model_check
