// What the bits of a result depend on, and what not: docs/adr/0012-one-thread-a-product.md.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <vector>

#include "runtime/cpu/cpu_model.h"
#include "tests/support/memory_model.h"
#include "tests/support/reference_ops.h"

namespace airlock {
namespace {

using testing::MemoryModel;
using testing::random_tensor;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

/// Wide enough for several panels of columns, and for a narrower last one.
MemoryModel wide_model(bool tied) {
  MemoryModel::Options options;
  options.dims = {.hidden = 300,
                  .intermediate = 700,
                  .layers = 1,
                  .heads = 6,
                  .kv_heads = 2,
                  .head_dim = 50,
                  .vocab = 1100};
  options.tied = tied;
  return MemoryModel(options);
}

std::unique_ptr<Compute> make_compute(const MemoryModel& source, DType dtype, std::size_t threads) {
  return CpuModel::create(source, {.dtype = dtype, .threads = threads, .progress = {}})
      .value()
      ->make_compute();
}

/// All results one behind the other, in memory that held `before`.
std::vector<std::byte> run(Compute& compute, const OpSpec& spec,
                           const std::vector<TensorView>& inputs, std::byte before) {
  std::vector<Tensor> tensors;
  const auto descs = op_results(spec, compute.info().dims).value();
  for (const TensorDesc& desc : descs) tensors.emplace_back(desc);
  OpMemory memory{inputs, {}};
  for (Tensor& tensor : tensors) {
    std::ranges::fill(tensor.mutable_view().bytes(), before);
    memory.results.push_back(tensor.mutable_view());
  }
  auto op = compute.prepare(spec, memory, Deadline::after(std::chrono::seconds(60)));
  CHECK(op.ok() && (*op)->submit().ok() && (*op)->wait().ok());
  std::vector<std::byte> all;
  for (const Tensor& tensor : tensors)
    all.insert(all.end(), tensor.view().bytes().begin(), tensor.view().bytes().end());
  return all;
}

struct Case {
  OpSpec spec;
  std::vector<Tensor> inputs;

  std::vector<TensorView> views() const {
    std::vector<TensorView> views;
    for (const Tensor& input : inputs) views.push_back(input.view());
    return views;
  }
};

Case linear_case(std::vector<WeightId> weights, const TensorDesc& x, DType result) {
  Case made{linear_spec(std::move(weights), x, result), {}};
  made.inputs.push_back(random_tensor(x, 3));
  return made;
}

Case lm_head_case(const TensorDesc& x) {
  Case made{lm_head_spec(x), {}};
  made.inputs.push_back(random_tensor(x, 4));
  return made;
}

Case matmul_case(std::int64_t heads, std::int64_t groups, std::int64_t m, std::int64_t k,
                 std::int64_t n, Transpose transpose, DType wire) {
  const TensorDesc a{wire, transpose == Transpose::kA ? Shape{heads, k, m} : Shape{heads, m, k}};
  const TensorDesc b{wire, transpose == Transpose::kB ? Shape{groups, n, k} : Shape{groups, k, n}};
  Case made{matmul_spec(a, b, transpose, wire), {}};
  made.inputs.push_back(random_tensor(a, 5));
  made.inputs.push_back(random_tensor(b, 6));
  return made;
}

/// Every op, with rows from one to more than a block, types that are taken as they are and types
/// that are rounded, and products that are cut in each direction.
std::vector<Case> all_cases(DType wire) {
  std::vector<Case> cases;
  for (const std::int64_t m : {1, 3, 128, 131, 400}) {
    const TensorDesc x{wire, Shape{m, 300}};
    cases.push_back(
        linear_case({{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kGate, 0}}, x, wire));
    cases.push_back(linear_case({{WeightKind::kDown, 0}}, {wire, Shape{m, 700}}, DType::kF32));
    cases.push_back(lm_head_case(x));
    for (const Transpose transpose : {Transpose::kNone, Transpose::kA, Transpose::kB}) {
      cases.push_back(matmul_case(6, 2, m, 50, 131, transpose, wire));
      cases.push_back(matmul_case(4, 4, m, 131, 5, transpose, wire));
    }
  }
  std::vector<std::int32_t> ids(1001);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7 % 1100);
  Case embedding{embedding_spec(static_cast<std::int64_t>(ids.size()), wire), {}};
  embedding.inputs.push_back(testing::token_tensor(ids));
  cases.push_back(std::move(embedding));
  for (const Transpose transpose : {Transpose::kNone, Transpose::kA, Transpose::kB}) {
    cases.push_back(matmul_case(1, 1, 70, 9, 5003, transpose, wire));    // several panels
    cases.push_back(matmul_case(1, 1, 3, 131071, 45, transpose, wire));  // several blocks of rows
    cases.push_back(matmul_case(64, 64, 2, 3, 5, transpose, wire));      // several a piece
  }
  return cases;
}

std::string text_of(const OpSpec& spec) {
  std::string text = fmt::format("{} {}", name_of(spec.op), name_of(spec.transpose));
  for (const TensorDesc& input : spec.inputs) text += fmt::format(" {}", input.shape.to_string());
  return text;
}

class Bits : public ::testing::TestWithParam<DType> {};

/// Where oneDNN emulates bf16, or multiplies it by AMX and a single row without, a single row that
/// is left has bits of its own (adr 23).
bool is_left_alone(DType held, std::int64_t rows) {
  const auto isa = dnnl::get_effective_cpu_isa();
  const bool is_native =
      isa >= dnnl::cpu_isa::avx512_core_bf16 && isa < dnnl::cpu_isa::avx512_core_amx;
  return held == DType::kBF16 && rows % 128 == 1 && !is_native;
}

TEST_P(Bits, are_the_same_for_every_count_of_threads_and_nothing_is_left_unwritten) {
  for (const bool tied : {false, true}) {
    const MemoryModel source = wide_model(tied);
    std::vector<std::unique_ptr<Compute>> computes;
    for (const std::size_t threads : {1, 2, 3, 5}) {
      computes.push_back(make_compute(source, GetParam(), threads));
    }
    for (const DType wire : {DType::kF32, GetParam()}) {
      for (const Case& one : all_cases(wire)) {
        const auto want = run(*computes[0], one.spec, one.views(), std::byte{0x00});
        for (const auto& compute : computes) {
          // Not a number in each float type: what is not written cannot be overlooked.
          const auto got = run(*compute, one.spec, one.views(), std::byte{0xff});
          ASSERT_TRUE(got == want) << text_of(one.spec) << ", " << compute->info().threads;
        }
      }
      if (GetParam() == DType::kF32) break;
    }
  }
}

struct Linear {
  WeightKind kind;
  std::int64_t k;
  std::int64_t n;
};

/// How many of the first rows differ where `rows` of them are computed instead of all.
std::size_t rows_that_differ(Compute& compute, const Linear& linear, DType wire, DType result,
                             std::int64_t rows) {
  constexpr std::int64_t kAll = 300;
  const Tensor x = random_tensor({wire, Shape{kAll, linear.k}}, 8);
  const auto of = [&](std::int64_t count) {
    const TensorDesc desc{wire, Shape{count, linear.k}};
    return run(compute, linear_spec({{linear.kind, 0}}, desc, result), {{x.view().data, desc}},
               std::byte{0});
  };
  const auto few = of(rows);
  const auto all = of(kAll);
  std::size_t differ = 0;
  const std::size_t row_bytes = static_cast<std::size_t>(linear.n) * dtype_bytes(result);
  for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
    differ += std::memcmp(&few[row * row_bytes], &all[row * row_bytes], row_bytes) != 0 ? 1 : 0;
  }
  return differ;
}

