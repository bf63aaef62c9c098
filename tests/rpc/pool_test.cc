// Requests whose tensors lie in the pool: what serve() makes of the places that a client names, and
// how long a RemoteBackend keeps them.

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "proto/message.h"
#include "runtime/rpc/serve.h"
#include "tests/rpc/rpc_rigs.h"

namespace airlock {
namespace {

using testing_rigs::make_pool_rig;
using testing_rigs::PoolPair;
using testing_rigs::Rig;
using testing_rigs::serve_context;
using testing_rigs::ServingThread;
using testing_rigs::soon;

constexpr std::uint64_t kSlot = PoolPair::kSlotBytes;
/// Of PoolPair::kShape: the session has slots 0 and 1 for operands, 8 and 9 for results.
constexpr std::uint64_t kInputs = 0;
constexpr std::uint64_t kOutputs = 8 * kSlot;

/// o of so many tokens that its operand and its result are too large for a slot of the ring.
class PoolSession : public ::testing::Test {
 protected:
  static constexpr std::int64_t kRows = 200;

  ~PoolSession() override { rig_.runner.reset(); }  // what the server serves until then
  void serve_requests() {
    serving_ = std::make_unique<ServingThread>(*rig_.server, compute_->make_compute(),
                                               serve_context(norms_));
  }
  OpSpec spec(std::int64_t rows = kRows) const {
    return linear_spec({{WeightKind::kO, 0}},
                       {DType::kF32, Shape{rows, dims().heads * dims().head_dim}}, DType::kF32);
  }
  const ModelDims& dims() const { return model_.config().dims; }

  /// A request with these places, whose operand is written where the lease maps the first of them,
  /// if it does. Its plan is the client's own, whatever the places are.
  void send(const std::vector<PoolPlace>& places, std::int64_t rows = kRows) {
    const OpSpec asked = spec(rows);
    MessagePlan plan = plan_message(rig_.runner->policy(), sizes_of(asked.inputs)).value();
    for (MessagePlan::Tensor& tensor : plan.planned) {
      if (tensor.path == Path::kPool) tensor.place = PoolPlace::at(kInputs);
    }
    auto message = rig_.runner->claim(plan, soon());
    ASSERT_TRUE(message.ok()) << message.status().message();
    std::memset((*message)->tensor(0).data(), 0, asked.inputs[0].bytes());
    ASSERT_TRUE(rig_.runner->send(**message, encode(RequestHeader{1, asked, places}), soon()).ok());
  }
  void expect_end(const std::string& word) {
    const Status status = serving_->join();
    EXPECT_EQ(status.code(), StatusCode::kProtocolError) << status.to_string();
    EXPECT_NE(status.message().find(word), std::string::npos) << status.to_string();
  }

