// serve() with a Compute that works on two ops at once.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "proto/message.h"
#include "runtime/rpc/remote_backend.h"
#include "runtime/rpc/serve.h"
#include "tests/rpc/rpc_rigs.h"
#include "tests/rpc/staged_compute.h"

namespace airlock {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing_rigs::Events;
using testing_rigs::LoggedChannel;
using testing_rigs::Route;
using testing_rigs::serve_context;
using testing_rigs::soon;
using testing_rigs::StagedCompute;

/// A server over a StagedCompute in a thread, and its client's bare channel.
class Overlap {
 public:
  Overlap(testing_rigs::Rig rig, PeerLife& life,
          std::chrono::nanoseconds op_timeout = std::chrono::minutes(5))
      : rig_(std::move(rig)), life_(life), norms_(read_norms(model_).value()) {
    BackendInfo info;
    info.dims = model_.config().dims;
    compute_ = std::make_unique<StagedCompute>(info, events_);
    channel_ = std::make_unique<LoggedChannel>(std::move(rig_.server), events_);
    context_ = serve_context(norms_, testing_rigs::kStatsJson, op_timeout);
    context_.watch = &life_;
  }
  ~Overlap() { stop(); }

  void start() {
    thread_ = std::thread([this] { status_ = serve(*channel_, *compute_, context_, op_stats_); });
  }
  /// Why the session ended, once it has.
  Status join() {
    if (thread_.joinable()) thread_.join();
    return status_;
  }
  /// Ends the session from outside.
  void stop() {
    life_.end({StatusCode::kCancelled, "the test is over"});
    rig_.runner.reset();  // an in-process channel asks nobody but its other end
    (void)join();
  }

  /// A product whose result is `value` over and over, unless `spec` is something else.
  void send(std::uint64_t id, int value, const OpSpec& spec) {
    const std::vector<std::size_t> sizes = sizes_of(spec.inputs);
    auto message = rig_.runner->prepare(sizes, soon());
    ASSERT_TRUE(message.ok()) << message.status().to_string();
    for (std::size_t i = 0; i < sizes.size(); ++i)
      std::memset((*message)->tensor(i).data(), value, sizes[i]);
    ASSERT_TRUE(rig_.runner->send(**message, encode(RequestHeader{id, spec}), soon()).ok());
  }
  void send(std::uint64_t id, int value) { send(id, value, product()); }
  ResponseHeader reply(std::optional<int> value = {}) {
    auto message = rig_.runner->receive(testing_rigs::sizes_of_reply, soon());
    EXPECT_TRUE(message.ok()) << message.status().to_string();
    if (!message.ok()) return {};
    ResponseHeader header = decode_response((*message)->header()).value();
    EXPECT_EQ((*message)->tensor_count(), header.results.size());
    if (value) {
      EXPECT_EQ(header.code, StatusCode::kOk) << header.message;
      const std::span<const std::byte> bytes = (*message)->tensor(0);
      EXPECT_EQ(std::ranges::count(bytes, static_cast<std::byte>(*value)),
                static_cast<std::ptrdiff_t>(bytes.size()))
          << "request " << header.request_id;
    }
    return header;
  }
  OpSpec product() const {
    return linear_spec({{WeightKind::kQ, 0}}, {DType::kF32, Shape{2, compute_->info().dims.hidden}},
                       DType::kF32);
  }

  Events& events() { return events_; }
  StagedCompute& compute() { return *compute_; }
  LoggedChannel& channel() { return *channel_; }
  Channel& client() { return *rig_.runner; }
  void drop_client() { rig_.runner.reset(); }
  /// After join().
  void drop_server() { channel_.reset(); }
  OpStatsTable& op_stats() { return op_stats_; }

 private:
  testing::MemoryModel model_;
  testing_rigs::Rig rig_;
  PeerLife& life_;
  Tensor norms_;
  Events events_;
  std::unique_ptr<StagedCompute> compute_;
  std::unique_ptr<LoggedChannel> channel_;
  ServeContext context_;
  OpStatsTable op_stats_;
  Status status_;
  std::thread thread_;
};

class ServeOverlap : public ::testing::Test {
 protected:
  explicit ServeOverlap(std::size_t slot_count = 8)
      : overlap_(in_process(slot_count), life_), events_(overlap_.events()) {}
  static testing_rigs::Rig in_process(std::size_t slot_count) {
    auto [server, runner] = make_in_process_pair({true, 65536, slot_count});
    return {nullptr, std::move(server), std::move(runner)};
  }

