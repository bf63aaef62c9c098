// A server whose device fails: for one session, for one op, for good.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "tests/gpu_server/server_rig.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }

/// What a FailingModel and its Computes know of each other. Thread-safe.
class Failures {
 public:
  void refuse_sessions(Status status) { set(session_, std::move(status)); }
  void fail_next_op(Status status) { set(op_, std::move(status)); }
  void lose_device(Status status) { set(health_, std::move(status)); }
  void hold_sessions(bool hold) {
    {
      const std::lock_guard lock(mutex_);
      hold_ = hold;
    }
    changed_.notify_all();
  }

  /// Whoever asks anything, the server's control thread too, waits for the end of this.
  std::unique_lock<std::mutex> hang() { return std::unique_lock(mutex_); }

  Status health() const {
    const std::lock_guard lock(mutex_);
    return health_;
  }
  /// Of a session that is being made; waits while sessions are held.
  Status session(std::size_t segment_bytes) {
    std::unique_lock lock(mutex_);
    segment_bytes_ = segment_bytes;
    held_ = hold_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !hold_; });
    return session_;
  }
  void wait_until_held() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return held_; });
  }
  Status take_op() {
    const std::lock_guard lock(mutex_);
    if (op_.code() == StatusCode::kDevice) health_ = op_;
    return std::exchange(op_, {});
  }
  std::size_t segment_bytes() const {
    const std::lock_guard lock(mutex_);
    return segment_bytes_;
  }

 private:
  void set(Status& target, Status status) {
    const std::lock_guard lock(mutex_);
    target = std::move(status);
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Status health_;
  Status session_;
  Status op_;
  std::size_t segment_bytes_ = 0;
  bool hold_ = false;
  bool held_ = false;
};

class FailingCompute : public Compute {
 public:
  FailingCompute(Failures& failures, std::unique_ptr<Compute> cpu)
      : failures_(failures), cpu_(std::move(cpu)) {}
  const BackendInfo& info() const override { return cpu_->info(); }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec& spec, OpMemory memory,
                                               const OpLife& life) override {
    RETURN_IF_ERROR(failures_.take_op());
    return cpu_->prepare(spec, std::move(memory), life);
  }

 private:
  Failures& failures_;
  std::unique_ptr<Compute> cpu_;
};

/// Computes on the CPU, as long as it is not told to fail.
class FailingModel : public ComputeModel {
 public:
  FailingModel(const MemoryModel& model, Failures& failures)
      : failures_(failures),
        cpu_(
            CpuModel::create(model, {.dtype = DType::kF32, .threads = 1, .progress = {}}).value()) {
  }
  const BackendInfo& info() const override { return cpu_->info(); }
  Result<std::unique_ptr<Compute>> make_compute(
      std::span<const std::span<std::byte>> segments) override {
    std::size_t bytes = 0;
    for (const auto& segment : segments) bytes += segment.size();
    RETURN_IF_ERROR(failures_.session(bytes));
    return std::unique_ptr<Compute>(
        std::make_unique<FailingCompute>(failures_, cpu_->make_compute()));
  }
  Result<std::string> prepare_int8(const ModelSource& model, Int8Weights weights,
                                   const Int8Progress& progress) override {
    return cpu_->prepare_int8(model, weights, progress);
  }
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource& model, Int8Weights weights,
                                                   const Int8Progress& progress) override {
    return cpu_->prepare_int8_share(model, weights, progress);
  }
  Status health() const override { return failures_.health(); }

 private:
  Failures& failures_;
  std::shared_ptr<CpuModel> cpu_;
};

class DeviceTest : public ::testing::Test {
 protected:
  DeviceTest() {
    options_.endpoint = "ipc://" + directory_.file("ctl");
    options_.ring.slot_count = 8;
    options_.ring.slot_bytes = 65536;
    start();
  }
  ~DeviceTest() override { failures_.hold_sessions(false); }
  void start() {
    server_ = std::make_unique<RunningServer>(options_, model_,
                                              std::make_shared<FailingModel>(model_, failures_));
  }
  Result<std::unique_ptr<ClientSession>> connect(RingChoice ring = RingChoice::kAuto) const {
    ConnectOptions options;
    options.endpoint = options_.endpoint;
    options.timeout = std::chrono::seconds(60);
    options.ring.choice = ring;
    return ClientSession::connect(options);
  }
  static Status compute(ClientSession& session) {
    ASSIGN_OR_RETURN(auto pending,
                     session.backend().prepare(embedding_spec(2, DType::kF32), soon()));
    for (std::int32_t& id : pending->input(0).as<std::int32_t>()) id = 0;
    RETURN_IF_ERROR(pending->submit());
    return pending->wait();
  }

