#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/int8_rows.h"
#include "gpu_server/group/traffic.h"
#include "tests/gpu_server/group/group_rig.h"
#include "tests/support/reference_ops.h"
#include "tests/support/sanitizer.h"
#include "tests/support/temp_dir.h"

namespace airlock {
namespace {

using testing::GroupCase;
using testing::GroupRig;
using ::testing::HasSubstr;
using testing::MemoryModel;
using testing::random_tensor;

constexpr GroupTiming kHasty{std::chrono::milliseconds(50), std::chrono::milliseconds(1000)};

MemoryModel::Options wide() {
  MemoryModel::Options options;
  options.dims = {.hidden = 520,
                  .intermediate = 1100,
                  .layers = 3,
                  .heads = 4,
                  .kv_heads = 2,
                  .head_dim = 130,
                  .vocab = 1000};
  return options;
}

struct Done {
  Status status;
  std::vector<Tensor> results;
  OpTimes times;
  std::uint64_t around_ns = 0;
};

Done run(Compute& compute, const OpSpec& spec, const std::vector<TensorView>& inputs,
         const OpLife& life = GroupRig::soon()) {
  Done done;
  const std::vector<TensorDesc> descs = op_results(spec, compute.info().dims).value();
  for (const TensorDesc& desc : descs) done.results.emplace_back(desc);
  OpMemory memory{inputs, {}};
  for (Tensor& tensor : done.results) memory.results.push_back(tensor.mutable_view());
  const std::uint64_t start_ns = now_ns();
  auto op = compute.prepare(spec, memory, life);
  done.status = op.status();
  if (op.ok()) done.status = (*op)->submit();
  if (done.status.ok()) done.status = (*op)->wait();
  if (done.status.ok()) done.times = (*op)->times();
  done.around_ns = now_ns() - start_ns;
  return done;
}

bool same_bits(const Done& a, const Done& b) {
  if (a.results.size() != b.results.size()) return false;
  for (std::size_t i = 0; i < a.results.size(); ++i) {
    const TensorView x = a.results[i].view();
    const TensorView y = b.results[i].view();
    if (x.desc != y.desc || std::memcmp(x.data, y.data, x.desc.bytes()) != 0) return false;
  }
  return true;
}

TEST(Group, gives_the_bits_of_one_process) {
  const MemoryModel source(wide());
  const auto whole =
      CpuModel::create(source, {.dtype = DType::kBF16, .threads = 1, .progress = {}}).value();
  const auto alone = whole->make_compute();
  for (const PlacementKind kind : {PlacementKind::kLayers, PlacementKind::kColumns}) {
    for (const bool door_only : {false, true}) {
      GroupRig rig(source, DType::kBF16, {.kind = kind, .ranks = 3, .door_only = door_only});
      const auto compute = rig.model().make_compute({}).value();
      for (const std::int64_t rows : {1, 3, 40}) {
        const auto expect_same = [&](const OpSpec& spec, const std::vector<TensorView>& inputs) {
          const Done one = run(*alone, spec, inputs);
          const Done all = run(*compute, spec, inputs);
          ASSERT_TRUE(one.status.ok()) << one.status.message();
          ASSERT_TRUE(all.status.ok()) << all.status.message();
          EXPECT_TRUE(same_bits(one, all)) << name_of(spec.op) << " of " << rows << " rows";
          EXPECT_LE(all.times.total_ns, all.around_ns);
          EXPECT_GT(all.times.server_ns, 0U);
        };
        const Tensor x = random_tensor({DType::kBF16, Shape{rows, 520}}, 3);
        for (std::uint16_t layer = 0; layer < 3; ++layer) {
          expect_same(linear_spec(weights_of(Linear::kQkv, layer), x.desc(), DType::kBF16),
                      {x.view()});
          expect_same(linear_spec(weights_of(Linear::kGateUp, layer), x.desc(), DType::kF32),
                      {x.view()});
        }
        // Of several layers: several ranks, also by layers.
        expect_same(linear_spec({{WeightKind::kQ, 0}, {WeightKind::kUp, 2}, {WeightKind::kK, 1}},
                                x.desc(), DType::kF32),
                    {x.view()});
        expect_same(lm_head_spec(x.desc()), {x.view()});
        Tensor ids({DType::kI32, Shape{rows}});
        for (std::int64_t i = 0; i < rows; ++i)
          ids.as<std::int32_t>()[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i * 23);
        expect_same(embedding_spec(rows, DType::kBF16), {ids.view()});
        const Tensor a = random_tensor({DType::kF32, Shape{4, rows, 130}}, 4);
        const Tensor b = random_tensor({DType::kF32, Shape{2, rows, 130}}, 5);
        expect_same(matmul_spec(a.desc(), b.desc(), Transpose::kB, DType::kF32),
                    {a.view(), b.view()});
      }
      EXPECT_TRUE(rig.stop());
      for (const std::size_t rank : {1, 2}) EXPECT_TRUE(rig.end_of(rank).ok());
      EXPECT_EQ(rig.hub().finished(), 3U);
    }
  }
}

TEST(Group, joins_the_digest_of_the_int8_weights) {
  const MemoryModel source(wide());
  const auto whole =
      CpuModel::create(source, {.dtype = DType::kF32, .threads = 2, .progress = {}}).value();
  for (const PlacementKind kind : {PlacementKind::kLayers, PlacementKind::kColumns}) {
    GroupRig rig(source, DType::kF32, {.kind = kind, .ranks = 3});
    for (const Int8Weights weights : {Int8Weights::kW8, Int8Weights::kAuto}) {
      const auto joined = rig.model().prepare_int8(source, weights, {});
      ASSERT_TRUE(joined.ok()) << joined.status().message();
      EXPECT_EQ(*joined, whole->prepare_int8(source, weights, {}).value());
    }
  }
}

TEST(Group, tells_what_a_rank_refuses_and_goes_on) {
  const MemoryModel source(wide());
  GroupRig rig(source, DType::kF32, {.ranks = 2, .door_only = true});
  const auto compute = rig.model().make_compute({}).value();
  // Nobody has made int8 weights.
  const Tensor words({DType::kU32, Shape{2, 520}});
  const OpSpec spec = int_linear_spec(weights_of(Linear::kQkv, 0), 1, 2, source.config().dims);
  const Done refused = run(*compute, spec, {words.view()});
  EXPECT_EQ(refused.status.code(), StatusCode::kInvalidInput);
  Tensor ids({DType::kI32, Shape{1}});
  ids.as<std::int32_t>()[0] = 1000;
  EXPECT_EQ(run(*compute, embedding_spec(1, DType::kF32), {ids.view()}).status.code(),
            StatusCode::kInvalidInput);
  ids.as<std::int32_t>()[0] = 999;
  EXPECT_TRUE(run(*compute, embedding_spec(1, DType::kF32), {ids.view()}).status.ok());
}

// Columns are apart where no block of a row is.
TEST(Group, gives_the_int8_rows_of_one_process) {
  const MemoryModel source(wide());
  const auto whole =
      CpuModel::create(source, {.dtype = DType::kF32, .threads = 1, .progress = {}}).value();
  const auto alone = whole->make_compute();
  const Tensor x = random_tensor({DType::kF32, Shape{5, 520}}, 3);
  Tensor rounded({DType::kI8, Shape{5, wire_columns(DType::kI8, 520)}});
  store_int8_rows(x.view(), rounded.mutable_view());
  Tensor ids({DType::kI32, Shape{3}});
  for (std::size_t i = 0; i < 3; ++i)
    ids.as<std::int32_t>()[i] = static_cast<std::int32_t>(i) * 401;
  for (const PlacementKind kind : {PlacementKind::kLayers, PlacementKind::kColumns}) {
    GroupRig rig(source, DType::kF32, {.kind = kind, .ranks = 3});
    const auto compute = rig.model().make_compute({}).value();
    const auto expect_same = [&](const OpSpec& spec, TensorView input) {
      const Done want = run(*alone, spec, {input});
      const Done got = run(*compute, spec, {input});
      ASSERT_TRUE(want.status.ok()) << want.status.message();
      ASSERT_TRUE(got.status.ok()) << got.status.message();
      EXPECT_TRUE(same_bits(got, want)) << name_of(spec.op);
    };
    expect_same(embedding_spec(3, DType::kI8), ids.view());
    for (const TensorView input : {x.view(), rounded.view()}) {
      for (const Linear linear : {Linear::kQkv, Linear::kGateUp})
        expect_same(linear_spec(weights_of(linear, 1), input.desc, DType::kI8), input);
    }
  }
}

TEST(Group, serves_sessions_at_once) {
  const MemoryModel source(wide());
  const auto whole =
      CpuModel::create(source, {.dtype = DType::kF32, .threads = 1, .progress = {}}).value();
  GroupRig rig(source, DType::kF32, {.kind = PlacementKind::kColumns, .ranks = 3});
  std::atomic<int> wrong{0};
  std::vector<std::thread> sessions;
  for (std::uint64_t number = 0; number < 4; ++number) {
    sessions.emplace_back([&, number] {
      const auto alone = whole->make_compute();
      const auto compute = rig.model().make_compute({}).value();
      const Tensor x = random_tensor({DType::kF32, Shape{5, 520}}, number);
      for (std::uint16_t layer = 0; layer < 3; ++layer) {
        const OpSpec spec = linear_spec(weights_of(Linear::kGateUp, layer), x.desc(), DType::kF32);
        const Done all = run(*compute, spec, {x.view()});
        if (!all.status.ok() || !same_bits(all, run(*alone, spec, {x.view()}))) ++wrong;
      }
    });
  }
  for (std::thread& session : sessions) session.join();
  EXPECT_EQ(wrong.load(), 0);
}

/// Computes until nobody wants the result any more.
class Endless : public ComputeModel {
 public:
  explicit Endless(std::shared_ptr<ComputeModel> inner) : inner_(std::move(inner)) {}
  const BackendInfo& info() const override { return inner_->info(); }
  Result<std::unique_ptr<Compute>> make_compute(std::span<const std::span<std::byte>>) override {
    return std::unique_ptr<Compute>(std::make_unique<Forever>(*inner_));
  }
  Result<std::string> prepare_int8(const ModelSource&, Int8Weights, const Int8Progress&) override {
    return Status(StatusCode::kInvalidInput, "none");
  }
  Result<std::vector<Int8Line>> prepare_int8_share(const ModelSource&, Int8Weights,
                                                   const Int8Progress&) override {
    return Status(StatusCode::kInvalidInput, "none");
  }
  Status health() const override { return {}; }
  static std::atomic<int> under_way;