  PeerLife life_;
  Overlap overlap_;
  Events& events_;
};

TEST_F(ServeOverlap, begins_the_second_op_while_the_first_is_under_way) {
  overlap_.start();
  overlap_.send(11, 1);
  overlap_.send(12, 2);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  EXPECT_FALSE(events_.has("op 1 gone"));
  overlap_.compute().finish(1);
  EXPECT_EQ(overlap_.reply(1).request_id, 11U);
  EXPECT_FALSE(events_.has("op 2 gone"));
  overlap_.compute().finish(2);
  EXPECT_EQ(overlap_.reply(2).request_id, 12U);
}

TEST_F(ServeOverlap, gives_the_requests_slots_back_once_its_op_is_done_and_before_the_reply) {
  overlap_.start();
  overlap_.send(11, 1);
  overlap_.send(12, 2);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  overlap_.compute().finish(1);
  EXPECT_EQ(overlap_.reply(1).request_id, 11U);
  overlap_.compute().finish(2);
  EXPECT_EQ(overlap_.reply(2).request_id, 12U);
  overlap_.stop();
  EXPECT_THAT(events_.all(), ElementsAre("request 1", "op 1 begun", "request 2", "op 2 begun",
                                         "op 1 gone", "lease 1 gone", "reply 11",  //
                                         "op 2 gone", "lease 2 gone", "reply 12"));
}

TEST_F(ServeOverlap, answers_in_the_order_of_the_requests) {
  overlap_.start();
  overlap_.send(11, 1);
  overlap_.send(12, 2);
  overlap_.send(13, 0, OpSpec{});  // a ping, which is done at once
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  overlap_.compute().finish(2);
  overlap_.compute().finish(1);
  EXPECT_EQ(overlap_.reply(1).request_id, 11U);
  EXPECT_EQ(overlap_.reply(2).request_id, 12U);
  EXPECT_EQ(overlap_.reply().request_id, 13U);
}

TEST_F(ServeOverlap, has_two_ops_under_way_at_most) {
  constexpr int kRequests = 8;  // what the channel holds
  overlap_.start();
  for (int i = 1; i <= kRequests; ++i) overlap_.send(static_cast<std::uint64_t>(i), i);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  for (int i = 1; i <= kRequests; ++i) {
    EXPECT_FALSE(events_.has("request " + std::to_string(i + 2))) << "while op " << i << " runs";
    overlap_.compute().finish(i);
    EXPECT_EQ(overlap_.reply(i).request_id, static_cast<std::uint64_t>(i));
    if (i + 2 <= kRequests) {
      ASSERT_TRUE(events_.wait_for("op " + std::to_string(i + 2) + " begun"));
    }
  }
  overlap_.stop();
  EXPECT_EQ(overlap_.compute().most_at_once(), 2);
}

TEST_F(ServeOverlap, polls_for_nothing_where_ops_are_done_at_once) {
  for (int i = 1; i <= 3; ++i) overlap_.compute().finish(i);
  overlap_.start();
  for (int i = 1; i <= 3; ++i) {
    overlap_.send(11, i);
    EXPECT_EQ(overlap_.reply(i).request_id, 11U);
  }
  overlap_.stop();
  EXPECT_EQ(overlap_.channel().polls(), 0);
}

TEST_F(ServeOverlap, an_op_that_fails_spares_the_one_behind_it) {
  overlap_.compute().refuse_prepare(3, {StatusCode::kResourceExhausted, "no device memory"});
  overlap_.compute().refuse_submit(4, {StatusCode::kInvalidInput, "a bad token"});
  overlap_.start();
  overlap_.send(11, 1);
  overlap_.send(12, 2);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  overlap_.compute().finish(1, {.status = {StatusCode::kResourceExhausted, "none left"}});
  const ResponseHeader failed = overlap_.reply();
  EXPECT_EQ(failed.request_id, 11U);
  EXPECT_EQ(failed.code, StatusCode::kResourceExhausted);
  EXPECT_THAT(failed.message, HasSubstr("none left"));
  overlap_.send(13, 3);
  overlap_.send(14, 4);
  overlap_.send(15, 5);
  overlap_.compute().finish(2);
  EXPECT_EQ(overlap_.reply(2).request_id, 12U);
  EXPECT_EQ(overlap_.reply().code, StatusCode::kResourceExhausted);
  EXPECT_EQ(overlap_.reply().code, StatusCode::kInvalidInput);
  overlap_.compute().finish(5);
  EXPECT_EQ(overlap_.reply(5).request_id, 15U);
}

TEST_F(ServeOverlap, an_op_that_does_not_end_in_time_is_answered) {
  Overlap hasty(in_process(8), life_, std::chrono::milliseconds(50));
  hasty.start();
  hasty.send(11, 1);  // alone: nothing but its own deadline ends the wait for it
  const ResponseHeader late = hasty.reply();
  EXPECT_EQ(late.request_id, 11U);
  EXPECT_EQ(late.code, StatusCode::kDeadlineExceeded);
  hasty.compute().finish(2);
  hasty.send(12, 2);
  EXPECT_EQ(hasty.reply(2).request_id, 12U);
}

TEST_F(ServeOverlap, abandons_what_is_under_way_when_the_session_ends) {
  overlap_.start();
  overlap_.send(11, 1);
  overlap_.send(12, 2);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  overlap_.compute().finish(1);
  EXPECT_EQ(overlap_.reply(1).request_id, 11U);
  life_.end({StatusCode::kUnavailable, "the client left"});
  EXPECT_EQ(overlap_.join().code(), StatusCode::kUnavailable);
  auto events = events_.all();
  ASSERT_GE(events.size(), 3U);
  events.erase(events.begin(), events.end() - 3);
  EXPECT_THAT(events, ElementsAre("op 2 gone", "loan 2 gone", "lease 2 gone"));
}

TEST_F(ServeOverlap, ends_with_an_op_under_way_when_the_client_is_gone) {
  overlap_.start();
  overlap_.send(11, 1);
  ASSERT_TRUE(events_.wait_for("op 1 begun"));
  overlap_.drop_client();
  EXPECT_EQ(overlap_.join().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(events_.has("lease 1 gone"));
}

TEST_F(ServeOverlap, ends_at_a_bad_request_behind_an_op_under_way) {
  overlap_.start();
  overlap_.send(11, 1);
  ASSERT_TRUE(events_.wait_for("op 1 begun"));
  OpSpec spec = overlap_.product();
  spec.weights[0].layer = 99;
  overlap_.send(12, 2, spec);
  EXPECT_EQ(overlap_.join().code(), StatusCode::kProtocolError);
  EXPECT_TRUE(events_.has("op 1 gone"));
  EXPECT_FALSE(events_.has("reply 11"));
}

TEST_F(ServeOverlap, a_failed_device_ends_the_session_after_the_reply) {
  overlap_.start();
  overlap_.send(11, 1);
  overlap_.send(12, 2);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  overlap_.compute().finish(1, {.status = {StatusCode::kDevice, "the device fell off the bus"}});
  const ResponseHeader header = overlap_.reply();
  EXPECT_EQ(header.request_id, 11U);
  EXPECT_EQ(header.code, StatusCode::kDevice);
  EXPECT_EQ(header.message, "the device fell off the bus");
  overlap_.drop_client();
  const Status status = overlap_.join();
  EXPECT_EQ(status.code(), StatusCode::kDevice);
  EXPECT_EQ(status.message(), "the device fell off the bus");
  EXPECT_TRUE(events_.has("lease 2 gone"));
  EXPECT_FALSE(events_.has("reply 12"));
}

TEST_F(ServeOverlap, a_device_that_fails_before_an_op_begins_ends_the_session_too) {
  overlap_.compute().refuse_prepare(2, {StatusCode::kDevice, "the device fell off the bus"});
  overlap_.start();
  overlap_.send(11, 1);
  overlap_.send(12, 2);
  ASSERT_TRUE(events_.wait_for("op 1 begun"));
  overlap_.compute().finish(1);
  EXPECT_EQ(overlap_.reply(1).request_id, 11U);  // what was begun before is still answered
  EXPECT_EQ(overlap_.reply().code, StatusCode::kDevice);
  overlap_.drop_client();
  EXPECT_EQ(overlap_.join().code(), StatusCode::kDevice);
}

TEST_F(ServeOverlap, a_client_has_time_to_read_of_a_failed_device_and_no_more) {
  overlap_.start();
  for (std::uint64_t id = 11; id <= 13; ++id) overlap_.send(id, 1);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  overlap_.compute().finish(1, {.status = {StatusCode::kDevice, "gone"}});
  EXPECT_EQ(overlap_.join().code(), StatusCode::kDevice);  // though the client stays
  EXPECT_EQ(overlap_.reply().code, StatusCode::kDevice);
  EXPECT_TRUE(events_.has("lease 3 gone"));  // read while it waited
  EXPECT_FALSE(events_.has("op 3 begun"));
}

TEST_F(ServeOverlap, counts_the_time_of_each_op_and_its_parts_on_the_device) {
  overlap_.start();
  for (std::uint64_t id = 11; id <= 13; ++id) overlap_.send(id, 1);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));
  overlap_.compute().finish(1, {.times = {.server_ns = 5, .device = {100, 300, 99}}});
  // What waits longer than the op has been there is bounded.
  overlap_.compute().finish(
      2, {.times = {.queue_ns = 1'000'000'000'000, .server_ns = 7, .device = {1, 2, 3}}});
  overlap_.compute().finish(3, {.status = {StatusCode::kInvalidInput, "fails"},
                                .times = {.server_ns = 5, .device = {0, 5, 0}}});
  EXPECT_EQ(overlap_.reply(1).server_ns, 5U);
  const ResponseHeader second = overlap_.reply(1);
  EXPECT_EQ(second.server_ns, 0U);
  EXPECT_LT(second.queue_ns, 1'000'000'000'000U);
  EXPECT_EQ(overlap_.reply().server_ns, 0U);
  overlap_.stop();
  const OpSnapshot sum = snapshot_of(overlap_.op_stats())[Op::kBatchLinear];
  EXPECT_EQ(sum.calls, 3U);
  EXPECT_EQ(sum.times.server_ns, 5U);
  EXPECT_EQ(sum.times.tee_ns, 0U);
  EXPECT_EQ(sum.times.total_ns, sum.times.wire_ns + sum.times.queue_ns + sum.times.server_ns);
  EXPECT_EQ(sum.times.device, (DeviceTimes{101, 302, 102}));
}

