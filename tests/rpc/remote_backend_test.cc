// RemoteBackend against a scripted server: what each wrong reply does, and what a missing one does.

#include "runtime/rpc/remote_backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "proto/limits.h"
#include "proto/message.h"
#include "tests/rpc/rpc_rigs.h"
#include "tests/rpc/staged_compute.h"
#include "tests/support/in_process_channel.h"
#include "tests/support/memory_model.h"
#include "tests/support/reference_ops.h"

namespace airlock {
namespace {

using Sizes = std::vector<std::size_t>;

Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }
Deadline shortly() { return Deadline::after(std::chrono::milliseconds(30)); }

std::vector<std::byte> junk(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(0xc1 + i * 37);
  return bytes;
}

class ScriptedServer : public ::testing::Test {
 protected:
  ScriptedServer() {
    auto [server, runner] = make_in_process_pair({true, 65536, 8});
    server_ = std::move(server);
    runner_ = std::move(runner);
    remote_ =
        std::make_unique<RemoteBackend>(BackendInfo{model_.config().dims, DType::kF32, DType::kF32,
                                                    1, "cpu", model_.digest().value()},
                                        *runner_, op_stats_);
  }

  /// q and k of 2 tokens: fp32 [2, 108] and [2, 36].
  OpSpec spec() const {
    return linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 0}},
                       {DType::kF32, Shape{2, model_.config().dims.hidden}}, DType::kF32);
  }
  std::vector<TensorDesc> results() const {
    return op_results(spec(), model_.config().dims).value();
  }
  std::unique_ptr<Pending> submitted(Deadline deadline = soon()) {
    auto pending = remote_->prepare(spec(), deadline);
    EXPECT_TRUE(pending.ok());
    std::memset((*pending)->input(0).data, 0, (*pending)->input(0).desc.bytes());
    EXPECT_TRUE((*pending)->submit().ok());
    return std::move(*pending);
  }
  RequestHeader take() {
    auto request = server_->receive(testing_rigs::sizes_of_request, soon());
    EXPECT_TRUE(request.ok());
    return request.ok() ? decode_request((*request)->header()).value() : RequestHeader{};
  }
  void send(std::span<const std::byte> header, const Sizes& sizes, std::byte fill = std::byte{0}) {
    auto message = server_->prepare(sizes, soon());
    ASSERT_TRUE(message.ok());
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      for (std::byte& byte : (*message)->tensor(i)) byte = fill;
    }
    ASSERT_TRUE(server_->send(**message, header, soon()).ok());
  }
  ResponseHeader good_reply(const RequestHeader& request) const {
    ResponseHeader header;
    header.request_id = request.request_id;
    header.op = request.spec.op;
    header.results = results();
    return header;
  }
  static Sizes sizes_of(const ResponseHeader& header) { return airlock::sizes_of(header.results); }
  void answer(std::byte fill = std::byte{0}) {
    const ResponseHeader header = good_reply(take());
    send(encode(header), sizes_of(header), fill);
  }
  /// The op fails with kProtocolError, and so does everything after it.
  void expect_end_of_session(Pending& pending, const std::string& word) {
    const Status status = pending.wait();
    EXPECT_EQ(status.code(), StatusCode::kProtocolError) << status.to_string();
    EXPECT_NE(status.message().find(word), std::string::npos) << status.to_string();
    EXPECT_EQ(pending.wait().code(), StatusCode::kProtocolError);
    EXPECT_EQ(remote_->ping(soon()).code(), StatusCode::kProtocolError);
  }
  void expect_refused(const ResponseHeader& header, const Sizes& sizes, const std::string& word) {
    auto pending = submitted();
    ResponseHeader reply = header;
    reply.request_id = take().request_id;
    send(encode(reply), sizes);
    expect_end_of_session(*pending, word);
  }
  ResponseHeader plain() const { return good_reply({0, spec()}); }

  testing::MemoryModel model_;
  OpStatsTable op_stats_;
  std::unique_ptr<Channel> server_;
  std::unique_ptr<Channel> runner_;
  std::unique_ptr<RemoteBackend> remote_;
};

