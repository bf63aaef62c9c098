// serve() against a hostile client, which speaks to it over a bare Channel.

#include "runtime/rpc/serve.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "proto/limits.h"
#include "proto/message.h"
#include "tests/rpc/rpc_rigs.h"
#include "tests/support/reference_ops.h"

namespace airlock {
namespace {

using testing_rigs::serve_context;
using testing_rigs::ServingThread;
using testing_rigs::soon;
using Sizes = std::vector<std::size_t>;

class HostileClient : public ::testing::Test {
 protected:
  HostileClient()
      : compute_(testing_rigs::make_cpu_model(model_, DType::kF32)),
        norms_(read_norms(model_).value()) {
    auto [server, client] = make_in_process_pair({true, 65536, 8});
    server_ = std::move(server);
    client_ = std::move(client);
    serving_ =
        std::make_unique<ServingThread>(*server_, compute_->make_compute(), serve_context(norms_));
  }
  ~HostileClient() override { client_.reset(); }

  void send(std::span<const std::byte> header, const Sizes& sizes,
            std::span<const std::byte> first = {}) {
    auto message = client_->prepare(sizes, soon());
    ASSERT_TRUE(message.ok());
    if (!first.empty()) std::memcpy((*message)->tensor(0).data(), first.data(), first.size());
    ASSERT_TRUE(client_->send(**message, header, soon()).ok());
  }
  void send(const OpSpec& spec, std::uint64_t id, std::span<const std::byte> first = {}) {
    send(encode(RequestHeader{id, spec}), sizes_of(spec.inputs), first);
  }
  std::unique_ptr<ReceivedMessage> receive(ResponseHeader& header) {
    auto message = client_->receive(testing_rigs::sizes_of_reply, soon());
    EXPECT_TRUE(message.ok()) << message.status().to_string();
    if (!message.ok()) return nullptr;
    header = decode_response((*message)->header()).value();
    return std::move(*message);
  }
  ResponseHeader reply() {
    ResponseHeader header;
    receive(header);
    return header;
  }
  void expect_still_served() {
    send(OpSpec{}, 77);
    const ResponseHeader header = reply();
    EXPECT_EQ(header.code, StatusCode::kOk);
    EXPECT_EQ(header.request_id, 77U);
  }
  /// serve() ends with kProtocolError, and says what was wrong.
  void expect_end(const std::string& word) {
    const Status status = serving_->join();
    EXPECT_EQ(status.code(), StatusCode::kProtocolError) << status.to_string();
    EXPECT_NE(status.message().find(word), std::string::npos) << status.to_string();
  }
  TensorDesc x(std::int64_t rows = 2) const {
    return {DType::kF32, Shape{rows, model_.config().dims.hidden}};
  }

  testing::MemoryModel model_;
  std::shared_ptr<CpuModel> compute_;
  Tensor norms_;
  std::unique_ptr<Channel> server_;
  std::unique_ptr<Channel> client_;
  std::unique_ptr<ServingThread> serving_;
};

TEST_F(HostileClient, ends_at_junk_for_a_header) {
  send(std::vector<std::byte>(50, std::byte{0xff}), {});
  expect_end("header");
}

TEST_F(HostileClient, ends_at_an_empty_header) {
  send(std::span<const std::byte>{}, {});
  expect_end("header");
}

TEST_F(HostileClient, ends_at_a_reply_instead_of_a_request) {
  send(encode(ResponseHeader{}), {});
  expect_end("header");
}

TEST_F(HostileClient, ends_at_tensors_that_the_spec_does_not_name) {
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x(), DType::kF32);
  send(encode(RequestHeader{1, spec}), {x().bytes(), 64});
  expect_end("more tensors");
}

TEST_F(HostileClient, ends_at_fewer_tensors_than_the_spec_names) {
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x(), DType::kF32);
  send(encode(RequestHeader{1, spec}), {});
  expect_end("lacks a tensor");
}

TEST_F(HostileClient, ends_at_a_tensor_shorter_than_its_shape) {
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x(), DType::kF32);
  send(encode(RequestHeader{1, spec}), {x().bytes() - 4});
  expect_end("tensor 0");
}

TEST_F(HostileClient, ends_at_a_spec_that_does_not_fit_the_model) {
  const OpSpec spec = linear_spec({{WeightKind::kQ, 9}}, x(), DType::kF32);
  send(spec, 1);
  expect_end("layer");
}

