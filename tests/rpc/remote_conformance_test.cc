// RemoteBackend on every Channel: it passes every Backend's tests, and gives the bits of the
// backend behind it.

#include <cstring>
#include <string>
#include <vector>

#include "runtime/local_backend.h"
#include "tests/conformance/backend_conformance.h"
#include "tests/conformance/int8_conformance.h"
#include "tests/rpc/rpc_rigs.h"

namespace airlock::testing {
namespace {

using testing_rigs::RemoteRig;
using testing_rigs::Route;

class RemoteUnderTest : public BackendUnderTest {
 public:
  RemoteUnderTest(Route route, const MemoryModel& model, DType dtype)
      : route_(route),
        model_(model),
        compute_(testing_rigs::make_cpu_model(model, dtype)),
        rig_(route, model, compute_) {}
  Backend& backend() override { return rig_.backend(); }
  /// Another session: one is in one mode.
  Backend* integers(Privacy mode) override {
    EXPECT_TRUE(compute_->prepare_int8(model_, Int8Weights::kW16, {}).ok());
    private_.push_back(std::make_unique<RemoteRig>(route_, model_, compute_, mode));
    return &private_.back()->backend();
  }

 private:
  const Route route_;
  const MemoryModel& model_;
  const std::shared_ptr<CpuModel> compute_;
  RemoteRig rig_;
  std::vector<std::unique_ptr<RemoteRig>> private_;
};

BackendCase remote_case(Route route, DType dtype, bool tied) {
  return {testing_rigs::route_name(route), dtype, tied,
          [route](const MemoryModel& model, DType type) {
            return std::make_unique<RemoteUnderTest>(route, model, type);
          }};
}

INSTANTIATE_TEST_SUITE_P(Remote, BackendConformance,
                         ::testing::Values(remote_case(Route::kInProcess, DType::kF32, true),
                                           remote_case(Route::kRing, DType::kF32, false),
                                           remote_case(Route::kRing, DType::kBF16, false),
                                           remote_case(Route::kPool, DType::kF32, false),
                                           remote_case(Route::kSocketIpc, DType::kF16, false),
                                           remote_case(Route::kSocketTcp, DType::kF32, false)),
                         backend_case_name);

struct Work {
  OpSpec spec;
  std::vector<Tensor> inputs;
};

void add_linear(std::vector<Work>& all, std::vector<WeightId> weights, std::int64_t rows,
                std::int64_t columns, DType wire) {
  Work work;
  work.inputs.push_back(random_tensor({wire, Shape{rows, columns}}, 11 + all.size()));
  work.spec = linear_spec(std::move(weights), work.inputs[0].desc(), wire);
  all.push_back(std::move(work));
}

void add_matmul(std::vector<Work>& all, Transpose transpose, DType wire) {
  const std::int64_t m = 33;
  const std::int64_t k = 18;
  const std::int64_t n = 29;
  Work work;
  work.inputs.push_back(
      random_tensor({wire, transpose == Transpose::kA ? Shape{6, k, m} : Shape{6, m, k}}, 5));
  work.inputs.push_back(
      random_tensor({wire, transpose == Transpose::kB ? Shape{2, n, k} : Shape{2, k, n}}, 6));
  work.spec = matmul_spec(work.inputs[0].desc(), work.inputs[1].desc(), transpose, wire);
  all.push_back(std::move(work));
}

/// Every op in every wire type, with tensors of all sizes from under to far over a slot.
std::vector<Work> all_work(const ModelDims& dims) {
  std::vector<Work> all;
  for (const DType wire : kFloatTypes) {
    Work embedding;
    embedding.inputs.push_back(token_tensor(std::array<std::int32_t, 4>{0, 7, 499, 7}));
    embedding.spec = embedding_spec(4, wire);
    all.push_back(std::move(embedding));
    for (const std::int64_t rows : {1, 40, 300}) {
      add_linear(all, {{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}}, rows,
                 dims.hidden, wire);
      add_linear(all, {{WeightKind::kDown, 1}}, rows, dims.intermediate, wire);
      Work logits;
      logits.inputs.push_back(random_tensor({wire, Shape{rows, dims.hidden}}, 17));
      logits.spec = lm_head_spec(logits.inputs[0].desc());
      all.push_back(std::move(logits));
    }
    for (const Transpose transpose : {Transpose::kNone, Transpose::kA, Transpose::kB})
      add_matmul(all, transpose, wire);
  }
  return all;
}

std::vector<std::string> compute(Backend& backend, const Work& work) {
  auto pending = backend.prepare(work.spec, testing_rigs::soon());
  EXPECT_TRUE(pending.ok()) << pending.status().to_string();
  if (!pending.ok()) return {};
  for (std::size_t i = 0; i < work.inputs.size(); ++i) {
    std::memcpy((*pending)->input(i).data, work.inputs[i].view().data,
                work.inputs[i].desc().bytes());
  }
  Status status = (*pending)->submit();
  if (status.ok()) status = (*pending)->wait();
  EXPECT_TRUE(status.ok()) << status.to_string();
  std::vector<std::string> bits;
  for (std::size_t i = 0; status.ok() && i < (*pending)->result_descs().size(); ++i) {
    const TensorView view = (*pending)->result(i);
    bits.emplace_back(reinterpret_cast<const char*>(view.data), view.desc.bytes());
  }
  return bits;
}

class EveryRoute : public ::testing::TestWithParam<Route> {
 protected:
  EveryRoute()
      : compute_(testing_rigs::make_cpu_model(model_, DType::kF32)),
        rig_(GetParam(), model_, compute_) {}
  const ModelDims& dims() const { return model_.config().dims; }