TEST_F(ScriptedServer, takes_a_good_reply) {
  auto pending = submitted();
  ResponseHeader header = good_reply(take());
  header.queue_ns = 5;
  header.server_ns = 7;
  send(encode(header), sizes_of(header), std::byte{1});
  ASSERT_TRUE(pending->wait().ok());
  EXPECT_TRUE(pending->wait().ok());
  EXPECT_EQ(pending->result(0).desc, results()[0]);
  EXPECT_EQ(pending->result(1).desc, results()[1]);
  EXPECT_EQ(pending->result(1).data[0], std::byte{1});
  EXPECT_EQ(pending->times().queue_ns, 5U);
  EXPECT_EQ(pending->times().server_ns, 7U);
  EXPECT_EQ(op_stats_[Op::kBatchLinear].calls.load(), 1U);
}

TEST_F(ScriptedServer, sends_what_was_asked_for) {
  const Tensor x = testing::random_tensor(spec().inputs[0], 3);
  auto pending = remote_->prepare(spec(), soon());
  ASSERT_TRUE(pending.ok());
  std::memcpy((*pending)->input(0).data, x.view().data, x.desc().bytes());
  ASSERT_TRUE((*pending)->submit().ok());
  auto request = server_->receive(testing_rigs::sizes_of_request, soon());
  ASSERT_TRUE(request.ok());
  EXPECT_EQ(decode_request((*request)->header())->spec, spec());
  EXPECT_EQ(std::memcmp((*request)->tensor(0).data(), x.view().data, x.desc().bytes()), 0);
}

TEST_F(ScriptedServer, never_books_more_than_the_time_that_passed) {
  auto pending = submitted();
  ResponseHeader header = good_reply(take());
  header.queue_ns = header.server_ns = ~std::uint64_t{0};
  send(encode(header), sizes_of(header));
  ASSERT_TRUE(pending->wait().ok());
  const OpSnapshot stats = snapshot_of(op_stats_)[Op::kBatchLinear];
  EXPECT_EQ(stats.times.total_ns, stats.times.tee_ns + stats.times.wire_ns + stats.times.queue_ns +
                                      stats.times.server_ns);
  EXPECT_LE(stats.times.queue_ns, stats.times.total_ns);
}

TEST_F(ScriptedServer, refuses_the_reply_to_another_request) {
  auto pending = submitted();
  ResponseHeader header = good_reply(take());
  header.request_id += 1;
  send(encode(header), sizes_of(header));
  expect_end_of_session(*pending, "request");
}

TEST_F(ScriptedServer, refuses_a_reply_that_comes_twice) {
  auto first = submitted();
  const RequestHeader request = take();
  auto second = submitted();
  take();
  const ResponseHeader header = good_reply(request);
  send(encode(header), sizes_of(header));
  send(encode(header), sizes_of(header));
  ASSERT_TRUE(first->wait().ok());
  expect_end_of_session(*second, "request");
}

TEST_F(ScriptedServer, refuses_the_reply_to_another_op) {
  ResponseHeader header = plain();
  header.op = Op::kMatmul;
  expect_refused(header, sizes_of(header), "matmul");
}

TEST_F(ScriptedServer, refuses_another_shape_of_the_same_size) {
  ResponseHeader header = plain();
  header.results[0].shape = Shape{header.results[0].shape[1], header.results[0].shape[0]};
  expect_refused(header, sizes_of(header), "[108, 2]");
}

TEST_F(ScriptedServer, refuses_a_larger_shape) {
  ResponseHeader header = plain();
  header.results[0].shape = Shape{200, 108};
  expect_refused(header, sizes_of(header), "[200, 108]");
}

TEST_F(ScriptedServer, refuses_another_dtype) {
  ResponseHeader header = plain();
  header.results[1].dtype = DType::kI32;
  expect_refused(header, sizes_of(header), "result 1");
}

TEST_F(ScriptedServer, refuses_too_few_results) {
  ResponseHeader header = plain();
  header.results.pop_back();
  expect_refused(header, sizes_of(header), "1 results");
}

TEST_F(ScriptedServer, refuses_too_many_results) {
  ResponseHeader header = plain();
  header.results.push_back(header.results[0]);
  expect_refused(header, sizes_of(header), "3 results");
}

TEST_F(ScriptedServer, refuses_tensors_that_the_header_does_not_name) {
  Sizes sizes = sizes_of(plain());
  sizes.push_back(64);
  expect_refused(plain(), sizes, "more tensors");
}

TEST_F(ScriptedServer, refuses_a_tensor_shorter_than_its_shape) {
  Sizes sizes = sizes_of(plain());
  sizes[0] -= 4;
  expect_refused(plain(), sizes, "tensor 0");
}

