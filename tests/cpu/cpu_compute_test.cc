#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "runtime/cpu/cpu_model.h"
#include "tests/support/memory_model.h"
#include "tests/support/reference_ops.h"

namespace airlock {
namespace {

using testing::MemoryModel;
using testing::random_tensor;

Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }

std::shared_ptr<CpuModel> make_model(const MemoryModel& source, DType dtype, std::size_t threads) {
  auto made = CpuModel::create(source, {.dtype = dtype, .threads = threads, .progress = {}});
  CHECK(made.ok());
  return std::move(made).value();
}

/// The op's first result as bytes; empty where it failed.
std::vector<std::byte> run(Compute& compute, const OpSpec& spec,
                           const std::vector<TensorView>& inputs) {
  std::vector<Tensor> tensors;
  const std::vector<TensorDesc> descs = op_results(spec, compute.info().dims).value();
  for (const TensorDesc& desc : descs) tensors.emplace_back(desc);
  OpMemory memory{inputs, {}};
  for (Tensor& tensor : tensors) memory.results.push_back(tensor.mutable_view());
  auto op = compute.prepare(spec, memory, soon());
  if (!op.ok() || !(*op)->submit().ok() || !(*op)->wait().ok()) return {};
  const auto bytes = tensors[0].view().bytes();
  return {bytes.begin(), bytes.end()};
}

TEST(CpuModel, refuses_options_that_make_no_sense) {
  const MemoryModel source;
  for (const LoadOptions& options :
       {LoadOptions{DType::kI32, 1, {}}, LoadOptions{DType::kF32, 0, {}},
        LoadOptions{DType::kF32, 100000, {}}}) {
    auto made = CpuModel::create(source, options);
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.status().code(), StatusCode::kInvalidInput);
  }
}

TEST(CpuModel, names_the_tensor_that_cannot_be_read) {
  MemoryModel::Options options;
  options.broken_tensor = "model.layers.1.mlp.up_proj.weight";
  const MemoryModel source(options);
  auto made = CpuModel::create(source, {});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidInput);
  EXPECT_NE(made.status().message().find(options.broken_tensor), std::string::npos);
}

TEST(CpuModel, releases_each_tensor_once_and_reports_progress) {
  for (const std::size_t threads : {1, 3}) {
    const MemoryModel source;
    std::size_t last = 0;
    std::size_t total = 0;
    auto made =
        CpuModel::create(source, {DType::kBF16, threads, [&](std::size_t done, std::size_t all) {
                                    EXPECT_LE(last, done);
                                    last = done;
                                    total = all;
                                  }});
    ASSERT_TRUE(made.ok());
    EXPECT_EQ(last, total);
    EXPECT_GT(total, 0U);
    const auto releases = source.releases();
    EXPECT_EQ(releases.size(), 2U * 7U + 2U);
    for (const auto& [name, count] : releases) EXPECT_EQ(count, 1) << name;
  }
}

TEST(CpuCompute, gives_the_same_bits_whatever_came_before) {
  const MemoryModel source;
  for (const std::size_t threads : {1, 2}) {
    const auto model = make_model(source, DType::kBF16, threads);
    const TensorDesc desc{DType::kBF16, Shape{130, 416}};
    const Tensor x = random_tensor(desc, 5);
    const OpSpec spec = linear_spec({{WeightKind::kDown, 1}}, desc, DType::kF32);
    const auto fresh = model->make_compute();
    const auto first = run(*fresh, spec, {x.view()});
    ASSERT_FALSE(first.empty());
    const auto other = model->make_compute();
    for (std::int64_t rows = 1; rows < 300; ++rows) {  // more shapes than products are kept
      const Tensor y = random_tensor({DType::kF32, Shape{rows, 96}}, 1);
      ASSERT_FALSE(
          run(*other, linear_spec({{WeightKind::kQ, 0}}, y.desc(), DType::kF16), {y.view()})
              .empty());
    }
    EXPECT_EQ(run(*other, spec, {x.view()}), first);
    EXPECT_EQ(run(*fresh, spec, {x.view()}), first);
    EXPECT_EQ(run(*make_model(source, DType::kBF16, threads)->make_compute(), spec, {x.view()}),
              first);
  }
}

