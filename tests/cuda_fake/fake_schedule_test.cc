#include <array>
#include <cstdlib>
#include <numeric>

#include "tests/cuda_fake/fake_test.h"
#include "tests/support/sanitizer.h"

namespace airlock::cuda_fake {
namespace {

using testing::Each;
using testing::IsEmpty;

constexpr std::size_t kBytes = 4096;

/// Memory, streams and events that most tests need.
class FakeScheduleTest : public FakeDevice {
 protected:
  void SetUp() override { begin(Mode::kLazy); }
  void begin(Mode mode) {
    start(mode);
    in_ = stream();
    out_ = stream();
    loaded_ = event();
    stored_ = event();
    memory_ = device(kBytes);
    from_ = std::make_unique<Pinned>(kBytes, 7);
    to_ = std::make_unique<Pinned>(kBytes, 0);
  }
  void end() {
    finish(in_);
    finish(out_);
    from_.reset();
    to_.reset();
    release(memory_);
    for (const cudaEvent_t each : {loaded_, stored_}) destroy(each);
    for (const cudaStream_t each : {in_, out_}) destroy(each);
  }
  void load() {
    EXPECT_EQ(cudaMemcpyAsync(memory_, from_->data(), kBytes, cudaMemcpyHostToDevice, in_),
              cudaSuccess);
  }
  void store() {
    EXPECT_EQ(cudaMemcpyAsync(to_->data(), memory_, kBytes, cudaMemcpyDeviceToHost, out_),
              cudaSuccess);
  }
  void join() {
    EXPECT_EQ(cudaEventRecord(loaded_, in_), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(out_, loaded_, 0), cudaSuccess);
  }

