#include "runtime/cpu/sliced_run.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/cpu/cpu_model.h"
#include "tests/support/memory_model.h"

namespace airlock {
namespace {

Deadline soon() { return Deadline::after(std::chrono::seconds(120)); }

/// Takes one thread longer than a slice.
void outlast_a_slice() {
  const Deadline end = Deadline::after(kSlice + std::chrono::milliseconds(5));
  while (!end.expired()) std::this_thread::yield();
}

TEST(SlicedRun, does_each_piece_once) {
  for (const std::size_t threads : {1, 2, 4}) {
    const auto pool = ThreadPool::create(threads).value();
    FairGate gate;
    FairGate::Share share;
    const OpLife life(soon());
    SlicedRun run(gate, share, *pool, life);
    for (const std::size_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> visits(count);
      ASSERT_TRUE(run.run(count,
                          [&](std::size_t worker, std::size_t piece) {
                            EXPECT_LT(worker, run.worker_count(count, ~std::size_t{0}));
                            ++visits[piece];
                          })
                      .ok());
      for (const auto& visit : visits) EXPECT_EQ(visit, 1);
    }
  }
}

TEST(SlicedRun, does_each_piece_once_over_many_slices) {
  const auto pool = ThreadPool::create(3).value();
  FairGate gate;
  FairGate::Share share;
  int asked = 0;
  const OpLife life(soon(), [&asked]() -> Status {
    ++asked;
    return {};
  });
  SlicedRun run(gate, share, *pool, life);
  std::vector<std::atomic<int>> visits(12);
  ASSERT_TRUE(run.run(visits.size(),
                      [&](std::size_t, std::size_t piece) {
                        ++visits[piece];
                        outlast_a_slice();
                      })
                  .ok());
  for (const auto& visit : visits) EXPECT_EQ(visit, 1);
  EXPECT_GT(asked, 0);
}

TEST(SlicedRun, stops_within_a_slice_once_nobody_wants_the_result) {
  for (const std::size_t threads : {1, 3}) {
    const auto pool = ThreadPool::create(threads).value();
    FairGate gate;
    FairGate::Share share;
    const OpLife life(soon(), [] { return Status(StatusCode::kUnavailable, "the client left"); });
    std::atomic<std::size_t> done{0};
    {
      SlicedRun run(gate, share, *pool, life);
      const Status status = run.run(1000, [&](std::size_t, std::size_t) {
        ++done;
        outlast_a_slice();
      });
      EXPECT_EQ(status.code(), StatusCode::kUnavailable);
    }
    // The caller's first piece outlasts its slice; the others of a pool do a few more at most,
    // as slow as this machine may be.
    EXPECT_LT(done, 1000U);
    EXPECT_TRUE(gate.enter(share, soon()).ok());
  }
}

TEST(SlicedRun, stops_at_the_deadline) {
  const auto pool = ThreadPool::create(2).value();
  FairGate gate;
  FairGate::Share share;
  const OpLife life(Deadline::now());
  SlicedRun run(gate, share, *pool, life);
  const Status status = run.run(1000, [&](std::size_t, std::size_t) { outlast_a_slice(); });
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
}

TEST(SlicedRun, throws_what_a_piece_throws_and_gives_its_turn_back) {
  for (const std::size_t threads : {1, 3}) {
    const auto pool = ThreadPool::create(threads).value();
    FairGate gate;
    FairGate::Share share;
    const OpLife life(soon());
    {
      SlicedRun run(gate, share, *pool, life);
      EXPECT_THROW((void)run.run(100,
                                 [](std::size_t, std::size_t piece) {
                                   if (piece == 7) throw std::bad_alloc();
                                 }),
                   std::bad_alloc);
    }
    EXPECT_TRUE(gate.enter(share, soon()).ok());
  }
}

/// An op of one session, over memory of its own.
class SessionOp {
 public:
  SessionOp(CpuModel& model, const OpSpec& spec) : compute_(model.make_compute()), spec_(spec) {
    for (const TensorDesc& desc : spec.inputs) inputs_.emplace_back(desc);
    const auto results = op_results(spec, model.info().dims).value();
    for (const TensorDesc& desc : results) results_.emplace_back(desc);
  }
  Status run(const OpLife& life) {
    OpMemory memory;
    for (const Tensor& input : inputs_) memory.inputs.push_back(input.view());
    for (Tensor& result : results_) memory.results.push_back(result.mutable_view());
    ASSIGN_OR_RETURN(auto op, compute_->prepare(spec_, memory, life));
    RETURN_IF_ERROR(op->submit());
    return op->wait();
  }