TEST(CpuCompute, gives_the_same_bits_from_memory_of_any_alignment) {
  const MemoryModel source;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto compute = make_model(source, dtype, 1)->make_compute();
    const TensorDesc desc{dtype, Shape{33, 96}};
    const Tensor x = random_tensor(desc, 5);
    const OpSpec spec = linear_spec({{WeightKind::kGate, 0}}, desc, dtype);
    const auto aligned = run(*compute, spec, {x.view()});
    ASSERT_FALSE(aligned.empty());
    std::vector<std::byte> store(desc.bytes() + 64);
    std::byte* shifted = store.data() + dtype_bytes(dtype);
    std::memcpy(shifted, x.view().data, desc.bytes());
    EXPECT_EQ(run(*compute, spec, {{shifted, desc}}), aligned);
  }
}

TEST(CpuCompute, writes_its_results_and_nothing_beside_them) {
  const MemoryModel source;
  const auto compute = make_model(source, DType::kF32, 1)->make_compute();
  const TensorDesc desc{DType::kF32, Shape{3, 96}};
  const Tensor x = random_tensor(desc, 5);
  for (const DType wire : {DType::kF32, DType::kBF16}) {
    const OpSpec spec = linear_spec({{WeightKind::kK, 0}}, desc, wire);
    const TensorDesc result = op_results(spec, compute->info().dims).value()[0];
    constexpr std::size_t kMargin = 64;
    std::vector<std::byte> store(result.bytes() + 2 * kMargin, std::byte{0x5a});
    const OpMemory memory{{x.view()}, {{store.data() + kMargin, result}}};
    auto op = compute->prepare(spec, memory, soon());
    ASSERT_TRUE(op.ok() && (*op)->submit().ok() && (*op)->wait().ok());
    const auto untouched = [](std::byte byte) { return byte == std::byte{0x5a}; };
    EXPECT_TRUE(std::all_of(store.begin(), store.begin() + kMargin, untouched));
    EXPECT_TRUE(std::all_of(store.end() - kMargin, store.end(), untouched));
    const std::vector<std::byte> want = run(*compute, spec, {x.view()});
    EXPECT_EQ(std::memcmp(store.data() + kMargin, want.data(), want.size()), 0);
  }
}

TEST(CpuCompute, outlives_the_model_it_was_made_from) {
  const MemoryModel source;
  auto model = make_model(source, DType::kF32, 1);
  const auto compute = model->make_compute();
  model.reset();
  const Tensor x = random_tensor({DType::kF32, Shape{2, 96}}, 1);
  EXPECT_FALSE(run(*compute, lm_head_spec(x.desc()), {x.view()}).empty());
}

TEST(CpuCompute, shares_the_threads_among_sessions) {
  const MemoryModel source;
  const auto model = make_model(source, DType::kBF16, 2);
  const Tensor x = random_tensor({DType::kF32, Shape{20, 96}}, 1);
  const OpSpec spec = linear_spec({{WeightKind::kGate, 0}}, x.desc(), DType::kF32);
  const auto want = run(*model->make_compute(), spec, {x.view()});
  ASSERT_FALSE(want.empty());
  std::array<int, 4> wrong{};
  std::vector<std::thread> sessions;
  for (int& count : wrong) {
    sessions.emplace_back([&] {
      const auto compute = model->make_compute();
      for (int round = 0; round < 50; ++round) {
        if (run(*compute, spec, {x.view()}) != want) ++count;
      }
    });
  }
  for (std::thread& session : sessions) session.join();
  for (const int count : wrong) EXPECT_EQ(count, 0);
}