 private:
  class Forever : public Compute {
   public:
    explicit Forever(ComputeModel& model) : model_(model) {}
    const BackendInfo& info() const override { return model_.info(); }
    Result<std::unique_ptr<Computation>> prepare(const OpSpec&, OpMemory,
                                                 const OpLife& life) override {
      return std::unique_ptr<Computation>(std::make_unique<Op>(life));
    }

   private:
    ComputeModel& model_;
  };
  class Op : public Computation {
   public:
    explicit Op(OpLife life) : life_(std::move(life)) {}
    Status submit() override { return {}; }
    bool done() override { return false; }
    Status wait() override {
      ++under_way;
      Status status;
      while ((status = life_.check()).ok())
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      --under_way;
      return status;
    }
    OpTimes times() const override { return {}; }

   private:
    const OpLife life_;
  };
  const std::shared_ptr<ComputeModel> inner_;
};
std::atomic<int> Endless::under_way{0};

GroupCase endless(const GroupTiming& timing = {}) {
  return {.ranks = 2,
          .door_only = true,
          .timing = timing,
          .wrap = [](std::shared_ptr<ComputeModel> inner) -> std::shared_ptr<ComputeModel> {
            return std::make_shared<Endless>(std::move(inner));
          }};
}

TEST(Group, an_op_that_nobody_wants_any_more_ends_on_its_rank) {
  const MemoryModel source(wide());
  GroupRig rig(source, DType::kF32, endless());
  const auto compute = rig.model().make_compute({}).value();
  const Tensor x = random_tensor({DType::kF32, Shape{2, 520}}, 1);
  std::atomic<bool> wanted{true};
  std::thread leaver([&] {
    while (Endless::under_way.load() == 0) std::this_thread::yield();
    wanted = false;
  });
  const Done gone = run(*compute, lm_head_spec(x.desc()), {x.view()},
                        {GroupRig::soon(), [&]() -> Status {
                           if (wanted) return {};
                           return {StatusCode::kUnavailable, "the client is gone"};
                         }});
  leaver.join();
  EXPECT_EQ(gone.status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(Endless::under_way.load(), 0) << "the op was waited for";
  const Done late = run(*compute, lm_head_spec(x.desc()), {x.view()},
                        Deadline::after(std::chrono::milliseconds(50)));
  EXPECT_EQ(late.status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(Endless::under_way.load(), 0);
  EXPECT_TRUE(rig.leader().health().ok());
}

TEST(Group, a_cut_cable_ends_every_op_and_both_sides) {
  const MemoryModel source(wide());
  GroupRig rig(source, DType::kF32, endless(kHasty));
  const auto compute = rig.model().make_compute({}).value();
  const Tensor x = random_tensor({DType::kF32, Shape{2, 520}}, 1);
  std::thread cutter([&] {
    while (Endless::under_way.load() == 0) std::this_thread::yield();
    rig.hub().cut(1);
  });
  const Done lost = run(*compute, lm_head_spec(x.desc()), {x.view()});
  cutter.join();
  EXPECT_EQ(lost.status.code(), StatusCode::kDevice);
  EXPECT_THAT(lost.status.message(), HasSubstr("no sign of life"));
  EXPECT_EQ(rig.model().health().code(), StatusCode::kDevice);
  EXPECT_EQ(run(*compute, lm_head_spec(x.desc()), {x.view()}).status.code(), StatusCode::kDevice);
  EXPECT_EQ(rig.model().make_compute({}).status().code(), StatusCode::kDevice);
  EXPECT_FALSE(rig.stop());
  EXPECT_EQ(rig.end_of(1).code(), StatusCode::kUnavailable);
}

TEST(Group, a_leader_that_is_gone_ends_the_others) {
  const MemoryModel source(wide());
  GroupRig rig(source, DType::kF32, {.ranks = 3, .timing = kHasty});
  rig.hub().cut(0);
  for (const std::size_t rank : {1, 2}) {
    EXPECT_EQ(rig.end_of(rank).code(), StatusCode::kUnavailable);
    EXPECT_THAT(rig.end_of(rank).message(), HasSubstr("rank 0 has given no sign of life"));
  }
}

// The other allocators of a sanitizer take address space as they like.
#if !AIRLOCK_ASAN && !AIRLOCK_TSAN
TEST(Group, an_op_that_a_rank_has_no_memory_for_is_answered_so) {
  const MemoryModel source(wide());
  GroupRig rig(source, DType::kF32, {.ranks = 2, .door_only = true});
  constexpr std::int64_t kRows = 131072;
  Tensor input({DType::kBF16, Shape{kRows, 520}});
  const auto op = std::make_shared<RemoteOp>();
  op->rank = 1;
  op->spec = lm_head_spec(input.desc());
  op->deadline = GroupRig::soon();
  op->inputs = {ByteRows::dense(input.mutable_view().data, input.desc().bytes())};
  op->result_descs = {{DType::kF32, Shape{kRows, 1000}}};
  // Half a gigabyte, of which none is written.
  op->results = {tensor_rows(nullptr, op->result_descs[0])};
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  rlimit tight = before;
  tight.rlim_cur =
      pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + (std::size_t{300} << 20);
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &tight), 0);
  rig.leader().submit(op);
  const bool is_over = op->wait(GroupRig::soon());
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
  ASSERT_TRUE(is_over);
  EXPECT_EQ(op->status().code(), StatusCode::kResourceExhausted) << op->status().message();
  const Tensor x = random_tensor({DType::kF32, Shape{2, 520}}, 1);
  EXPECT_TRUE(
      run(*rig.model().make_compute({}).value(), lm_head_spec(x.desc()), {x.view()}).status.ok());
}
#endif

TEST(Group, an_echo_comes_back) {
  const MemoryModel source;
  GroupRig rig(source, DType::kF32, {.ranks = 3});
  for (const std::size_t rank : {1, 2, 1}) {
    const auto took = rig.leader().echo(rank, 5000000);
    ASSERT_TRUE(took.ok()) << took.status().message();
    EXPECT_GT(took->count(), 0);
  }
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

TEST(Traffic, tells_which_way_bytes_went) {
  const TempDir sys;
  const std::filesystem::path root = sys.path();
  const auto count = [&](std::uint64_t rdma_words, std::uint64_t eth, std::uint64_t lo) {
    write(root / "class/infiniband/mlx5_0/ports/1/counters/port_xmit_data",
          std::to_string(rdma_words) + "\n");
    write(root / "class/net/eth0/statistics/tx_bytes", std::to_string(eth) + "\n");
    write(root / "class/net/lo/statistics/tx_bytes", std::to_string(lo) + "\n");
    return read_traffic(root);
  };
  const Traffic before = count(1000, 5000, 0);
  EXPECT_EQ(way_of(8000, before, count(1000, 5100, 9000)).text, "memory");
  const Way by_network = way_of(8000, before, count(1010, 13500, 0));
  EXPECT_EQ(by_network.text, "eth0");
  EXPECT_TRUE(by_network.is_network && !by_network.is_rdma);
  const Way by_rdma = way_of(8000, before, count(3050, 5100, 0));
  EXPECT_EQ(by_rdma.text, "RDMA over mlx5_0");
  EXPECT_TRUE(by_rdma.is_rdma);
  EXPECT_EQ(way_of(8000, {}, read_traffic(root / "none")).text, "memory");
}

}  // namespace
}  // namespace airlock
