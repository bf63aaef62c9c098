#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "shm/shared_access.h"
#include "tests/model_check/fiber.h"
#include "tests/model_check/operation.h"
#include "tests/model_check/weak_memory.h"

namespace airlock::model_check {

/// What is explored. All state that the bodies share is made anew by `setup`, and the bodies are
/// deterministic: they depend on nothing but what they load.
struct Program {
  /// Before the threads, which know all that it did.
  std::function<void()> setup;
  std::vector<std::function<void()>> threads;
  /// After all of them, in each execution that came to its end.
  std::function<void()> finish = {};
};

/// A thread that ends for ever just before its `step`th operation (from 0 on), or at its end at the
/// latest, and that the world then knows to be gone.
struct Death {
  std::size_t thread = 0;
  std::size_t step = 0;
  /// Becomes 1, with release order: an acquire load of it is how others learn of the death.
  std::uint32_t* gone = nullptr;
};

struct Options {
  /// Whether an unordered pair of stores of one word is a fault (weak_memory.h says why).
  bool stores_are_ordered = true;
  /// How often each thread may leave a futex, or a sleep, before anything woke it.
  unsigned early_wakes = 0;
  /// Off: every interleaving is run, which is for tests of the reduction.
  bool reduce = true;
  /// Of one CPU: it gives up spinning at once. Else each pause of a spin takes this long.
  std::optional<std::uint64_t> pause_ns = {};
  std::optional<Death> death = {};
  std::uint64_t max_executions = 100'000'000;
  std::size_t max_steps = 400;
};

struct Report {
  /// That came to an end; no two of them are equivalent.
  std::uint64_t executions = 0;
  /// That were left when it showed that others are equivalent.
  std::uint64_t redundant = 0;
  /// That went over max_steps or over a limit of the memory, and so were not seen to the end.
  std::uint64_t cut = 0;
  std::size_t longest = 0;  // steps
  /// False where max_executions ended it.
  bool exhaustive = false;
  /// The dying thread did not get to its end in at least one execution.
  bool died = false;
  /// What went wrong, and the execution that led there, one step a line.
  std::string failure;
  std::vector<std::string> trace;

  bool passed() const { return exhaustive && failure.empty() && cut == 0; }
};

/// Runs a small concurrent program in every way in which the memory of weak_memory.h lets it run,
/// up to equivalence. The threads are fibers that stop before each operation; the explorer decides
/// who goes on, and which store a load reads. An execution is made again from its start with
/// another decision until there is none left.
///
/// Two executions are equivalent if one can be had from the other by exchanging neighbouring steps
/// that are independent (relation() in operation.h). Of each class one is run to its end:
/// dynamic partial order reduction with source sets (which races must be reversed) and sleep sets
/// (what need not be run again), after Abdulla, Aronis, Jonsson and Sagonas (POPL 2014), with the
/// store that a load reads as part of the step.
///
/// A fault ends the exploration: fail(), a data race on plain bytes, and a deadlock. Time passes
/// only when nobody can do anything else, and where no thread died that is a deadlock: nobody is
/// left who could wake those who sleep, so a wake was lost.
class Explorer final : public shared::Observer {
 public:
  Explorer();
  ~Explorer() override;

  Report explore(const Program& program, const Options& options);
  /// See WeakMemory; before explore().
  void set_plain_region(std::span<const std::byte> region) { memory_.set_plain_region(region); }
  /// For traces, and so that it is a word of the memory model although it lies in the plain region.
  /// To be called in setup().
  void name_word(const void* address, std::size_t bytes, std::string name) {
    memory_.name_word(address, bytes, std::move(name));
  }

  /// From a body or from finish(): the program is wrong.
  void fail(std::string what);
  void fence(std::memory_order order);
  /// Its index; past the last one outside of the bodies.
  std::size_t running_thread() const { return current_; }

  std::uint64_t load(const void* word, std::size_t bytes, std::memory_order order) override;
  void store(void* word, std::size_t bytes, std::uint64_t value, std::memory_order order) override;
  void add(std::uint32_t& word, std::uint32_t value, std::memory_order order) override;
  void read(std::span<const std::byte> bytes) override;
  void write(std::span<const std::byte> bytes) override;
  int futex_wait(std::uint32_t& word, std::uint32_t seen, std::uint64_t timeout_ns) override;
  void futex_wake(std::uint32_t& word) override;
  void sleep_ns(std::uint64_t ns) override;
  void pause_cpu() override;
  bool can_spin() override { return options_.pause_ns.has_value(); }

 private:
  /// Sets of a thread's alternatives, and of threads.
  using Alternatives = std::uint64_t;
  using Threads = unsigned;

  enum class ThreadState : std::uint8_t { kReady, kParked, kEnded };
  struct Thread {
    std::unique_ptr<Fiber> fiber;
    ThreadState state = ThreadState::kEnded;
    Operation pending;
    std::uint64_t result = 0;
    std::size_t operation_count = 0;
    unsigned early_wakes_left = 0;
    std::uint64_t clock_ns = 0;
    std::uint64_t timeout_ns = 0;
    std::uint16_t event_count = 0;
    /// Events that come before whatever it does next.
    EventClock before = {};
    bool dies_now = false;
    bool ran_to_its_end = false;
  };

  /// The state before one step of the execution, and which ways on were taken and are to be.
  struct Node {
    std::array<Alternatives, kMaxThreads> enabled = {};
    /// Ways on whose executions are equivalent to some that were run.
    std::array<Alternatives, kMaxThreads> asleep = {};
    Threads wanted = 0;
    Threads done = 0;
    std::size_t thread = 0;
    std::size_t alternative = 0;
    Alternatives left = 0;
    /// Nobody could do anything: time passes.
    bool idle = false;
  };

  void run(const Program& program);
  bool begin(const Program& program);
  bool step(std::size_t depth);
  bool next_decision();
  /// Starts on `thread` at the node, unless all its ways on are asleep.
  static bool choose(Node& node, std::size_t thread);
  bool add_node();
  Alternatives alternatives_of(std::size_t thread, bool idle) const;
  void put_to_sleep(const Node& from, const Event& event, Node& into) const;

  void execute(Event& event, bool idle);
  void take_effect(Event& event);
  void wake(const Event& event);
  void find_races(Event& event, bool is_new);
  void want_reversed(std::size_t earlier, const Event& event);

  std::uint64_t perform(const Operation& operation);
  void run_fiber(std::size_t thread);
  void body(std::size_t thread, const std::function<void()>& program);
  void abandon();
  void note_failure(std::string what);
  std::string describe(const Event& event) const;
  std::string who_waits() const;
  bool in_thread() const { return current_ < threads_.size(); }

  Options options_;
  WeakMemory memory_;
  std::vector<Thread> threads_;
  /// Of the thread that runs, or past the end.
  std::size_t current_ = 0;
  std::vector<Node> nodes_;
  std::vector<Event> events_;
  /// Nodes below this are run as before.
  std::size_t replayed_ = 0;
  bool abandoning_ = false;
  bool died_ = false;
  bool cut_ = false;
  /// The last event was a store that is not ordered with the one before.
  bool unordered_ = false;
  Report report_;
};

}  // namespace airlock::model_check