TEST_F(HostileClient, ends_at_an_op_with_tensors_that_takes_none) {
  for (const Op op : {Op::kInit, Op::kStats, Op::kPing}) {
    OpSpec spec;
    spec.op = op;
    spec.inputs = {{DType::kU8, Shape{16}}};
    auto [server, client] = make_in_process_pair({true, 65536, 8});
    ServingThread serving(*server, compute_->make_compute(), serve_context(norms_));
    const Sizes sizes{16};
    auto message = client->prepare(sizes, soon());
    ASSERT_TRUE(message.ok());
    ASSERT_TRUE(client->send(**message, encode(RequestHeader{1, spec}), soon()).ok());
    EXPECT_EQ(serving.join().code(), StatusCode::kProtocolError) << name_of(op);
  }
}

TEST_F(HostileClient, answers_a_bad_token_with_its_error_and_goes_on) {
  const std::array<std::int32_t, 3> ids{1, 500, 2};
  send(embedding_spec(3, DType::kF32), 5, std::as_bytes(std::span(ids)));
  ResponseHeader header;
  auto message = receive(header);
  EXPECT_EQ(header.code, StatusCode::kInvalidInput);
  EXPECT_EQ(header.request_id, 5U);
  EXPECT_EQ(header.op, Op::kEmbedding);
  EXPECT_NE(header.message.find("500"), std::string::npos) << header.message;
  EXPECT_EQ(message->tensor_count(), 0U);
  expect_still_served();
}

TEST_F(HostileClient, echoes_any_request_id) {
  for (const std::uint64_t id : {std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{0}}) {
    send(OpSpec{}, id);
    EXPECT_EQ(reply().request_id, id);
  }
}

TEST_F(HostileClient, computes_an_op_and_reports_its_time) {
  const Tensor input = testing::random_tensor(x(), 4);
  const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x(), DType::kF32);
  send(spec, 2, input.view().bytes());
  ResponseHeader header;
  auto message = receive(header);
  ASSERT_EQ(header.code, StatusCode::kOk);
  EXPECT_GT(header.server_ns, 0U);
  EXPECT_EQ(header.results, op_results(spec, model_.config().dims).value());
  const std::array<TensorView, 1> inputs{input.view()};
  double worst = 0;
  EXPECT_EQ(testing::count_outside_tolerance(
                {message->tensor(0).data(), header.results[0]},
                testing::reference_op(model_, DType::kF32, spec, inputs)[0], worst),
            0U);
}

TEST_F(HostileClient, answers_init_with_config_and_norms) {
  OpSpec spec;
  spec.op = Op::kInit;
  send(spec, 1);
  ResponseHeader header;
  auto message = receive(header);
  ASSERT_EQ(header.code, StatusCode::kOk);
  ASSERT_EQ(message->tensor_count(), 2U);
  EXPECT_EQ(header.results[1], norms_.desc());
  EXPECT_EQ(
      std::memcmp(message->tensor(0).data(), testing_rigs::kConfigJson, message->tensor(0).size()),
      0);
  EXPECT_EQ(std::memcmp(message->tensor(1).data(), norms_.view().data, norms_.desc().bytes()), 0);
}

TEST_F(HostileClient, cuts_statistics_at_the_limit) {
  auto [server, client] = make_in_process_pair({true, 65536, 8});
  ServingThread serving(*server, compute_->make_compute(),
                        serve_context(norms_, std::string(limits::kMaxStatsBytes + 10, 'x')));
  OpStatsTable op_stats;
  auto stats = RemoteBackend(compute_->info(), *client, op_stats).session_stats(soon());
  ASSERT_TRUE(stats.ok()) << stats.status().to_string();
  EXPECT_EQ(stats->size(), limits::kMaxStatsBytes);
  client.reset();
}

TEST_F(HostileClient, ends_when_the_client_leaves) {
  expect_still_served();
  client_.reset();
  EXPECT_EQ(serving_->join().code(), StatusCode::kUnavailable);
}

TEST_F(HostileClient, ends_when_replies_are_never_taken) {
  auto [server, client] = make_in_process_pair({true, 65536, 8});
  ServingThread serving(*server, compute_->make_compute(),
                        serve_context(norms_, "", std::chrono::milliseconds(50)));
  for (std::uint64_t id = 1; id <= 9; ++id) {  // one more than the replies' direction holds
    auto message = client->prepare({}, soon());
    ASSERT_TRUE(message.ok()) << message.status().to_string();
    ASSERT_TRUE(client->send(**message, encode(RequestHeader{id, OpSpec{}}), soon()).ok());
  }
  EXPECT_EQ(serving.join().code(), StatusCode::kUnavailable);
}