  MemoryModel model_;
  TempDir directory_;
  ServerOptions options_;
  Failures failures_;
  std::unique_ptr<RunningServer> server_;
};

const Status kNoMemory(StatusCode::kResourceExhausted, "no device memory: need 9 MiB, have 3 MiB");
const Status kLost(StatusCode::kDevice, "the device is lost: error 79");

TEST_F(DeviceTest, shows_the_device_where_the_tensors_of_a_session_will_lie) {
  ASSERT_TRUE(connect().ok());
  EXPECT_GT(failures_.segment_bytes(), 2 * options_.ring.slot_count * options_.ring.slot_bytes);
  ASSERT_TRUE(connect(RingChoice::kOff).ok());
  EXPECT_EQ(failures_.segment_bytes(), 0U);
}

TEST_F(DeviceTest, refuses_a_client_for_whom_the_device_has_no_room_and_takes_it_later) {
  failures_.refuse_sessions(kNoMemory);
  const auto refused = connect();
  EXPECT_EQ(refused.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status().message(), HasSubstr("need 9 MiB, have 3 MiB"));
  failures_.refuse_sessions({});
  auto session = connect();
  ASSERT_TRUE(session.ok()) << session.status().to_string();
  EXPECT_TRUE(compute(**session).ok());
}

TEST_F(DeviceTest, an_op_that_finds_no_device_memory_fails_alone) {
  auto session = connect();
  ASSERT_TRUE(session.ok());
  failures_.fail_next_op(kNoMemory);
  const Status failed = compute(**session);
  EXPECT_EQ(failed.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(failed.message(), HasSubstr("need 9 MiB, have 3 MiB"));
  EXPECT_TRUE(compute(**session).ok());
  EXPECT_TRUE(server_->stop().ok());
}

TEST_F(DeviceTest, a_control_thread_that_hangs_is_no_healthy_server) {
  EXPECT_TRUE(server_->stop().ok());
  options_.metrics = free_tcp_endpoint().substr(std::string("tcp://").size());
  start();
  const std::string url = "http://" + options_.metrics;
  EXPECT_THAT(http_await(url, "/readyz", "200"), HasSubstr(" 200 "));
  EXPECT_THAT(http_get(url, "/healthz"), HasSubstr(" 200 "));
  {
    const auto hung = failures_.hang();
    EXPECT_THAT(http_await(url, "/healthz", "503"),
                HasSubstr("\r\n\r\nthe control thread has not moved for "));
  }
  EXPECT_THAT(http_await(url, "/healthz", "200"), HasSubstr(" 200 "));
}

TEST_F(DeviceTest, a_lost_device_ends_the_server_and_idle_clients_are_told_why) {
  auto session = connect();
  ASSERT_TRUE(session.ok());
  failures_.lose_device(kLost);
  const Status ended = server_->wait();
  EXPECT_EQ(ended.code(), StatusCode::kDevice);
  EXPECT_EQ(ended.message(), kLost.message());
  const Status told = compute(**session);
  EXPECT_EQ(told.code(), StatusCode::kUnavailable);
  EXPECT_THAT(told.message(), HasSubstr(kLost.message()));
}

TEST_F(DeviceTest, the_op_that_finds_the_device_lost_says_so_and_so_does_the_server) {
  auto session = connect();
  auto other = connect();
  ASSERT_TRUE(session.ok());
  ASSERT_TRUE(other.ok());
  failures_.fail_next_op(kLost);
  const Status told = compute(**session);
  // By the op's answer or by the goodbye, whichever comes first.
  EXPECT_THAT(told.code(), ::testing::AnyOf(StatusCode::kDevice, StatusCode::kUnavailable));
  EXPECT_THAT(told.message(), HasSubstr(kLost.message()));
  EXPECT_EQ(server_->wait().code(), StatusCode::kDevice);
  EXPECT_THAT(compute(**other).message(), HasSubstr(kLost.message()));
}

TEST_F(DeviceTest, a_client_that_waits_for_its_welcome_is_refused_when_the_device_is_lost) {
  failures_.hold_sessions(true);
  Status refused;
  std::thread client([&] { refused = connect().status(); });
  failures_.wait_until_held();
  failures_.lose_device(kLost);
  client.join();
  EXPECT_EQ(refused.code(), StatusCode::kDevice) << refused.to_string();
  EXPECT_THAT(refused.message(), HasSubstr(kLost.message()));
  failures_.hold_sessions(false);
  EXPECT_EQ(server_->wait().code(), StatusCode::kDevice);
}

TEST_F(DeviceTest, a_server_told_to_stop_says_nothing_of_a_device_that_works) {
  auto session = connect();
  ASSERT_TRUE(session.ok());
  EXPECT_TRUE(server_->stop().ok());
}

}  // namespace
}  // namespace airlock::testing