  testing::MemoryModel model_;
  std::shared_ptr<CpuModel> compute_ = testing_rigs::make_cpu_model(model_, DType::kF32);
  Tensor norms_ = read_norms(model_).value();
  OpStatsTable op_stats_;
  Rig rig_ = make_pool_rig();
  std::unique_ptr<ServingThread> serving_;
};

TEST_F(PoolSession, ends_at_a_place_that_is_not_the_sessions) {
  for (const std::uint64_t offset :
       {2 * kSlot, 7 * kSlot, 2 * kSlot - 4096, kOutputs + 2 * kSlot, std::uint64_t{1} << 39}) {
    rig_ = make_pool_rig();
    serve_requests();
    send({PoolPlace::at(offset), PoolPlace::at(kOutputs)});
    expect_end("has not leased");
    serving_.reset();
    rig_ = make_pool_rig();
    serve_requests();
    send({PoolPlace::at(kInputs), PoolPlace::at(offset)});
    expect_end("has not leased");
    serving_.reset();
  }
}

TEST_F(PoolSession, ends_at_places_that_do_not_fit_the_tensors) {
  const PoolPlace in = PoolPlace::at(kInputs);
  const PoolPlace out = PoolPlace::at(kOutputs);
  for (const auto& places : std::vector<std::vector<PoolPlace>>{{in}, {in, out, PoolPlace()}}) {
    rig_ = make_pool_rig();
    serve_requests();
    send(places);
    expect_end("places in the pool for 2 tensors");
    serving_.reset();
  }
  rig_ = make_pool_rig();
  serve_requests();
  send({in, out}, 1);  // small enough for the ring
  expect_end("goes by the ring");
}

TEST_F(PoolSession, goes_on_whatever_lies_in_one_place_twice) {
  serve_requests();
  const PoolPlace same = PoolPlace::at(kInputs);
  send({same, same});
  const OpSpec asked = spec();
  const auto results = sizes_of(op_results(asked, dims()).value());
  const auto accept = [&](std::span<const std::byte>) -> Result<MessagePlan> {
    MessagePlan plan = plan_message(rig_.runner->policy(), results).value();
    RETURN_IF_ERROR(place_in_pool(plan, std::array{same}));
    return plan;
  };
  const auto reply = rig_.runner->receive(AcceptPlan(accept), soon());
  ASSERT_TRUE(reply.ok()) << reply.status().message();
  EXPECT_EQ(decode_response((*reply)->header())->code, StatusCode::kOk);
  RemoteBackend backend(compute_->info(), *rig_.runner, op_stats_, nullptr, rig_.pool->lease.get());
  EXPECT_TRUE(backend.ping(soon()).ok());
}

TEST_F(PoolSession, keeps_the_places_of_an_abandoned_op_until_its_reply) {
  PoolLease& lease = *rig_.pool->lease;
  const std::uint64_t whole = 2 * kSlot;
  RemoteBackend backend(compute_->info(), *rig_.runner, op_stats_, nullptr, &lease);
  auto pending = backend.prepare(spec(), soon()).value();
  std::memset(pending->input(0).data, 0, pending->input(0).desc.bytes());
  ASSERT_TRUE(pending->submit().ok());
  pending.reset();
  EXPECT_LT(lease.longest_run(PoolUse::kInput), whole);
  EXPECT_LT(lease.longest_run(PoolUse::kOutput), whole);
  serve_requests();
  ASSERT_TRUE(backend.ping(soon()).ok());
  EXPECT_EQ(lease.longest_run(PoolUse::kInput), whole);
  EXPECT_EQ(lease.longest_run(PoolUse::kOutput), whole);
}

TEST_F(PoolSession, gives_the_operands_place_back_with_the_reply_and_the_results_with_its_reader) {
  PoolLease& lease = *rig_.pool->lease;
  const std::uint64_t whole = 2 * kSlot;
  serve_requests();
  RemoteBackend backend(compute_->info(), *rig_.runner, op_stats_, nullptr, &lease);
  {
    auto pending = backend.prepare(spec(), soon()).value();
    std::memset(pending->input(0).data, 0, pending->input(0).desc.bytes());
    ASSERT_TRUE(pending->submit().ok());
    ASSERT_TRUE(pending->wait().ok());
    EXPECT_EQ(lease.longest_run(PoolUse::kInput), whole);
    EXPECT_LT(lease.longest_run(PoolUse::kOutput), whole);
  }
  EXPECT_EQ(lease.longest_run(PoolUse::kOutput), whole);
  { auto never_sent = backend.prepare(spec(), soon()).value(); }
  EXPECT_EQ(lease.longest_run(PoolUse::kInput), whole);
  EXPECT_EQ(lease.longest_run(PoolUse::kOutput), whole);
}

TEST_F(PoolSession, sends_and_takes_nothing_once_its_memory_was_lost) {
  bool lost = false;
  const auto carrier = make_pool_carrier(rig_.pool->server_map(), [&lost] { return lost; });
  MessagePlan plan = plan_message(rig_.runner->policy(), sizes_of(spec().inputs)).value();
  ASSERT_TRUE(place_in_pool(plan, std::array{PoolPlace::at(kInputs)}).ok());
  const auto loan = carrier->claim(plan, soon()).value();
  EXPECT_TRUE(carrier->publish(*loan, 0, {}).ok());
  EXPECT_TRUE(carrier->receive_tensors(plan, 0, soon()).ok());
  lost = true;
  EXPECT_EQ(carrier->publish(*loan, 0, {}).code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(carrier->receive_tensors(plan, 0, soon()).status().code(),
            StatusCode::kResourceExhausted);
}

TEST_F(PoolSession, nobody_hears_of_a_message_whose_memory_was_lost) {
  bool lost = false;
  testing_rigs::SocketPair sockets(testing_rigs::Transport::kIpc);
  const testing_rigs::RingPair rings;
  const PoolMap leased = rig_.pool->server_map();
  const auto sender = testing_rigs::make_end(std::move(sockets.server), nullptr, rings.reply,
                                             rings.request, &leased, [&lost] { return lost; });
  const auto receiver = testing_rigs::make_end(std::move(sockets.runner), nullptr, rings.request,
                                               rings.reply, &leased);
  MessagePlan plan = plan_message(sender->policy(), sizes_of(spec().inputs)).value();
  ASSERT_TRUE(place_in_pool(plan, std::array{PoolPlace::at(kInputs)}).ok());
  const auto message = sender->claim(plan, soon()).value();
  lost = true;
  EXPECT_EQ(sender->send(*message, encode(RequestHeader{1, spec()}), soon()).code(),
            StatusCode::kResourceExhausted);
  const auto accept = [&](std::span<const std::byte>) -> Result<MessagePlan> { return plan; };
  EXPECT_EQ(receiver->receive(AcceptPlan(accept), Deadline::after(std::chrono::milliseconds(50)))
                .status()
                .code(),
            StatusCode::kDeadlineExceeded);
}

TEST_F(PoolSession, goes_by_zmq_where_the_lease_is_full) {
  serve_requests();
  RemoteBackend backend(compute_->info(), *rig_.runner, op_stats_, nullptr, rig_.pool->lease.get());
  std::vector<std::unique_ptr<Pending>> under_way;
  for (int i = 0; i < 4; ++i) {
    under_way.push_back(backend.prepare(spec(), soon()).value());
    std::memset(under_way.back()->input(0).data, i, under_way.back()->input(0).desc.bytes());
  }
  for (auto& pending : under_way) ASSERT_TRUE(pending->submit().ok());
  for (auto& pending : under_way) ASSERT_TRUE(pending->wait().ok());
  const TransportSnapshot stats = snapshot_of(rig_.runner->stats());
  // One of over 64 KiB fits in 128.
  EXPECT_EQ(stats[Path::kPool].sent.tensors, 1u);
  EXPECT_EQ(stats[Path::kPool].received.tensors, 1u);
  EXPECT_EQ(stats[Path::kZmq].sent.tensors, 3u);
  EXPECT_EQ(stats[Path::kPool].fallbacks, 6u);
}

}  // namespace
}  // namespace airlock