  cudaStream_t in_ = nullptr;
  cudaStream_t out_ = nullptr;
  cudaEvent_t loaded_ = nullptr;
  cudaEvent_t stored_ = nullptr;
  std::byte* memory_ = nullptr;
  std::unique_ptr<Pinned> from_;
  std::unique_ptr<Pinned> to_;
};

TEST_F(FakeScheduleTest, every_mode_carries_a_value_through_two_streams) {
  for (const Mode mode : {Mode::kLazy, Mode::kEager, Mode::kThreads}) {
    if (mode != Mode::kLazy) begin(mode);
    load();
    join();
    store();
    ASSERT_EQ(cudaEventRecord(stored_, out_), cudaSuccess);
    finish(stored_);
    EXPECT_EQ(to_->at(0), 7);
    EXPECT_EQ(to_->at(kBytes - 1), 7);
    EXPECT_EQ(counters().pinned_copies, 2U);
    EXPECT_EQ(counters().bytes_in, kBytes);
    EXPECT_EQ(counters().bytes_out, kBytes);
    end();
    EXPECT_THAT(reset(), IsEmpty());
  }
  begin(Mode::kLazy);
  end();
}

TEST_F(FakeScheduleTest, lazy_runs_nothing_that_was_not_asked_for_twice) {
  load();
  ASSERT_EQ(cudaEventRecord(loaded_, in_), cudaSuccess);
  auto* other = device(kBytes);
  ASSERT_EQ(cudaMemcpyAsync(other, from_->data(), kBytes, cudaMemcpyHostToDevice, in_),
            cudaSuccess);
  EXPECT_EQ(counters().work_run, 0U);
  EXPECT_EQ(cudaEventQuery(loaded_), cudaErrorNotReady);
  EXPECT_EQ(counters().work_run, 0U);
  EXPECT_EQ(cudaEventQuery(loaded_), cudaSuccess);
  EXPECT_EQ(counters().work_run, 1U) << "up to the event and no further";
  EXPECT_EQ(cudaEventQuery(loaded_), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(in_), cudaErrorNotReady);
  EXPECT_EQ(cudaStreamQuery(in_), cudaSuccess);
  EXPECT_EQ(counters().work_run, 2U);
  release(other);
  end();
}

TEST_F(FakeScheduleTest, eager_has_run_when_the_call_returns) {
  end();
  begin(Mode::kEager);
  load();
  EXPECT_EQ(counters().work_run, 1U);
  EXPECT_EQ(cudaStreamQuery(in_), cudaSuccess);
  end();
}

TEST_F(FakeScheduleTest, a_wait_is_for_the_record_there_was_at_the_call) {
  ASSERT_EQ(cudaEventRecord(loaded_, in_), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(out_, loaded_, 0), cudaSuccess);
  load();
  ASSERT_EQ(cudaEventRecord(loaded_, in_), cudaSuccess);
  finish(out_);
  EXPECT_EQ(counters().work_run, 0U) << "the later record is another matter";
  finish(loaded_);
  EXPECT_EQ(counters().work_run, 1U);
  end();
}

TEST_F(FakeScheduleTest, asking_for_an_event_without_a_record_is_reported) {
  EXPECT_EQ(cudaEventQuery(loaded_), cudaSuccess);
  expect_misuse("cudaEventQuery of an event that was not recorded");
  EXPECT_EQ(cudaStreamWaitEvent(in_, loaded_, 0), cudaSuccess);
  expect_misuse("cudaStreamWaitEvent for an event that was not recorded");
  end();
}

TEST_F(FakeScheduleTest, work_of_two_streams_on_one_buffer_needs_an_order) {
  std::vector<Mode> modes{Mode::kLazy, Mode::kEager};
#if !AIRLOCK_TSAN  // on threads it is the race that it is meant to be
  modes.push_back(Mode::kThreads);
#endif
  for (const Mode mode : modes) {
    end();
    begin(mode);
    load();
    store();  // no join()
    expect_misuse("cudaMemcpyAsync of another stream also uses: nothing orders them");
    finish(in_);
    finish(out_);
    load();  // what the host saw end is before what it queues later
    EXPECT_THAT(take_misuses(), IsEmpty());
  }
  end();
}

TEST_F(FakeScheduleTest, a_buffer_may_not_be_loaded_again_while_it_is_still_read) {
  load();
  join();
  store();
  load();  // must wait for the store
  expect_misuse("nothing orders them");
  end();
}

TEST_F(FakeScheduleTest, a_wait_orders_what_was_before_the_record_only) {
  auto* other = device(kBytes);
  ASSERT_EQ(cudaMemcpyAsync(other, from_->data(), kBytes, cudaMemcpyHostToDevice, in_),
            cudaSuccess);
  join();
  load();
  ASSERT_EQ(cudaMemcpyAsync(to_->data(), other, kBytes, cudaMemcpyDeviceToHost, out_), cudaSuccess);
  EXPECT_THAT(take_misuses(), IsEmpty());
  store();
  expect_misuse("nothing orders them");
  end();
  release(other);
}

TEST_F(FakeScheduleTest, an_event_that_the_host_saw_orders_all_streams) {
  load();
  ASSERT_EQ(cudaEventRecord(loaded_, in_), cudaSuccess);
  finish(loaded_);
  store();
  EXPECT_THAT(take_misuses(), IsEmpty());
  end();
}

TEST_F(FakeScheduleTest, an_event_recorded_again_is_not_ready_again) {
  load();
  ASSERT_EQ(cudaEventRecord(loaded_, in_), cudaSuccess);
  finish(loaded_);
  load();
  ASSERT_EQ(cudaEventRecord(loaded_, in_), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(loaded_), cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(loaded_), cudaSuccess);
  EXPECT_EQ(counters().work_run, 2U);
  end();
}

TEST_F(FakeScheduleTest, a_missing_wait_shows_in_the_result_too) {
  load();
  store();
  finish(out_);
  EXPECT_EQ(to_->at(0), 0xff) << "the pattern that new device memory holds";
  take_misuses();
  end();
}

TEST_F(FakeScheduleTest, the_destination_of_a_copy_holds_a_pattern_until_then) {
  load();
  join();
  EXPECT_EQ(std::to_integer<int>(*host_view(memory_)), 0xff);
  finish(in_);
  EXPECT_EQ(std::to_integer<int>(*host_view(memory_)), 7);
  store();
#if !AIRLOCK_ASAN
  EXPECT_EQ(to_->at(0), 0xff);
#else
  EXPECT_DEATH(std::exit(to_->at(0)), "use-after-poison");
#endif
  finish(out_);
  EXPECT_EQ(to_->at(0), 7);
  end();
}

TEST_F(FakeScheduleTest, a_source_that_changes_while_it_is_queued_is_reported) {
  load();
  from_->data()[100] = std::byte{8};
  finish(in_);
  expect_misuse("the source of a copy changed while it was queued");
  end();
}

TEST_F(FakeScheduleTest, a_slot_may_be_read_and_then_written_in_stream_order) {
  load();
  ASSERT_EQ(cudaMemcpyAsync(memory_, to_->data(), kBytes, cudaMemcpyHostToDevice, in_),
            cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(from_->data(), memory_, kBytes, cudaMemcpyDeviceToHost, in_),
            cudaSuccess);
  load();  // of what will be there by then
  finish(in_);
  EXPECT_EQ(from_->at(0), 0);
  EXPECT_EQ(std::to_integer<int>(*host_view(memory_)), 0);
  end();
}

TEST_F(FakeScheduleTest, memory_that_is_not_registered_is_copied_as_cuda_says) {
  std::vector<std::byte> host(kBytes, std::byte{5});
  ASSERT_EQ(cudaMemcpyAsync(memory_, host.data(), kBytes, cudaMemcpyHostToDevice, in_),
            cudaSuccess);
  std::fill(host.begin(), host.end(), std::byte{6});  // already taken
  EXPECT_EQ(counters().work_run, 0U);
  std::vector<std::byte> got(kBytes);
  ASSERT_EQ(cudaMemcpyAsync(got.data(), memory_, kBytes, cudaMemcpyDeviceToHost, in_), cudaSuccess);
  EXPECT_THAT(got, Each(std::byte{5})) << "there when the call returns";
  EXPECT_EQ(counters().pageable_copies, 2U);
  EXPECT_EQ(counters().pinned_copies, 0U);
  end();
  options_.report_pageable = true;
  begin(Mode::kThreads);
  ASSERT_EQ(cudaMemcpyAsync(memory_, host.data(), kBytes, cudaMemcpyHostToDevice, in_),
            cudaSuccess);
  expect_misuse("of host memory that is not registered");
  ASSERT_EQ(cudaMemcpyAsync(got.data(), memory_, kBytes, cudaMemcpyDeviceToHost, in_), cudaSuccess);
  EXPECT_THAT(got, Each(std::byte{6}));
  take_misuses();
  end();
}

TEST_F(FakeScheduleTest, copies_rows) {
  std::iota(reinterpret_cast<unsigned char*>(from_->data()),
            reinterpret_cast<unsigned char*>(from_->data()) + 64, static_cast<unsigned char>(0));
  ASSERT_EQ(cudaMemcpy2DAsync(memory_, 4, from_->data(), 16, 3, 4, cudaMemcpyHostToDevice, in_),
            cudaSuccess);
  join();
  ASSERT_EQ(cudaMemcpy2DAsync(to_->data(), 8, memory_, 4, 3, 4, cudaMemcpyDeviceToHost, out_),
            cudaSuccess);
  finish(out_);
  for (std::size_t row = 0; row < 4; ++row) {
    EXPECT_EQ(to_->at(8 * row + 2), static_cast<int>(16 * row + 2));
    EXPECT_EQ(to_->at(8 * row + 3), 0) << "between the rows nothing is touched";
  }
  EXPECT_EQ(std::to_integer<int>(host_view(memory_)[3]), 0xff);
  EXPECT_EQ(cudaMemcpy2DAsync(memory_, 2, from_->data(), 16, 3, 4, cudaMemcpyHostToDevice, in_),
            cudaErrorInvalidPitchValue);
  end();
}

TEST_F(FakeScheduleTest, a_copy_knows_host_from_device_memory) {
  EXPECT_EQ(cudaMemcpyAsync(to_->data(), from_->data(), 8, cudaMemcpyHostToDevice, in_),
            cudaErrorInvalidValue);
  expect_misuse("its destination is host memory, not device memory as it says");
  EXPECT_EQ(cudaMemcpyAsync(memory_, memory_ + 64, 8, cudaMemcpyHostToDevice, in_),
            cudaErrorInvalidValue);
  expect_misuse("its source is device memory, not host memory as it says");
  EXPECT_EQ(cudaMemcpyAsync(memory_, memory_ + 64, 8, cudaMemcpyDefault, in_), cudaSuccess);
  EXPECT_EQ(counters().device_copies, 1U);
  EXPECT_EQ(cudaMemcpyAsync(memory_, from_->data() + kBytes - 4, 8, cudaMemcpyHostToDevice, in_),
            cudaErrorInvalidValue);
  expect_misuse("only a part is registered");
  EXPECT_EQ(cudaMemcpyAsync(memory_ + kBytes - 4, from_->data(), 8, cudaMemcpyHostToDevice, in_),
            cudaSuccess);
  finish(in_);
  expect_misuse("device memory that ends before");
  EXPECT_EQ(cudaMemcpyAsync(memory_, from_->data(), 8, cudaMemcpyHostToDevice, nullptr),
            cudaErrorInvalidResourceHandle);
  expect_misuse("on the default stream");
  end();
}

TEST_F(FakeScheduleTest, releasing_what_queued_work_uses_is_reported) {
  for (const Mode mode : {Mode::kLazy, Mode::kEager, Mode::kThreads}) {
    end();
    begin(mode);
    load();
    EXPECT_EQ(cudaHostUnregister(from_->data()), cudaSuccess);
    // Among others: a thread may run the copy meanwhile and report that too.
    EXPECT_THAT(take_misuses(), testing::Contains(testing::HasSubstr(
                                    "cudaHostUnregister while cudaMemcpyAsync may still use")));
    finish(in_);
    take_misuses();
    EXPECT_EQ(cudaHostRegister(from_->data(), kBytes, 0), cudaSuccess);
    load();
    EXPECT_EQ(cudaFree(memory_), cudaSuccess);
    EXPECT_THAT(take_misuses(),
                testing::Contains(testing::HasSubstr("that cudaMemcpyAsync may still use")));
    finish(in_);
    take_misuses();
    memory_ = device(kBytes);
  }
  end();
}

TEST_F(FakeScheduleTest, a_copy_from_memory_that_is_no_longer_registered_is_reported) {
  load();
  EXPECT_EQ(cudaHostUnregister(from_->data()), cudaSuccess);
  take_misuses();
  finish(in_);
  expect_misuse("host memory that was unregistered before it ran");
  EXPECT_EQ(cudaHostRegister(from_->data(), kBytes, 0), cudaSuccess);
  end();
}

TEST_F(FakeScheduleTest, destroying_what_still_has_work_is_reported) {
  load();
  join();
  store();
  EXPECT_EQ(cudaEventDestroy(loaded_), cudaSuccess);
  expect_misuse("cudaEventDestroy of an event that was not reached yet");
  EXPECT_EQ(cudaStreamDestroy(out_), cudaSuccess);
  expect_misuse("cudaStreamDestroy while cudaMemcpyAsync may not have run yet");
  EXPECT_EQ(to_->at(0), 7) << "but it runs, as with CUDA";
  loaded_ = event();
  out_ = stream();
  end();
}

TEST_F(FakeScheduleTest, a_stream_is_one_threads) {
  load();
  std::thread([this] { EXPECT_EQ(cudaStreamQuery(in_), cudaErrorNotReady); }).join();
  expect_misuse("cudaStreamQuery on a stream that another thread uses");
  end();
}

TEST_F(FakeScheduleTest, a_hung_device_is_never_ready) {
  for (const Mode mode : {Mode::kLazy, Mode::kEager, Mode::kThreads}) {
    end();
    begin(mode);
    set_hang(true);
    load();
    ASSERT_EQ(cudaEventRecord(loaded_, in_), cudaSuccess);
    for (int i = 0; i < 10; ++i) EXPECT_EQ(cudaEventQuery(loaded_), cudaErrorNotReady);
    for (int i = 0; i < 10; ++i) EXPECT_EQ(cudaStreamQuery(in_), cudaErrorNotReady);
    std::array<std::byte, 8> host{};
    EXPECT_EQ(cudaMemcpyAsync(host.data(), memory_, 8, cudaMemcpyDeviceToHost, out_),
              cudaErrorUnknown);
    expect_misuse("would wait for ever");
    EXPECT_EQ(counters().work_run, 0U);
    set_hang(false);
  }
  end();
}

TEST_F(FakeScheduleTest, a_query_that_is_not_ready_is_the_threads_last_error) {
  load();
  EXPECT_EQ(cudaStreamQuery(in_), cudaErrorNotReady);
  EXPECT_EQ(cudaPeekAtLastError(), cudaErrorNotReady);
  std::thread([] { EXPECT_EQ(cudaGetLastError(), cudaSuccess); }).join();
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  end();
}

TEST_F(FakeScheduleTest, elapsed_time_needs_two_events_that_are_done) {
  const auto begun = event(cudaEventDefault);
  const auto ended = event(cudaEventDefault);
  float ms = -1;
  EXPECT_EQ(cudaEventElapsedTime(&ms, begun, ended), cudaErrorInvalidResourceHandle);
  expect_misuse("of an event that was not recorded");
  ASSERT_EQ(cudaEventRecord(begun, in_), cudaSuccess);
  load();
  ASSERT_EQ(cudaEventRecord(ended, in_), cudaSuccess);
  finish(begun);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begun, ended), cudaErrorNotReady);
  finish(ended);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begun, ended), cudaSuccess);
  EXPECT_GE(ms, 0);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begun, loaded_), cudaErrorInvalidResourceHandle);
  expect_misuse("cudaEventDisableTiming");
  destroy(begun);
  destroy(ended);
  end();
}

TEST_F(FakeScheduleTest, threads_may_share_the_device) {
  for (const Mode mode : {Mode::kLazy, Mode::kThreads}) {
    end();
    begin(mode);
    std::vector<std::thread> sessions;
    for (int session = 0; session < 4; ++session) {
      sessions.emplace_back([session] {
        const auto s = stream();
        Pinned host(kBytes, session);
        Pinned got(kBytes);
        auto* memory = device(kBytes);
        for (int round = 0; round < 20; ++round) {
          EXPECT_EQ(cudaMemcpyAsync(memory, host.data(), kBytes, cudaMemcpyHostToDevice, s),
                    cudaSuccess);
          EXPECT_EQ(cudaMemcpyAsync(got.data(), memory, kBytes, cudaMemcpyDeviceToHost, s),
                    cudaSuccess);
          finish(s);
          EXPECT_EQ(got.at(kBytes - 1), session);
        }
        release(memory);
        destroy(s);
      });
    }
    for (std::thread& each : sessions) each.join();
    EXPECT_EQ(counters().work_run, 160U);
  }
  end();
}

}  // namespace
}  // namespace airlock::cuda_fake