TEST_F(ScriptedServer, refuses_an_error_reply_with_tensors) {
  ResponseHeader header = plain();
  header.code = StatusCode::kInvalidInput;
  header.results.clear();
  header.message = "no";
  expect_refused(header, {64}, "more tensors");
}

TEST_F(ScriptedServer, gains_nothing_by_saying_busy) {
  auto pending = submitted();
  ResponseHeader header = good_reply(take());
  header.code = StatusCode::kInvalidInput;
  header.results.clear();
  std::vector<std::byte> bytes = encode(header);
  ASSERT_EQ(bytes[3], static_cast<std::byte>(StatusCode::kInvalidInput));
  bytes[3] = static_cast<std::byte>(StatusCode::kBusy);
  send(bytes, {});
  expect_end_of_session(*pending, "busy");
}

TEST_F(ScriptedServer, refuses_junk_for_a_header) {
  auto pending = submitted();
  take();
  send(junk(60), sizes_of(plain()));
  expect_end_of_session(*pending, "header");
}

TEST_F(ScriptedServer, refuses_an_empty_header) {
  auto pending = submitted();
  take();
  send({}, {});
  expect_end_of_session(*pending, "header");
}

TEST_F(ScriptedServer, refuses_a_header_with_bytes_behind_it) {
  auto pending = submitted();
  std::vector<std::byte> header = encode(good_reply(take()));
  header.push_back(std::byte{0});
  send(header, sizes_of(plain()));
  expect_end_of_session(*pending, "header");
}

TEST_F(ScriptedServer, passes_on_a_typed_error_and_goes_on) {
  // Of a mismatch, and of who gave up, no server has the word.
  constexpr std::pair<StatusCode, StatusCode> kCodes[] = {
      {StatusCode::kInvalidInput, StatusCode::kInvalidInput},
      {StatusCode::kResourceExhausted, StatusCode::kResourceExhausted},
      {StatusCode::kDevice, StatusCode::kDevice},
      {StatusCode::kInternal, StatusCode::kInternal},
      {StatusCode::kMismatch, StatusCode::kProtocolError},
      {StatusCode::kCancelled, StatusCode::kUnavailable}};
  for (const auto& [code, taken_as] : kCodes) {
    auto pending = submitted();
    ResponseHeader header = good_reply(take());
    header.code = code;
    header.results.clear();
    header.message = "token 7 is bad";
    send(encode(header), {});
    const Status status = pending->wait();
    EXPECT_EQ(status.code(), taken_as);
    EXPECT_NE(status.message().find("token 7 is bad"), std::string::npos);
    EXPECT_NE(status.message().find("batch_linear"), std::string::npos);
  }
  auto pending = submitted();
  answer();
  EXPECT_TRUE(pending->wait().ok());
}

TEST_F(ScriptedServer, gives_up_at_the_deadline_and_takes_the_late_reply_as_the_abandoned_ones) {
  {
    auto late = submitted(shortly());
    const Status status = late->wait();
    EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
    EXPECT_NE(status.message().find("batch_linear"), std::string::npos);
  }
  auto next = submitted();
  answer(std::byte{1});
  answer(std::byte{2});
  ASSERT_TRUE(next->wait().ok());
  EXPECT_EQ(next->result(0).data[0], std::byte{2});
}

TEST_F(ScriptedServer, says_so_when_the_server_takes_no_request) {
  std::vector<std::unique_ptr<Pending>> pending;
  for (int i = 0; i < 8; ++i)
    pending.push_back(submitted());  // as many as there are slots, and nobody reads
  auto one_more = remote_->prepare(spec(), shortly());
  ASSERT_FALSE(one_more.ok());
  EXPECT_EQ(one_more.status().code(), StatusCode::kDeadlineExceeded);
  EXPECT_NE(one_more.status().message().find("request"), std::string::npos)
      << one_more.status().to_string();
  for (int i = 0; i < 8; ++i) answer(static_cast<std::byte>(i));
  for (int i = 0; i < 8; ++i) {
    ASSERT_TRUE(pending[static_cast<std::size_t>(i)]->wait().ok());
    EXPECT_EQ(pending[static_cast<std::size_t>(i)]->result(0).data[0], static_cast<std::byte>(i));
  }
}