  MemoryModel model_;
  std::shared_ptr<CpuModel> compute_;
  RemoteRig rig_;
};

TEST_P(EveryRoute, gives_the_same_bits_as_the_backend_behind_it) {
  LocalBackend direct(compute_->make_compute());
  for (const Work& work : all_work(dims())) {
    SCOPED_TRACE(std::string(name_of(work.spec.op)) + " " + work.spec.inputs[0].shape.to_string() +
                 " " + std::string(name_of(work.spec.result_dtype)));
    EXPECT_EQ(compute(rig_.backend(), work), compute(direct, work));
  }
}

TEST_P(EveryRoute, keeps_more_ops_under_way_than_the_ring_has_slots) {
  constexpr std::size_t kCount = 90;  // more than limits::kMaxRequestsUnderWay
  LocalBackend direct(compute_->make_compute());
  std::vector<Work> work;
  for (std::size_t i = 0; i < kCount; ++i) {
    add_linear(work, {{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}},
               1 + static_cast<std::int64_t>(i % 5), dims().hidden, DType::kF32);
  }
  std::vector<std::unique_ptr<Pending>> pending;
  for (const Work& one : work) {
    auto prepared = rig_.backend().prepare(one.spec, testing_rigs::soon());
    ASSERT_TRUE(prepared.ok()) << pending.size() << ": " << prepared.status().to_string();
    std::memcpy((*prepared)->input(0).data, one.inputs[0].view().data,
                one.inputs[0].desc().bytes());
    const Status submitted = (*prepared)->submit();
    ASSERT_TRUE(submitted.ok()) << pending.size() << ": " << submitted.to_string();
    pending.push_back(std::move(*prepared));
  }
  for (std::size_t i = kCount; i-- > 0;) {  // the last first: the others' replies wait meanwhile
    const Status waited = pending[i]->wait();
    ASSERT_TRUE(waited.ok()) << i << ": " << waited.to_string();
    const std::vector<std::string> want = compute(direct, work[i]);
    for (std::size_t r = 0; r < want.size(); ++r) {
      const TensorView got = pending[i]->result(r);
      ASSERT_EQ(std::memcmp(got.data, want[r].data(), want[r].size()), 0) << i << " " << r;
    }
  }
}

TEST_P(EveryRoute, keeps_large_ops_under_way_both_ways) {
  LocalBackend direct(compute_->make_compute());
  std::vector<Work> work;
  for (int i = 0; i < 6; ++i) {
    add_linear(work, {{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}, 6000, dims().hidden,
               DType::kF32);  // 2.2 MiB out, 19 MiB back
  }
  std::vector<std::unique_ptr<Pending>> pending;
  for (const Work& one : work) {
    auto prepared = rig_.backend().prepare(one.spec, testing_rigs::soon());
    ASSERT_TRUE(prepared.ok()) << prepared.status().to_string();
    std::memcpy((*prepared)->input(0).data, one.inputs[0].view().data,
                one.inputs[0].desc().bytes());
    const Status submitted = (*prepared)->submit();
    ASSERT_TRUE(submitted.ok()) << submitted.to_string();
    pending.push_back(std::move(*prepared));
  }
  for (std::size_t i = 0; i < pending.size(); ++i) {
    const Status waited = pending[i]->wait();
    ASSERT_TRUE(waited.ok()) << i << ": " << waited.to_string();
    const std::vector<std::string> want = compute(direct, work[i]);
    EXPECT_EQ(std::memcmp(pending[i]->result(1).data, want[1].data(), want[1].size()), 0);
  }
}

TEST_P(EveryRoute, answers_init_ping_and_stats) {
  std::string config;
  Tensor norms;
  ASSERT_TRUE(rig_.backend()
                  .init(std::strlen(testing_rigs::kConfigJson), config, norms, testing_rigs::soon())
                  .ok());
  EXPECT_EQ(config, testing_rigs::kConfigJson);
  ASSERT_EQ(norms.desc(), rig_.norms().desc());
  EXPECT_EQ(std::memcmp(norms.view().data, rig_.norms().view().data, norms.desc().bytes()), 0);
  EXPECT_TRUE(rig_.backend().ping(testing_rigs::soon()).ok());
  auto stats = rig_.backend().session_stats(testing_rigs::soon());
  ASSERT_TRUE(stats.ok()) << stats.status().to_string();
  EXPECT_EQ(*stats, testing_rigs::kStatsJson);
}

TEST_P(EveryRoute, reconciles_the_counters_of_both_ends) {
  for (const Work& work : all_work(dims())) compute(rig_.backend(), work);
  ASSERT_TRUE(rig_.backend().ping(testing_rigs::soon()).ok());
  const TransportSnapshot runner = snapshot_of(rig_.runner().stats());
  const OpSnapshotTable ops = snapshot_of(rig_.op_stats());
  const Status reason = rig_.stop();
  EXPECT_TRUE(reason.code() == StatusCode::kCancelled || reason.code() == StatusCode::kUnavailable)
      << reason.to_string();
  const TransportSnapshot server = snapshot_of(rig_.server().stats());
  const OpSnapshotTable server_ops = snapshot_of(rig_.server_op_stats());
  for (const Path path : kPaths) {
    EXPECT_EQ(runner[path].sent, server[path].received);
    EXPECT_EQ(runner[path].received, server[path].sent);
    EXPECT_EQ(runner[path].fallbacks, server[path].fallbacks);
  }
  if (GetParam() == Route::kPool) {
    EXPECT_GT(runner[Path::kPool].sent.bytes, 0U);
    EXPECT_GT(runner[Path::kPool].received.bytes, 0U);
    EXPECT_GT(runner[Path::kPool].fallbacks, 0U);
    EXPECT_GT(runner[Path::kZmq].sent.bytes + runner[Path::kZmq].received.bytes, 0U);
  }
  for (const Op op : {Op::kEmbedding, Op::kBatchLinear, Op::kMatmul, Op::kLmHead, Op::kPing}) {
    const OpSnapshot& stats = ops[op];
    EXPECT_GT(stats.calls, 0U) << name_of(op);
    EXPECT_EQ(stats.calls, server_ops[op].calls) << name_of(op);
    EXPECT_EQ(stats.times.total_ns, stats.times.tee_ns + stats.times.wire_ns +
                                        stats.times.queue_ns + stats.times.server_ns)
        << name_of(op);
  }
}

INSTANTIATE_TEST_SUITE_P(Routes, EveryRoute,
                         ::testing::Values(Route::kInProcess, Route::kRing, Route::kPool,
                                           Route::kSocketIpc, Route::kSocketTcp),
                         [](const auto& route) {
                           return std::string(testing_rigs::route_name(route.param));
                         });

}  // namespace
}  // namespace airlock::testing