TEST(CpuCompute, survives_ids_that_change_under_it) {
  const MemoryModel source;
  const auto compute = make_model(source, DType::kF32, 1)->make_compute();
  constexpr std::size_t kCount = 2000;
  // Two mappings of one memory, as between two processes: the peer writes after it published.
  const UniqueFd memory(::memfd_create("ids", 0));
  ASSERT_TRUE(memory.valid());
  ASSERT_EQ(::ftruncate(memory.get(), kCount * sizeof(std::int32_t)), 0);
  const auto map = [&] {
    return ::mmap(nullptr, kCount * sizeof(std::int32_t), PROT_READ | PROT_WRITE, MAP_SHARED,
                  memory.get(), 0);
  };
  void* ours = map();
  void* theirs = map();
  ASSERT_TRUE(ours != MAP_FAILED && theirs != MAP_FAILED);
  std::atomic<bool> stop{false};
  std::thread peer([&] {
    auto* ids = static_cast<volatile std::int32_t*>(theirs);
    while (!stop.load()) {
      for (std::size_t i = 0; i < kCount; i += 97) ids[i] = 0x7fffffff;
      for (std::size_t i = 0; i < kCount; i += 97) ids[i] = 3;
    }
  });
  const TensorDesc desc{DType::kI32, Shape{static_cast<std::int64_t>(kCount)}};
  const std::vector<TensorView> inputs{{static_cast<const std::byte*>(ours), desc}};
  for (int round = 0; round < 200; ++round) {
    (void)run(*compute, embedding_spec(static_cast<std::int64_t>(kCount), DType::kF32), inputs);
  }
  stop = true;
  peer.join();
  ::munmap(ours, kCount * sizeof(std::int32_t));
  ::munmap(theirs, kCount * sizeof(std::int32_t));
}

TEST(CpuCompute, computes_products_of_extreme_shapes) {
  const MemoryModel source;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto compute = make_model(source, dtype, 1)->make_compute();
    struct Size {
      std::int64_t heads, groups, m, k, n;
    };
    for (const Size& s :
         {Size{1, 1, 131072, 1, 1}, Size{1, 1, 1, 131072, 1}, Size{1, 1, 1, 1, 131072},
          Size{1024, 1, 1, 1, 1}, Size{1024, 1024, 1, 1, 1}, Size{2, 1, 131072, 2, 3},
          Size{1, 1, 3, 131071, 3}, Size{4, 2, 33, 3, 4099}}) {
      for (const Transpose transpose : {Transpose::kNone, Transpose::kA, Transpose::kB}) {
        const TensorDesc a{dtype, transpose == Transpose::kA ? Shape{s.heads, s.k, s.m}
                                                             : Shape{s.heads, s.m, s.k}};
        const TensorDesc b{dtype, transpose == Transpose::kB ? Shape{s.groups, s.n, s.k}
                                                             : Shape{s.groups, s.k, s.n}};
        SCOPED_TRACE(a.shape.to_string() + " x " + b.shape.to_string());
        const Tensor left = random_tensor(a, 1);
        const Tensor right = random_tensor(b, 2);
        const std::vector<TensorView> inputs{left.view(), right.view()};
        const OpSpec spec = matmul_spec(a, b, transpose, DType::kF32);
        const auto got = run(*compute, spec, inputs);
        ASSERT_FALSE(got.empty());
        const auto want = testing::reference_op(source, dtype, spec, inputs);
        double worst = 0;
        EXPECT_EQ(testing::count_outside_tolerance(
                      {got.data(), {DType::kF32, Shape{s.heads, s.m, s.n}}}, want[0], worst),
                  0U)
            << worst;
      }
    }
  }
}

Tensor random_f64(Shape shape, std::uint64_t seed) {
  Tensor made({DType::kF64, shape});
  const Tensor floats = random_tensor({DType::kF32, shape}, seed);
  // Digits that fp32 does not have.
  std::ranges::transform(floats.as<float>(), made.as<double>().begin(),
                         [](float value) { return static_cast<double>(value) / 3.0; });
  return made;
}