TEST_F(ScriptedServer, says_at_once_that_there_is_no_memory_though_ops_are_under_way) {
  testing_rigs::Events events;
  testing_rigs::LoggedChannel scarce(std::move(runner_), events);
  scarce.refuse_prepare(1, {StatusCode::kResourceExhausted, "no memory for a tensor"});
  scarce.refuse_prepare(2, {StatusCode::kBusy, "no slot came free"});
  remote_ = std::make_unique<RemoteBackend>(remote_->info(), scarce, op_stats_);
  const auto none = remote_->prepare(spec(), soon());
  EXPECT_EQ(none.status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(remote_->prepare(spec(), soon()).ok());  // busy once: it tries again
  remote_.reset();
}

TEST_F(ScriptedServer, gives_each_of_several_ops_its_own_reply) {
  auto a = submitted();
  auto b = submitted();
  auto c = submitted();
  for (const int fill : {1, 2, 3}) answer(static_cast<std::byte>(fill));
  ASSERT_TRUE(c->wait().ok());
  ASSERT_TRUE(a->wait().ok());
  ASSERT_TRUE(b->wait().ok());
  EXPECT_EQ(a->result(0).data[0], std::byte{1});
  EXPECT_EQ(b->result(0).data[0], std::byte{2});
  EXPECT_EQ(c->result(0).data[0], std::byte{3});
}

TEST_F(ScriptedServer, fails_every_op_under_way_after_a_wrong_reply) {
  auto a = submitted();
  auto b = submitted();
  take();
  send(junk(20), {});
  EXPECT_EQ(b->wait().code(), StatusCode::kProtocolError);
  EXPECT_EQ(a->wait().code(), StatusCode::kProtocolError);
}

TEST_F(ScriptedServer, sends_nothing_for_an_op_abandoned_before_submit) {
  { ASSERT_TRUE(remote_->prepare(spec(), soon()).ok()); }
  auto pending = submitted();
  answer();
  EXPECT_TRUE(pending->wait().ok());
}

TEST_F(ScriptedServer, drops_the_reply_to_an_abandoned_op) {
  { auto abandoned = submitted(); }
  auto pending = submitted();
  answer(std::byte{1});
  answer(std::byte{2});
  ASSERT_TRUE(pending->wait().ok());
  EXPECT_EQ(pending->result(0).data[0], std::byte{2});
}

TEST_F(ScriptedServer, checks_the_reply_to_an_abandoned_op_all_the_same) {
  { auto abandoned = submitted(); }
  auto pending = submitted();
  take();
  send(junk(9), {});
  expect_end_of_session(*pending, "header");
}

TEST_F(ScriptedServer, says_that_the_server_is_gone) {
  auto pending = submitted();
  server_.reset();
  EXPECT_EQ(pending->wait().code(), StatusCode::kUnavailable);
  EXPECT_EQ(remote_->ping(soon()).code(), StatusCode::kUnavailable);
}

/// Whose places come free only after a while.
class BusyChannel : public Channel {
 public:
  static constexpr std::uint64_t kWaitNs = 2'000'000;

  explicit BusyChannel(Channel& inner) : inner_(inner) {}
  using Channel::receive;
  Result<std::unique_ptr<Message>> claim(const MessagePlan& plan, Deadline deadline) override {
    for (const std::uint64_t start_ns = now_ns(); now_ns() - start_ns < kWaitNs;) {
    }
    return inner_.claim(plan, deadline);
  }
  Status send(Message& message, std::span<const std::byte> header, Deadline deadline) override {
    return inner_.send(message, header, deadline);
  }
  Result<std::unique_ptr<ReceivedMessage>> receive(const AcceptPlan& accept,
                                                   Deadline deadline) override {
    return inner_.receive(accept, deadline);
  }
  const PathPolicy& policy() const override { return inner_.policy(); }
  void agree(std::size_t limit_bytes) override { inner_.agree(limit_bytes); }
  std::size_t slots_in_use() const override { return 3; }
  TransportStats& stats() override { return inner_.stats(); }

 private:
  Channel& inner_;
};

TEST_F(ScriptedServer, the_wait_for_slots_belongs_to_the_op_and_to_the_wire) {
  BusyChannel busy(*runner_);
  remote_ = std::make_unique<RemoteBackend>(remote_->info(), busy, op_stats_);
  auto pending = submitted();
  ResponseHeader header = good_reply(take());
  header.queue_ns = 5;
  header.server_ns = 7;
  send(encode(header), sizes_of(header));
  ASSERT_TRUE(pending->wait().ok());
  const OpTimes times = pending->times();
  EXPECT_GE(times.wire_ns, BusyChannel::kWaitNs);
  EXPECT_EQ(times.total_ns, times.tee_ns + times.wire_ns + times.queue_ns + times.server_ns);
  EXPECT_EQ(op_stats_[Op::kBatchLinear].times.wire_ns.load(), times.wire_ns);
  EXPECT_EQ(busy.stats()[Path::kRing].latency_ns.snapshot().max, times.tee_ns + times.wire_ns);
  EXPECT_EQ(pending->slots_in_use(), 3U);
  pending.reset();
  remote_.reset();
}

TEST_F(ScriptedServer, waits_again_for_what_is_there) {
  auto pending = submitted();
  answer(std::byte{9});
  ASSERT_TRUE(pending->wait().ok());
  EXPECT_TRUE(pending->wait().ok());
  EXPECT_EQ(op_stats_[Op::kBatchLinear].calls.load(), 1U) << "booked once";
}

/// init, stats and ping in a thread of their own would need a lock step; their replies are sent
/// before the request.
class ScriptedServiceOps : public ScriptedServer {
 protected:
  /// The first request of a session has id 1.
  ResponseHeader reply_to_first(Op op, std::vector<TensorDesc> descs) const {
    ResponseHeader header;
    header.request_id = 1;
    header.op = op;
    header.results = std::move(descs);
    return header;
  }
  TensorDesc norms() const {
    return {DType::kF32, Shape{2 * model_.config().dims.layers + 1, model_.config().dims.hidden}};
  }
  static TensorDesc text(std::int64_t bytes) { return {DType::kU8, Shape{bytes}}; }
  void send_reply(const ResponseHeader& header) {
    send(encode(header), sizes_of(header), std::byte{'x'});
  }
};

TEST_F(ScriptedServiceOps, takes_config_and_norms) {
  send_reply(reply_to_first(Op::kInit, {text(10), norms()}));
  std::string config;
  Tensor rows;
  ASSERT_TRUE(remote_->init(10, config, rows, soon()).ok());
  EXPECT_EQ(config, "xxxxxxxxxx");
  EXPECT_EQ(rows.desc(), norms());
}

TEST_F(ScriptedServiceOps, refuses_a_config_of_another_size) {
  send_reply(reply_to_first(Op::kInit, {text(11), norms()}));
  std::string config;
  Tensor rows;
  EXPECT_EQ(remote_->init(10, config, rows, soon()).code(), StatusCode::kProtocolError);
  EXPECT_TRUE(config.empty());
}

TEST_F(ScriptedServiceOps, refuses_a_config_size_beyond_the_limit) {
  std::string config;
  Tensor rows;
  for (const std::size_t bytes : {std::size_t{0}, limits::kMaxConfigBytes + 1, ~std::size_t{0}}) {
    EXPECT_EQ(remote_->init(bytes, config, rows, soon()).code(), StatusCode::kProtocolError);
  }
}

TEST_F(ScriptedServiceOps, takes_statistics_of_any_size_within_the_limit) {
  send_reply(reply_to_first(Op::kStats, {text(limits::kMaxStatsBytes)}));
  auto stats = remote_->session_stats(soon());
  ASSERT_TRUE(stats.ok()) << stats.status().to_string();
  EXPECT_EQ(stats->size(), limits::kMaxStatsBytes);
}

TEST_F(ScriptedServiceOps, refuses_statistics_beyond_the_limit) {
  send_reply(reply_to_first(Op::kStats, {text(limits::kMaxStatsBytes + 1)}));
  EXPECT_EQ(remote_->session_stats(soon()).status().code(), StatusCode::kProtocolError);
}

TEST_F(ScriptedServiceOps, refuses_statistics_whose_header_claims_another_size) {
  ResponseHeader header = reply_to_first(Op::kStats, {text(100)});
  send(encode(header), {99});
  EXPECT_EQ(remote_->session_stats(soon()).status().code(), StatusCode::kProtocolError);
}

TEST_F(ScriptedServiceOps, refuses_a_ping_reply_with_a_tensor) {
  send_reply(reply_to_first(Op::kPing, {text(1)}));
  EXPECT_EQ(remote_->ping(soon()).code(), StatusCode::kProtocolError);
}

TEST_F(ScriptedServiceOps, pings_to_the_deadline) {
  EXPECT_EQ(remote_->ping(shortly()).code(), StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace airlock