TEST_F(ServeOverlap, a_reply_without_memory_is_an_error_of_its_op_alone) {
  overlap_.channel().refuse_prepare(2, {StatusCode::kResourceExhausted, "no memory for a tensor"});
  overlap_.start();
  overlap_.send(11, 1);
  ASSERT_TRUE(events_.wait_for("op 1 begun"));
  overlap_.send(12, 2);  // while the first is under way: no slot that comes free would help it
  overlap_.compute().finish(1);
  EXPECT_EQ(overlap_.reply(1).request_id, 11U);
  const ResponseHeader failed = overlap_.reply();
  EXPECT_EQ(failed.request_id, 12U);
  EXPECT_EQ(failed.code, StatusCode::kResourceExhausted);
  overlap_.send(13, 3);
  overlap_.compute().finish(2);
  EXPECT_EQ(overlap_.reply(3).request_id, 13U);
}

/// Room for two messages each way.
class ServeNarrow : public ServeOverlap {
 protected:
  ServeNarrow() : ServeOverlap(2) {}
};

TEST_F(ServeNarrow, holds_a_request_until_its_reply_finds_room) {
  overlap_.start();
  overlap_.compute().finish(1);
  overlap_.send(11, 1);
  ASSERT_TRUE(events_.wait_for("reply 11"));  // which the client does not take: half the room
  overlap_.send(12, 2);
  ASSERT_TRUE(events_.wait_for("op 2 begun"));  // the other half
  overlap_.send(13, 3);
  ASSERT_TRUE(events_.wait_for("no room"));
  EXPECT_FALSE(events_.has("op 3 begun"));
  EXPECT_EQ(overlap_.reply(1).request_id, 11U);
  overlap_.compute().finish(2);
  ASSERT_TRUE(events_.wait_for("op 3 begun"));
  overlap_.compute().finish(3);
  EXPECT_EQ(overlap_.reply(2).request_id, 12U);
  EXPECT_EQ(overlap_.reply(3).request_id, 13U);
  overlap_.stop();
  EXPECT_FALSE(events_.has("request 4"));
}