TEST(CpuComputeF64, multiplies_whatever_lies_transposed_or_shared) {
  const auto model = CpuModel::create_without_weights(2).value();
  EXPECT_NE(model->info().fp64_products.find("BLIS"), std::string::npos);
  EXPECT_TRUE(model->info().dims.is_none());
  const auto compute = model->make_compute();
  struct Size {
    std::int64_t heads, groups, m, k, n;
  };
  for (const Size& s : {Size{1, 1, 1, 1, 1}, Size{6, 2, 5, 7, 3}, Size{1, 1, 1100, 30, 1030},
                        Size{2, 1, 3, 70000, 2}, Size{1, 1, 300, 40000, 150}}) {
    for (const Transpose transpose : {Transpose::kNone, Transpose::kA, Transpose::kB}) {
      const Tensor a = random_f64(
          transpose == Transpose::kA ? Shape{s.heads, s.k, s.m} : Shape{s.heads, s.m, s.k}, 1);
      const Tensor b = random_f64(
          transpose == Transpose::kB ? Shape{s.groups, s.n, s.k} : Shape{s.groups, s.k, s.n}, 2);
      SCOPED_TRACE(a.desc().shape.to_string() + " x " + b.desc().shape.to_string());
      const OpSpec spec = matmul_spec(a.desc(), b.desc(), transpose, DType::kF64);
      const auto got = run(*compute, spec, {a.view(), b.view()});
      ASSERT_FALSE(got.empty());
      const auto* values = reinterpret_cast<const double*>(got.data());
      for (std::int64_t head = 0; head < s.heads; ++head) {
        const double* left = a.as<double>().data() + head * s.m * s.k;
        const double* right = b.as<double>().data() + head / (s.heads / s.groups) * s.k * s.n;
        const std::int64_t step = std::max<std::int64_t>(1, s.m * s.n / 500);
        for (std::int64_t i = 0; i < s.m * s.n; i += step) {
          const std::int64_t row = i / s.n;
          const std::int64_t column = i % s.n;
          double sum = 0;
          for (std::int64_t k = 0; k < s.k; ++k) {
            sum += left[transpose == Transpose::kA ? k * s.m + row : row * s.k + k] *
                   right[transpose == Transpose::kB ? column * s.k + k : k * s.n + column];
          }
          ASSERT_NEAR(values[head * s.m * s.n + i], sum, 1e-15 * static_cast<double>(s.k))
              << head << " " << row << " " << column;
        }
      }
    }
  }
}

TEST(CpuComputeF64, gives_the_same_bits_for_every_number_of_threads) {
  const Tensor a = random_f64({1, 1500, 700}, 1);
  const Tensor b = random_f64({1, 700, 1301}, 2);
  const OpSpec spec = matmul_spec(a.desc(), b.desc(), Transpose::kNone, DType::kF64);
  const auto run_with = [&](std::size_t threads) {
    return run(*CpuModel::create_without_weights(threads).value()->make_compute(), spec,
               {a.view(), b.view()});
  };
  const auto alone = run_with(1);
  ASSERT_FALSE(alone.empty());
  EXPECT_EQ(run_with(2), alone);
  EXPECT_EQ(run_with(5), alone);
}

TEST(CpuComputeF64, is_computed_beside_a_model) {
  const MemoryModel source;
  const auto compute = make_model(source, DType::kBF16, 1)->make_compute();
  const Tensor a = random_f64({1, 3, 3}, 1);
  const OpSpec spec = matmul_spec(a.desc(), a.desc(), Transpose::kNone, DType::kF64);
  const auto alone = CpuModel::create_without_weights(1).value()->make_compute();
  EXPECT_EQ(run(*compute, spec, {a.view(), a.view()}), run(*alone, spec, {a.view(), a.view()}));
}

TEST(CpuComputeWithoutWeights, multiplies_every_float_type) {
  const MemoryModel unused;
  const auto compute = CpuModel::create_without_weights(2).value()->make_compute();
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const TensorDesc desc{dtype, Shape{2, 30, 30}};
    const Tensor a = random_tensor(desc, 1);
    const OpSpec spec = matmul_spec(desc, desc, Transpose::kB, DType::kF32);
    const auto got = run(*compute, spec, {a.view(), a.view()});
    const std::vector<TensorView> inputs{a.view(), a.view()};
    const auto want = testing::reference_op(unused, DType::kF32, spec, inputs);
    double worst = 0;
    ASSERT_FALSE(got.empty());
    EXPECT_EQ(testing::count_outside_tolerance({got.data(), {DType::kF32, Shape{2, 30, 30}}},
                                               want[0], worst),
              0U);
  }
  EXPECT_EQ(CpuModel::create_without_weights(0).status().code(), StatusCode::kInvalidInput);
}

}  // namespace
}  // namespace airlock
