// The explorer itself, on programs whose outcomes are known: the litmus tests of the literature,
// and random programs, of which the reduction must lose no outcome.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>
#include <set>
#include <string>

#include "tests/model_check/explorer.h"

namespace airlock::model_check {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr auto kAcqRel = std::memory_order_acq_rel;
constexpr auto kSeqCst = std::memory_order_seq_cst;

/// The outcomes of a program, each the values of what its threads put into `out`.
class Litmus {
 public:
  using Body = std::function<void(Litmus&)>;

  std::set<std::string> run(const std::vector<Body>& bodies, bool reduce = true) {
    std::set<std::string> outcomes;
    Program program;
    program.setup = [this] {
      x = y = z = plain = 0;
      out.fill(0);
    };
    for (const Body& each : bodies) program.threads.push_back([this, each] { each(*this); });
    program.finish = [&] {
      std::string text;
      for (std::size_t i = 0; i < used; ++i) text += fmt::format("{}", out[i]);
      outcomes.insert(text);
    };
    explorer.set_plain_region(std::as_bytes(std::span(&plain, 1)));
    Options options;
    options.stores_are_ordered = false;
    options.reduce = reduce;
    options.early_wakes = early_wakes;
    report = explorer.explore(program, options);
    return outcomes;
  }
  std::uint32_t load(std::uint32_t& word, std::memory_order order) {
    return static_cast<std::uint32_t>(explorer.load(&word, sizeof(word), order));
  }
  void store(std::uint32_t& word, std::uint32_t value, std::memory_order order) {
    explorer.store(&word, sizeof(word), value, order);
  }