TEST_F(ServeNarrow, gives_up_on_a_client_that_sends_and_takes_nothing) {
  Overlap hasty(in_process(2), life_, std::chrono::milliseconds(50));
  for (int i = 1; i <= 3; ++i) hasty.compute().finish(i);
  hasty.start();
  for (int i = 1; i <= 3; ++i) hasty.send(static_cast<std::uint64_t>(i), i);
  EXPECT_EQ(hasty.join().code(), StatusCode::kUnavailable);
  EXPECT_FALSE(hasty.events().has("op 3 begun"));
  EXPECT_TRUE(hasty.events().has("lease 3 gone"));
}

TEST(ServeOverlapRing, a_slot_of_the_request_is_free_when_its_reply_is_there_and_not_before) {
  PeerLife life;
  Overlap overlap(make_rig(Route::kRing, life), life);
  overlap.start();
  overlap.send(11, 1);
  ASSERT_TRUE(overlap.events().wait_for("op 1 begun"));
  overlap.send(12, 2);
  ASSERT_TRUE(overlap.events().wait_for("op 2 begun"));
  EXPECT_EQ(overlap.client().slots_in_use(), 2U);
  overlap.compute().finish(1);
  EXPECT_EQ(overlap.reply(1).request_id, 11U);
  EXPECT_EQ(overlap.client().slots_in_use(), 1U);
  overlap.compute().finish(2);
  EXPECT_EQ(overlap.reply(2).request_id, 12U);
  EXPECT_EQ(overlap.client().slots_in_use(), 0U);
}

