#include "runtime/local_backend.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace airlock {
namespace {

constexpr ModelDims kTiny{.hidden = 32,
                          .intermediate = 48,
                          .layers = 2,
                          .heads = 4,
                          .kv_heads = 2,
                          .head_dim = 10,
                          .vocab = 50};

Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }

/// Adds one to each byte: the first bytes of the input are those of each result. Each op claims to
/// have waited 5 ns and computed 7 of 13.
class Incrementer : public Compute {
 public:
  explicit Incrementer(std::vector<OpMemory>& seen) : seen_(seen) { info_.dims = kTiny; }
  const BackendInfo& info() const override { return info_; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec&, OpMemory memory,
                                               const OpLife&) override {
    if (refusal.code() != StatusCode::kOk) return refusal;
    seen_.push_back(memory);
    return std::unique_ptr<Computation>(std::make_unique<Increment>(std::move(memory), outcome));
  }
  Status refusal;
  Status outcome;

 private:
  class Increment : public Computation {
   public:
    Increment(OpMemory memory, Status outcome)
        : memory_(std::move(memory)), outcome_(std::move(outcome)) {}
    // It may write to the end of its life.
    ~Increment() override { write(); }
    Status submit() override { return {}; }
    bool done() override { return true; }
    Status wait() override {
      write();
      return outcome_;
    }
    OpTimes times() const override {
      return {.total_ns = 13, .wire_ns = 1, .queue_ns = 5, .server_ns = 7};
    }

   private:
    void write() {
      for (const MutableTensorView& result : memory_.results) {
        for (std::byte& byte : result.bytes())
          byte = static_cast<std::byte>(static_cast<int>(memory_.inputs[0].data[0]) + 1);
      }
    }
    OpMemory memory_;
    Status outcome_;
  };
  BackendInfo info_;
  std::vector<OpMemory>& seen_;
};

class LocalBackendTest : public ::testing::Test {
 protected:
  LocalBackendTest() {
    auto compute = std::make_unique<Incrementer>(seen_);
    compute_ = compute.get();
    backend_ = std::make_unique<LocalBackend>(std::move(compute));
  }
  std::unique_ptr<Pending> prepare(int first_byte) {
    auto pending = backend_->prepare(spec_, soon());
    EXPECT_TRUE(pending.ok()) << pending.status().to_string();
    std::memset((*pending)->input(0).data, first_byte, (*pending)->input(0).desc.bytes());
    return std::move(*pending);
  }

  const OpSpec spec_ = linear_spec({{WeightKind::kQ, 0}, {WeightKind::kK, 1}},
                                   {DType::kF32, Shape{3, kTiny.hidden}}, DType::kBF16);
  // Where each op's operands lay.
  std::vector<OpMemory> seen_;
  Incrementer* compute_ = nullptr;
  std::unique_ptr<LocalBackend> backend_;
};

TEST_F(LocalBackendTest, computes_from_its_loans_into_its_loans) {
  const auto pending = prepare(4);
  ASSERT_TRUE(pending->submit().ok() && pending->wait().ok());
  ASSERT_EQ(seen_.size(), 1U);
  ASSERT_EQ(seen_[0].results.size(), 2U);
  EXPECT_EQ(seen_[0].inputs[0].desc, spec_.inputs[0]);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(pending->result(i).data, seen_[0].results[i].data);
    EXPECT_EQ(pending->result(i).desc, pending->result_descs()[i]);
    EXPECT_EQ(pending->result(i).bytes().back(), std::byte{5});
  }
}

TEST_F(LocalBackendTest, keeps_ops_apart_and_uses_memory_again) {
  const std::byte* first = nullptr;
  {
    const auto a = prepare(1);
    const auto b = prepare(2);
    ASSERT_TRUE(a->submit().ok() && b->submit().ok() && a->wait().ok() && b->wait().ok());
    EXPECT_EQ(a->result(1).data[0], std::byte{2});
    EXPECT_EQ(b->result(1).data[0], std::byte{3});
    first = seen_[0].inputs[0].data;
  }
  const auto again = prepare(3);
  const auto other = prepare(4);
  EXPECT_TRUE(seen_[2].inputs[0].data == first || seen_[3].inputs[0].data == first ||
              seen_[2].results[0].data == first || seen_[3].results[0].data == first ||
              seen_[2].results[1].data == first || seen_[3].results[1].data == first);
}

TEST_F(LocalBackendTest, times_hold_what_prepare_took_and_add_up) {
  const auto pending = prepare(1);
  ASSERT_TRUE(pending->submit().ok() && pending->wait().ok());
  const OpTimes times = pending->times();
  EXPECT_GT(times.total_ns, 13U);
  EXPECT_EQ(times.queue_ns, 5U);
  EXPECT_EQ(times.server_ns, 7U);
  EXPECT_EQ(times.tee_ns, 0U);
  EXPECT_EQ(times.wire_ns, times.total_ns - 12);
  EXPECT_EQ(pending->slots_in_use(), 0U);
}

TEST_F(LocalBackendTest, passes_on_what_a_compute_refuses) {
  compute_->refusal = {StatusCode::kDevice, "gone"};
  EXPECT_EQ(backend_->prepare(spec_, soon()).status().code(), StatusCode::kDevice);
  compute_->refusal = {};
  compute_->outcome = {StatusCode::kResourceExhausted, "none left"};
  const auto pending = prepare(1);
  ASSERT_TRUE(pending->submit().ok());
  EXPECT_EQ(pending->wait().code(), StatusCode::kResourceExhausted);
}

TEST_F(LocalBackendTest, asks_a_compute_for_nothing_but_its_own_ops) {
  for (const Op op : {Op::kInit, Op::kStats, Op::kPing}) {
    OpSpec spec;
    spec.op = op;
    EXPECT_EQ(backend_->prepare(spec, soon()).status().code(), StatusCode::kInvalidInput)
        << name_of(op);
  }
  EXPECT_TRUE(seen_.empty());
}

}  // namespace
}  // namespace airlock