TEST_F(HostileClient, counts_each_op_it_answered) {
  expect_still_served();
  expect_still_served();
  const std::array<std::int32_t, 1> ids{-1};
  send(embedding_spec(1, DType::kF32), 5, std::as_bytes(std::span(ids)));
  EXPECT_EQ(reply().code, StatusCode::kInvalidInput);
  client_.reset();
  EXPECT_EQ(serving_->join().code(), StatusCode::kUnavailable);
  EXPECT_EQ(serving_->op_stats()[Op::kPing].calls.load(), 2U);
  EXPECT_EQ(serving_->op_stats()[Op::kEmbedding].calls.load(), 1U);
}

TEST_F(HostileClient, is_told_that_an_op_is_too_much_work_and_stays) {
  auto [server, client] = make_in_process_pair({true, 65536, 8});
  ServeContext context = serve_context(norms_);
  const TensorDesc a{DType::kF32, Shape{2, 10, 10}};
  context.max_op_flop = 2 * 2 * 10 * 10 * 10;
  ServingThread serving(*server, compute_->make_compute(), context);
  OpStatsTable op_stats;
  RemoteBackend backend(compute_->info(), *client, op_stats);
  const auto run = [&](const OpSpec& spec) -> Status {
    ASSIGN_OR_RETURN(auto pending, backend.prepare(spec, soon()));
    RETURN_IF_ERROR(pending->submit());
    return pending->wait();
  };
  EXPECT_TRUE(run(matmul_spec(a, a, Transpose::kNone, DType::kF32)).ok());
  const TensorDesc more{DType::kF32, Shape{2, 10, 11}};
  const Status refused = run(matmul_spec(a, more, Transpose::kNone, DType::kF32));
  EXPECT_EQ(refused.code(), StatusCode::kInvalidInput);
  EXPECT_NE(refused.message().find("--max-op-flop"), std::string::npos) << refused.message();
  EXPECT_TRUE(run(matmul_spec(a, a, Transpose::kNone, DType::kF32)).ok());
  client.reset();
  EXPECT_EQ(serving.join().code(), StatusCode::kUnavailable);
}

/// Its ops take as long as their results are wanted.
class EndlessCompute : public Compute {
 public:
  explicit EndlessCompute(std::atomic<bool>& computes) : computes_(computes) {
    info_.dims = testing::MemoryModel().config().dims;
  }
  const BackendInfo& info() const override { return info_; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec&, OpMemory,
                                               const OpLife& life) override {
    return std::unique_ptr<Computation>(std::make_unique<Endless>(life, computes_));
  }

 private:
  class Endless : public Computation {
   public:
    Endless(OpLife life, std::atomic<bool>& computes)
        : life_(std::move(life)), computes_(computes) {}
    Status submit() override {
      computes_ = true;
      while (outcome_.ok()) outcome_ = life_.check();
      return outcome_;
    }
    bool done() override { return true; }
    Status wait() override { return outcome_; }
    OpTimes times() const override { return {}; }

   private:
    const OpLife life_;
    std::atomic<bool>& computes_;
    Status outcome_;
  };

  BackendInfo info_;
  std::atomic<bool>& computes_;
};

TEST_F(HostileClient, who_leaves_in_the_middle_of_an_op_ends_it) {
  auto [server, client] = make_in_process_pair({true, 65536, 8});
  PeerLife life;
  ServeContext context = serve_context(norms_);
  context.watch = &life;
  std::atomic<bool> computes{false};
  ServingThread serving(*server, std::make_unique<EndlessCompute>(computes), context);
  const std::array<std::int32_t, 1> ids{1};
  auto message = client->prepare(std::array{sizeof(ids)}, soon());
  ASSERT_TRUE(message.ok());
  std::memcpy((*message)->tensor(0).data(), ids.data(), sizeof(ids));
  const RequestHeader header{1, embedding_spec(1, DType::kF32)};
  ASSERT_TRUE(client->send(**message, encode(header), soon()).ok());
  while (!computes) std::this_thread::yield();
  life.end({StatusCode::kUnavailable, "the client said goodbye"});
  const Status ended = serving.join();
  EXPECT_EQ(ended.code(), StatusCode::kUnavailable);
  EXPECT_EQ(ended.message(), "the client said goodbye");
}

}  // namespace
}  // namespace airlock