class ServeOverlapRoutes : public ::testing::TestWithParam<Route> {
 protected:
  PeerLife life_;
  Overlap overlap_{make_rig(GetParam(), life_), life_};
};

TEST_P(ServeOverlapRoutes, answers_each_request_with_its_own_result) {
  constexpr int kRequests = 30;
  overlap_.start();
  int next = 1;
  for (int i = 1; i <= kRequests; ++i) {
    for (; next <= std::min(i + 3, kRequests); ++next)
      overlap_.send(static_cast<std::uint64_t>(next), next);
    overlap_.compute().finish(i + 1 - 2 * (i % 2 == 0));  // 2 1 4 3 6 5
    if (i % 2 == 0) {
      EXPECT_EQ(overlap_.reply(i - 1).request_id, static_cast<std::uint64_t>(i - 1));
      EXPECT_EQ(overlap_.reply(i).request_id, static_cast<std::uint64_t>(i));
    }
  }
  overlap_.stop();
  EXPECT_LE(overlap_.compute().most_at_once(), 2);  // how many depends on the scheduler
}

TEST_P(ServeOverlapRoutes, a_client_reads_of_a_failed_device_though_the_server_is_gone) {
  overlap_.start();
  overlap_.send(11, 1);
  overlap_.compute().finish(1, {.status = {StatusCode::kDevice, "the device fell off the bus"}});
  EXPECT_EQ(overlap_.join().code(), StatusCode::kDevice);
  overlap_.drop_server();
  const ResponseHeader header = overlap_.reply();
  EXPECT_EQ(header.code, StatusCode::kDevice);
  EXPECT_EQ(header.message, "the device fell off the bus");
}

INSTANTIATE_TEST_SUITE_P(AllRoutes, ServeOverlapRoutes,
                         ::testing::Values(Route::kInProcess, Route::kRing, Route::kSocketIpc,
                                           Route::kSocketTcp),
                         [](const auto& route) { return testing_rigs::route_name(route.param); });