 private:
  std::unique_ptr<Compute> compute_;
  OpSpec spec_;
  std::vector<Tensor> inputs_;
  std::vector<Tensor> results_;
};

OpSpec square(std::int64_t size) {
  const TensorDesc desc{DType::kF32, Shape{1, size, size}};
  return matmul_spec(desc, desc, Transpose::kNone, DType::kF32);
}

class LongProduct : public ::testing::TestWithParam<std::size_t> {
 protected:
  // Dozens of slices, never computed to the end.
  const OpSpec long_spec_ = square(5000);
  const testing::MemoryModel source_;
  const std::shared_ptr<CpuModel> model_ =
      CpuModel::create(source_, {.dtype = DType::kF32, .threads = GetParam(), .progress = {}})
          .value();
};

TEST_P(LongProduct, lets_short_ones_through) {
  // The long op is held between two of its slices until a short one stands in line. Were it not to
  // pass its turn on then, it would come to its end, and the short ones after it.
  std::atomic<int> in_line{0};    // short ops that were asked whether they are still wanted
  std::atomic<int> through{0};    // short ops that are done
  std::atomic<bool> over{false};  // no more come
  bool each_went_first = true;
  constexpr int kShort = 5;
  SessionOp long_op(*model_, long_spec_);
  std::thread hog([&] {
    const OpLife life(soon(), [&]() -> Status {
      if (over) return {StatusCode::kUnavailable, "the test is over"};
      const Deadline limit = soon();
      const int before = through;
      while (in_line == before && !over && !limit.expired()) std::this_thread::yield();
      return {};
    });
    EXPECT_EQ(long_op.run(life).code(), StatusCode::kUnavailable);
  });
  SessionOp short_op(*model_, square(64));
  for (int i = 0; i < kShort; ++i) {
    bool asked = false;
    const OpLife life(soon(), [&]() -> Status {
      if (!std::exchange(asked, true)) ++in_line;
      return {};
    });
    const Status status = short_op.run(life);
    if (!asked) ++in_line;  // it met a free gate
    each_went_first = each_went_first && status.ok();
    ++through;
  }
  over = true;
  hog.join();
  EXPECT_TRUE(each_went_first);
  EXPECT_EQ(through, kShort);
}

TEST_P(LongProduct, ends_once_nobody_wants_it) {
  int asked = 0;
  const OpLife life(soon(), [&asked]() -> Status {
    return ++asked < 4 ? Status() : Status(StatusCode::kUnavailable, "the client left");
  });
  const Status status = SessionOp(*model_, long_spec_).run(life);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_LE(asked, 5);
  EXPECT_TRUE(SessionOp(*model_, square(64)).run(soon()).ok());
}

TEST_P(LongProduct, ends_at_its_deadline) {
  const Status status =
      SessionOp(*model_, long_spec_).run(Deadline::after(std::chrono::milliseconds(60)));
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
}

INSTANTIATE_TEST_SUITE_P(Threads, LongProduct, ::testing::Values(1, 2),
                         [](const auto& threads) { return std::to_string(threads.param); });

TEST(CpuThreads, are_as_many_as_asked_for_whatever_is_computed_by_how_many_sessions) {
  const auto count = [] {
    const std::filesystem::directory_iterator tasks("/proc/self/task");
    return std::distance(begin(tasks), end(tasks));
  };
  const auto before = count();
  const testing::MemoryModel source;
  const auto model =
      CpuModel::create(source, {.dtype = DType::kF32, .threads = 3, .progress = {}}).value();
  std::vector<std::thread> sessions;
  for (int i = 0; i < 4; ++i) {
    sessions.emplace_back(
        [&model] { EXPECT_TRUE(SessionOp(*model, square(700)).run(soon()).ok()); });
  }
  for (std::thread& session : sessions) session.join();
  // A thread that was joined is in the list for a moment longer.
  const Deadline end = soon();
  while (count() != before + 2 && !end.expired()) std::this_thread::yield();
  EXPECT_EQ(count(), before + 2);
}

}  // namespace
}  // namespace airlock