  Explorer explorer;
  Report report;
  std::uint32_t x = 0, y = 0, z = 0;
  alignas(8) std::uint64_t plain = 0;
  std::array<std::uint32_t, 8> out = {};
  std::size_t used = 2;
  unsigned early_wakes = 0;
};

using Outcomes = std::set<std::string>;

Litmus::Body writer_then_reader(bool first, std::memory_order store, std::memory_order load) {
  return [=](Litmus& l) {
    l.store(first ? l.x : l.y, 1, store);
    l.out[first ? 0 : 1] = l.load(first ? l.y : l.x, load);
  };
}

TEST(Litmus, store_buffering) {
  Litmus l;
  const Outcomes all = {"00", "01", "10", "11"};
  const auto both = [&](std::memory_order store, std::memory_order load) {
    return l.run({writer_then_reader(true, store, load), writer_then_reader(false, store, load)});
  };
  EXPECT_EQ(both(kRelaxed, kRelaxed), all);
  EXPECT_EQ(both(kRelease, kAcquire), all);
  EXPECT_EQ(both(kSeqCst, kAcquire), all);
  EXPECT_EQ(both(kRelease, kSeqCst), all);
  EXPECT_EQ(both(kSeqCst, kSeqCst), (Outcomes{"01", "10", "11"}));
}

TEST(Litmus, store_buffering_with_fences) {
  const auto run = [](std::memory_order order) {
    Litmus l;
    return l.run({[=](Litmus& t) {
                    t.store(t.x, 1, kRelaxed);
                    t.explorer.fence(order);
                    t.out[0] = t.load(t.y, kRelaxed);
                  },
                  [=](Litmus& t) {
                    t.store(t.y, 1, kRelaxed);
                    t.explorer.fence(order);
                    t.out[1] = t.load(t.x, kRelaxed);
                  }});
  };
  EXPECT_EQ(run(kSeqCst), (Outcomes{"01", "10", "11"}));
  EXPECT_EQ(run(kAcqRel), (Outcomes{"00", "01", "10", "11"}));
}

Outcomes message_passing(std::memory_order store, std::memory_order load) {
  Litmus l;
  return l.run({[=](Litmus& t) {
                  t.store(t.x, 1, kRelaxed);
                  t.store(t.y, 1, store);
                },
                [=](Litmus& t) {
                  t.out[0] = t.load(t.y, load);
                  t.out[1] = t.load(t.x, kRelaxed);
                }});
}

TEST(Litmus, message_passing) {
  EXPECT_EQ(message_passing(kRelaxed, kRelaxed), (Outcomes{"00", "01", "10", "11"}));
  EXPECT_EQ(message_passing(kRelease, kRelaxed), (Outcomes{"00", "01", "10", "11"}));
  EXPECT_EQ(message_passing(kRelaxed, kAcquire), (Outcomes{"00", "01", "10", "11"}));
  EXPECT_EQ(message_passing(kRelease, kAcquire), (Outcomes{"00", "01", "11"}));
}

TEST(Litmus, message_passing_with_fences) {
  Litmus l;
  EXPECT_EQ(l.run({[](Litmus& t) {
                     t.store(t.x, 1, kRelaxed);
                     t.explorer.fence(kRelease);
                     t.store(t.y, 1, kRelaxed);
                   },
                   [](Litmus& t) {
                     t.out[0] = t.load(t.y, kRelaxed);
                     t.explorer.fence(kAcquire);
                     t.out[1] = t.load(t.x, kRelaxed);
                   }}),
            (Outcomes{"00", "01", "11"}));
}

TEST(Litmus, one_words_loads_do_not_go_back) {
  Litmus l;
  EXPECT_EQ(l.run({[](Litmus& t) {
                     t.store(t.x, 1, kRelaxed);
                     t.store(t.x, 2, kRelaxed);
                   },
                   [](Litmus& t) {
                     t.out[0] = t.load(t.x, kRelaxed);
                     t.out[1] = t.load(t.x, kRelaxed);
                   }}),
            (Outcomes{"00", "01", "02", "11", "12", "22"}));
}

Outcomes independent_reads(std::memory_order store, std::memory_order load) {
  Litmus l;
  l.used = 4;
  return l.run({[=](Litmus& t) { t.store(t.x, 1, store); },
                [=](Litmus& t) { t.store(t.y, 1, store); },
                [=](Litmus& t) {
                  t.out[0] = t.load(t.x, load);
                  t.out[1] = t.load(t.y, load);
                },
                [=](Litmus& t) {
                  t.out[2] = t.load(t.y, load);
                  t.out[3] = t.load(t.x, load);
                }});
}

TEST(Litmus, independent_reads_of_independent_writes) {
  EXPECT_EQ(independent_reads(kRelease, kAcquire).size(), 16u);
  const Outcomes sequential = independent_reads(kSeqCst, kSeqCst);
  EXPECT_EQ(sequential.size(), 15u);
  EXPECT_FALSE(sequential.contains("1010"));
}

TEST(Litmus, a_release_sequence_goes_on_through_another_threads_add) {
  const auto run = [](std::memory_order add) {
    Litmus l;
    return l.run({[](Litmus& t) {
                    t.store(t.x, 1, kRelaxed);
                    t.store(t.y, 1, kRelease);
                  },
                  [=](Litmus& t) { t.explorer.add(t.y, 1, add); },
                  [](Litmus& t) {
                    t.out[0] = t.load(t.y, kAcquire);
                    t.out[1] = t.load(t.x, kRelaxed);
                  }});
  };
  EXPECT_FALSE(run(kRelaxed).contains("20"));
  EXPECT_TRUE(run(kRelaxed).contains("21"));
}

TEST(Litmus, adds_do_not_lose_each_other) {
  Litmus l;
  l.used = 1;
  const auto add = [](Litmus& t) { t.explorer.add(t.x, 1, kRelaxed); };
  Litmus::Body last = [](Litmus& t) {
    t.explorer.add(t.x, 1, kRelaxed);
    t.out[0] = t.load(t.x, kRelaxed);
  };
  EXPECT_EQ(l.run({add, add, last}), (Outcomes{"1", "2", "3"}));
  EXPECT_EQ(l.x, 3u);
}

TEST(Litmus, causality_crosses_threads) {
  Litmus l;
  const Outcomes outcomes = l.run({[](Litmus& t) { t.store(t.x, 1, kRelaxed); },
                                   [](Litmus& t) {
                                     if (t.load(t.x, kAcquire) == 1) t.store(t.y, 1, kRelease);
                                   },
                                   [](Litmus& t) {
                                     t.out[0] = t.load(t.y, kAcquire);
                                     t.out[1] = t.load(t.x, kRelaxed);
                                   }});
  EXPECT_EQ(outcomes, (Outcomes{"00", "01", "11"}));
}

TEST(Litmus, what_this_model_leaves_out_is_load_buffering) {
  Litmus l;
  const auto body = [](bool first) {
    return [=](Litmus& t) {
      t.out[first ? 0 : 1] = t.load(first ? t.x : t.y, kRelaxed);
      t.store(first ? t.y : t.x, 1, kRelaxed);
    };
  };
  EXPECT_EQ(l.run({body(true), body(false)}), (Outcomes{"00", "01", "10"}));
}

Report plain_bytes(std::memory_order store, std::memory_order load) {
  Litmus l;
  l.run({[=](Litmus& t) {
           t.explorer.write(std::as_bytes(std::span(&t.plain, 1)));
           t.store(t.x, 1, store);
         },
         [=](Litmus& t) {
           if (t.load(t.x, load) == 1) t.explorer.read(std::as_bytes(std::span(&t.plain, 1)));
         }});
  return l.report;
}

TEST(Explorer, finds_data_races) {
  EXPECT_TRUE(plain_bytes(kRelease, kAcquire).passed());
  EXPECT_THAT(plain_bytes(kRelaxed, kAcquire).failure, testing::HasSubstr("data race"));
  EXPECT_THAT(plain_bytes(kRelease, kRelaxed).failure, testing::HasSubstr("data race"));
}

TEST(Explorer, finds_lost_wakes) {
  const auto run = [](bool checks_again) {
    Litmus l;
    l.run({[=](Litmus& t) {
             if (t.load(t.x, kAcquire) == 1) return;
             // Without the comparison in the kernel, nothing is checked after the decision.
             const std::uint32_t seen = checks_again ? 0 : t.load(t.x, kRelaxed);
             t.explorer.futex_wait(t.x, seen, 1);
           },
           [](Litmus& t) {
             t.store(t.x, 1, kSeqCst);
             t.explorer.futex_wake(t.x);
           }});
    return l.report;
  };
  EXPECT_TRUE(run(true).passed()) << run(true).failure;
  EXPECT_THAT(run(false).failure, testing::HasSubstr("nobody can wake thread 0"));
}

TEST(Explorer, an_early_wake_comes_at_any_time_but_only_so_often) {
  Litmus l;
  l.early_wakes = 1;
  const Outcomes outcomes = l.run({[](Litmus& t) {
                                     t.out[0] = t.explorer.futex_wait(t.x, 0, 1) == 0 ? 1 : 2;
                                     t.out[1] = t.load(t.y, kRelaxed);
                                   },
                                   [](Litmus& t) {
                                     t.store(t.y, 1, kRelaxed);
                                     t.explorer.futex_wake(t.x);
                                   }});
  EXPECT_EQ(outcomes, (Outcomes{"10", "11", "20", "21"}));
}

TEST(Explorer, unordered_stores_of_one_word_are_told) {
  Explorer explorer;
  std::uint32_t word = 0;
  const auto body = [&] { explorer.store(&word, sizeof(word), 1, kRelease); };
  const Report report = explorer.explore({[&] { word = 0; }, {body, body}}, {});
  EXPECT_THAT(report.failure, testing::HasSubstr("unordered with the store before"));
}

/// A few random operations on three words; what is loaded is part of the outcome.
Litmus::Body random_body(std::mt19937& random, std::size_t first_out, std::size_t out_count) {
  struct Step {
    unsigned kind, word, order;
    std::uint32_t value;
  };
  std::vector<Step> steps;
  for (unsigned i = 0, count = 2 + random() % 3; i < count; ++i)
    steps.push_back({static_cast<unsigned>(random() % 8), static_cast<unsigned>(random() % 2),
                     static_cast<unsigned>(random() % 3),
                     static_cast<std::uint32_t>(1 + random() % 3)});
  return [=](Litmus& t) {
    std::size_t next = 0;
    for (const Step& step : steps) {
      std::uint32_t& word = step.word == 0 ? t.x : t.y;
      if (step.kind < 3 && next < out_count) {
        t.out[first_out + next++] =
            t.load(word, std::array{kRelaxed, kAcquire, kSeqCst}[step.order]);
      } else if (step.kind < 5) {
        t.store(word, step.value, std::array{kRelaxed, kRelease, kSeqCst}[step.order]);
      } else if (step.kind == 5) {
        t.explorer.add(word, 1, std::array{kRelaxed, kAcqRel, kSeqCst}[step.order]);
      } else if (step.kind == 6) {
        t.explorer.fence(std::array{kAcquire, kRelease, kSeqCst}[step.order]);
      } else {
        // Meets only wakes that come later: as far as others see, a load that decides.
        if (step.order == 0) t.explorer.futex_wake(word);
        if (step.order != 0 && t.explorer.futex_wait(word, step.value, 1) == 0)
          t.out[first_out] = 9;
      }
    }
  };
}

TEST(Explorer, the_reduction_loses_no_outcome) {
  const std::uint32_t seeds = std::getenv("AIRLOCK_MODEL_LONG") != nullptr ? 4000 : 150;
  std::uint64_t all = 0;
  std::uint64_t run = 0;
  for (std::uint32_t seed = 0; seed < seeds; ++seed) {
    std::mt19937 random(seed);
    Litmus l;
    l.used = 6;
    // Without early wakes many end in a deadlock, which both have to find.
    l.early_wakes = seed % 4 == 0 ? 0 : 2;
    std::vector<Litmus::Body> bodies;
    for (std::size_t i = 0; i < 2 + seed % 2; ++i) bodies.push_back(random_body(random, i * 2, 2));
    const Outcomes reduced = l.run(bodies, true);
    run += l.report.executions;
    const bool finished = l.report.failure.empty();
    const Outcomes every = l.run(bodies, false);
    all += l.report.executions;
    ASSERT_EQ(finished, l.report.failure.empty()) << "seed " << seed << l.report.failure;
    if (finished) {
      ASSERT_EQ(reduced, every) << "seed " << seed;
    }
  }
  fmt::print("{} executions stand for {}\n", run, all);
  EXPECT_LT(run * 4, all);
}

}  // namespace
}  // namespace airlock::model_check