/// Products of two operands at places of a lease, over a server that may have two under way.
class ServeOverlapPool : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kStep = testing_rigs::PoolPair::kSlotBytes;  // a tensor
  static constexpr std::uint64_t kOutputs = 8 * testing_rigs::PoolPair::kSlotBytes;
  static PoolPlace in(std::uint64_t index) { return PoolPlace::at(index * kStep); }
  static PoolPlace out(std::uint64_t index) { return PoolPlace::at(kOutputs + index * kStep); }

  ServeOverlapPool() { overlap_.start(); }
  std::unique_ptr<Pending> start(PoolPlace a, PoolPlace b, PoolPlace result) {
    const TensorDesc desc{DType::kF32, Shape{1, 128, 128}};
    const OpSpec spec = matmul_spec(desc, desc, Transpose::kNone, DType::kF32);
    auto pending = backend_.prepare_in_place(spec, {a, b, result}, nullptr, soon()).value();
    EXPECT_TRUE(pending->submit().ok());
    return pending;
  }
  /// The second one begins once the first is over, and not before.
  void expect_order(const std::array<PoolPlace, 3>& first, const std::array<PoolPlace, 3>& second) {
    const auto one = start(first[0], first[1], first[2]);
    const auto other = start(second[0], second[1], second[2]);
    ASSERT_TRUE(overlap_.events().wait_for("request 2"));
    overlap_.compute().finish(2);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(overlap_.events().has("op 2 begun"));
    overlap_.compute().finish(1);
    EXPECT_TRUE(one->wait().ok());
    EXPECT_TRUE(other->wait().ok());
    const auto events = overlap_.events().all();
    EXPECT_LT(std::ranges::find(events, "op 1 gone"), std::ranges::find(events, "op 2 begun"));
  }

  PeerLife life_;
  Overlap overlap_{testing_rigs::make_pool_rig(&life_), life_};
  OpStatsTable op_stats_;
  BackendInfo info_ = overlap_.compute().info();
  RemoteBackend backend_{info_, overlap_.client(), op_stats_};
};

TEST_F(ServeOverlapPool, begins_what_meets_nothing) {
  const auto one = start(in(0), in(0), out(0));
  const auto other = start(in(1), in(0), out(1));
  EXPECT_TRUE(overlap_.events().wait_for("op 2 begun"));
  EXPECT_FALSE(overlap_.events().has("op 1 gone"));
  for (const int op : {1, 2}) overlap_.compute().finish(op);
  EXPECT_TRUE(one->wait().ok() && other->wait().ok());
}

TEST_F(ServeOverlapPool, reads_no_result_before_it_is_written) {
  expect_order({in(0), in(0), out(0)}, {in(1), out(0), out(1)});
}

TEST_F(ServeOverlapPool, writes_no_operand_that_is_still_read) {
  expect_order({in(0), in(0), out(0)}, {in(1), in(1), in(0)});
}

TEST_F(ServeOverlapPool, writes_two_results_in_order) {
  expect_order({in(0), in(0), out(0)}, {in(1), in(1), out(0)});
}

TEST_F(ServeOverlapPool, hands_a_result_on_without_a_trip) {
  overlap_.compute().finish(1);
  overlap_.compute().finish(2);
  auto first = start(in(0), in(1), out(0));
  const auto second = start(out(0), in(1), out(1));
  EXPECT_TRUE(second->wait().ok());
  const TransportSnapshot stats = snapshot_of(overlap_.client().stats());
  EXPECT_EQ(stats[Path::kPool].sent.tensors, 4U);
  EXPECT_EQ(stats[Path::kRing].sent.tensors + stats[Path::kZmq].sent.tensors, 0U);
}

TEST_F(ServeOverlapPool, refuses_a_place_for_a_tensor_that_is_too_small_for_one) {
  const TensorDesc desc{DType::kF32, Shape{1, 4, 4}};
  const auto pending =
      backend_.prepare_in_place(matmul_spec(desc, desc, Transpose::kNone, DType::kF32),
                                {in(0), in(1), out(0)}, nullptr, soon());
  EXPECT_EQ(pending.status().code(), StatusCode::kInvalidInput);
}

}  // namespace
}  // namespace airlock