// The table of adr 12. Where oneDNN has a kernel that sums each element in one order (AVX-512), a
// row has its bits whatever is computed beside it. Its older kernel sums the last one to three rows
// of a number that four does not divide, and a single row, in another order.
TEST_P(Bits, of_a_row_are_the_same_whatever_rows_are_beside_it) {
  const MemoryModel source = wide_model(false);
  const auto compute = make_compute(source, GetParam(), 2);
  const bool any_number = dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core;
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 7, 8, 16, 33, 100, 128, 129, 255, 256, 257}) {
    if (!any_number && rows % 128 != 0) continue;
    if (is_left_alone(GetParam(), rows)) continue;
    for (const DType wire : {DType::kF32, GetParam()}) {
      EXPECT_EQ(rows_that_differ(*compute, {WeightKind::kGate, 300, 700}, wire, DType::kF32, rows),
                0U)
          << rows << " rows";
    }
  }
}

// With so many columns oneDNN sums in chunks, of 512 values or of 1024. Up to 32 rows are
// multiplied by a kernel of our own (adr 23).
TEST_P(Bits, of_a_row_of_a_wide_product_are_the_same_whatever_rows_are_beside_it) {
  if (dnnl::get_effective_cpu_isa() < dnnl::cpu_isa::avx512_core) GTEST_SKIP();
  MemoryModel::Options options;
  options.dims = {.hidden = 1000,
                  .intermediate = 2100,
                  .layers = 1,
                  .heads = 4,
                  .kv_heads = 2,
                  .head_dim = 250,
                  .vocab = 300};
  const MemoryModel source(options);
  const auto compute = make_compute(source, GetParam(), 2);
  for (const std::int64_t rows : {1, 2, 5, 6, 7, 8, 12, 13, 16, 18, 19, 31, 32, 33, 128}) {
    if (is_left_alone(GetParam(), rows)) continue;
    for (const Linear& linear :
         {Linear{WeightKind::kK, 1000, 500}, Linear{WeightKind::kDown, 2100, 1000}}) {
      for (const DType result : {DType::kF32, GetParam()}) {
        EXPECT_EQ(rows_that_differ(*compute, linear, GetParam(), result, rows), 0U)
            << rows << " rows of " << linear.k;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EachType, Bits, ::testing::ValuesIn(kDTypes),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

}  // namespace
}  // namespace airlock
