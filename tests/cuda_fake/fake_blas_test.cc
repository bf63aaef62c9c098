#include <cublas_v2.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "gpu_server/cuda/elements.h"
#include "tests/cuda_fake/fake_test.h"

namespace airlock::cuda_fake {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

struct Case {
  cublasOperation_t op_a = CUBLAS_OP_N;
  cublasOperation_t op_b = CUBLAS_OP_N;
  int m = 1, n = 1, k = 1;
  int lda_more = 0, ldb_more = 0, ldc_more = 0;
  float alpha = 1, beta = 0;
  DType ab = DType::kF32;
  DType c = DType::kF32;
  long long a_step = 0, b_step = 0;
  int batch_count = 1;
};

cudaDataType type_of(DType dtype) {
  if (dtype == DType::kF64) return CUDA_R_64F;
  return dtype == DType::kF32 ? CUDA_R_32F : dtype == DType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
}

double tolerance_of(DType dtype) {
  if (dtype == DType::kF64) return 1e-13;
  return dtype == DType::kF32 ? 1e-5 : dtype == DType::kF16 ? 1e-3 : 8e-3;
}

double get_element(const std::byte* data, DType dtype, std::int64_t index) {
  if (dtype == DType::kF64) return reinterpret_cast<const double*>(host_view(data))[index];
  return cuda::load_element(host_view(data), dtype, index);
}

void put_element(std::byte* data, DType dtype, std::int64_t index, double value) {
  if (dtype == DType::kF64) {
    reinterpret_cast<double*>(host_view(data))[index] = value;
  } else {
    cuda::store_element(host_view(data), dtype, index, static_cast<float>(value));
  }
}

/// int8 a [m, ld] and b [n, ld] in rows, k of each counted: the form in which the module asks.
struct Int8Case {
  int m = 0, n = 0, k = 0, ld = 0, ldc = 0;
  std::vector<std::int8_t> a = {}, b = {};
  int a_at(int row, int column) const { return a[static_cast<std::size_t>(row * ld + column)]; }
  int b_at(int row, int column) const { return b[static_cast<std::size_t>(row * ld + column)]; }
  std::size_t c_index(int i, int j) const { return static_cast<std::size_t>(i + j * ldc); }
};

std::vector<std::int8_t> bytes_for(int rows, int ld, int value = 0) {
  return std::vector<std::int8_t>(static_cast<std::size_t>(rows * ld),
                                  static_cast<std::int8_t>(value));
}

class FakeBlasTest : public FakeDevice {
 protected:
  void SetUp() override {
    FakeDevice::SetUp();
    stream_ = stream();
    workspace_ = device(8192);
    ASSERT_EQ(cublasCreate_v2(&blas_), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasSetStream_v2(blas_, stream_), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasSetWorkspace_v2(blas_, workspace_, 8192), CUBLAS_STATUS_SUCCESS);
  }
  void TearDown() override {
    finish(stream_);
    EXPECT_EQ(cublasDestroy_v2(blas_), CUBLAS_STATUS_SUCCESS);
    destroy(stream_);
    release(workspace_);
    for (void* each : memory_) release(each);
    FakeDevice::TearDown();
  }
  /// What a product's factors are: of the type in which it sums up.
  struct Factors {
    float f32;
    double f64;
    const void* of(DType dtype) const {
      return dtype == DType::kF64 ? static_cast<const void*>(&f64) : &f32;
    }
  };
  float* floats(std::size_t count) {
    memory_.push_back(device<float>(count));
    return static_cast<float*>(memory_.back());
  }
  cublasStatus_t square(int size, const float* a, const float* b, float* c, int ld = 0) {
    const float one = 1;
    const float zero = 0;
    if (ld == 0) ld = size;
    return cublasGemmEx(blas_, CUBLAS_OP_N, CUBLAS_OP_N, size, size, size, &one, a, CUDA_R_32F, ld,
                        b, CUDA_R_32F, ld, &zero, c, CUDA_R_32F, ld, CUBLAS_COMPUTE_32F,
                        CUBLAS_GEMM_DEFAULT);
  }
  void check(const Case& t);
  /// c [n columns of ldc], int32; what lies between the columns is 0.
  std::vector<std::int32_t> multiply(const Int8Case& t);

  cudaStream_t stream_ = nullptr;
  cublasHandle_t blas_ = nullptr;
  std::byte* workspace_ = nullptr;
  std::vector<void*> memory_;
};

std::vector<std::int32_t> FakeBlasTest::multiply(const Int8Case& t) {
  auto* a = device(t.a.size());
  auto* b = device(t.b.size());
  std::vector<std::int32_t> result(static_cast<std::size_t>(t.ldc * t.n));
  auto* c = device<std::int32_t>(result.size());
  std::memcpy(host_view(a), t.a.data(), t.a.size());
  std::memcpy(host_view(b), t.b.data(), t.b.size());
  std::memset(host_view(c), 0, result.size() * sizeof(std::int32_t));
  const std::int32_t one = 1;
  const std::int32_t zero = 0;
  EXPECT_EQ(cublasGemmEx(blas_, CUBLAS_OP_T, CUBLAS_OP_N, t.m, t.n, t.k, &one, a, CUDA_R_8I, t.ld,
                         b, CUDA_R_8I, t.ld, &zero, c, CUDA_R_32I, t.ldc, CUBLAS_COMPUTE_32I,
                         CUBLAS_GEMM_DEFAULT),
            CUBLAS_STATUS_SUCCESS);
  finish(stream_);
  std::memcpy(result.data(), host_view(c), result.size() * sizeof(std::int32_t));
  for (void* each : {static_cast<void*>(a), static_cast<void*>(b), static_cast<void*>(c)}) {
    release(each);
  }
  return result;
}

/// Random numbers through the fake and through the definition.
void FakeBlasTest::check(const Case& t) {
  const bool ta = t.op_a != CUBLAS_OP_N;
  const bool tb = t.op_b != CUBLAS_OP_N;
  const int lda = (ta ? t.k : t.m) + t.lda_more;
  const int ldb = (tb ? t.n : t.k) + t.ldb_more;
  const int ldc = t.m + t.ldc_more;
  const long long c_step = static_cast<long long>(ldc) * t.n;
  const auto count = [&](int ld, int columns, long long step) {
    return static_cast<std::size_t>(ld * columns + step * (t.batch_count - 1));
  };
  const std::size_t a_count = count(lda, ta ? t.m : t.k, t.a_step);
  const std::size_t b_count = count(ldb, tb ? t.k : t.n, t.b_step);
  const std::size_t c_count = count(ldc, t.n, c_step);
  auto* a = device(a_count * dtype_bytes(t.ab));
  auto* b = device(b_count * dtype_bytes(t.ab));
  auto* c = device(c_count * dtype_bytes(t.c));
  std::mt19937 random(42);
  std::uniform_real_distribution<double> number(-1, 1);
  const auto at = [](std::size_t index) { return static_cast<std::int64_t>(index); };
  for (std::size_t i = 0; i < a_count; ++i) put_element(a, t.ab, at(i), number(random));
  for (std::size_t i = 0; i < b_count; ++i) put_element(b, t.ab, at(i), number(random));
  std::vector<double> before(c_count);
  for (std::size_t i = 0; i < c_count; ++i) {
    put_element(c, t.c, at(i), number(random));
    before[i] = get_element(c, t.c, at(i));
  }
  const Factors alpha{t.alpha, t.alpha};
  const Factors beta{t.beta, t.beta};
  ASSERT_EQ(
      cublasGemmStridedBatchedEx(
          blas_, t.op_a, t.op_b, t.m, t.n, t.k, alpha.of(t.c), a, type_of(t.ab), lda, t.a_step, b,
          type_of(t.ab), ldb, t.b_step, beta.of(t.c), c, type_of(t.c), ldc, c_step, t.batch_count,
          t.c == DType::kF64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      CUBLAS_STATUS_SUCCESS);
  finish(stream_);
  const double tolerance = tolerance_of(t.c);
  for (int batch = 0; batch < t.batch_count; ++batch) {
    for (int j = 0; j < t.n; ++j) {
      for (int i = 0; i < t.m; ++i) {
        double sum = 0;
        for (int l = 0; l < t.k; ++l) {
          sum += get_element(a, t.ab, batch * t.a_step + (ta ? l + i * lda : i + l * lda)) *
                 get_element(b, t.ab, batch * t.b_step + (tb ? j + l * ldb : l + j * ldb));
        }
        const auto index = static_cast<std::size_t>(batch * c_step + i + j * ldc);
        const double want = t.alpha * sum + (t.beta == 0 ? 0 : t.beta * before[index]);
        const double got = get_element(c, t.c, at(index));
        ASSERT_NEAR(got, want, tolerance * (std::abs(want) + 1)) << batch << ' ' << i << ' ' << j;
      }
      for (int i = t.m; i < ldc; ++i) {
        const auto index = static_cast<std::size_t>(batch * c_step + i + j * ldc);
        ASSERT_EQ(get_element(c, t.c, at(index)), before[index])
            << "between the columns nothing is touched";
      }
    }
  }
  for (void* each : {a, b, c}) release(each);
}

TEST_F(FakeBlasTest, multiplies_by_the_definition) {
  for (const auto op_a : {CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C}) {
    for (const auto op_b : {CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C}) {
      check({.op_a = op_a, .op_b = op_b, .m = 19, .n = 7, .k = 33});
      check({.op_a = op_a,
             .op_b = op_b,
             .m = 32,
             .n = 1,
             .k = 5,
             .lda_more = 3,
             .ldb_more = 2,
             .ldc_more = 4});
      check({.op_a = op_a, .op_b = op_b, .m = 1, .n = 8, .k = 64, .alpha = 0.5F, .beta = -2});
    }
  }
}

TEST_F(FakeBlasTest, takes_every_type) {
  for (const DType ab : {DType::kF32, DType::kF16, DType::kBF16}) {
    check({.op_a = CUBLAS_OP_T, .m = 40, .n = 9, .k = 20, .ab = ab, .c = ab});
    check({.op_a = CUBLAS_OP_T, .m = 40, .n = 9, .k = 20, .ab = ab, .c = DType::kF32});
  }
}

TEST_F(FakeBlasTest, sums_fp64_in_fp64) {
  constexpr DType kType = DType::kF64;
  ASSERT_EQ(cublasSetMathMode(blas_, CUBLAS_TF32_TENSOR_OP_MATH), CUBLAS_STATUS_SUCCESS);
  for (const auto op_a : {CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C}) {
    for (const auto op_b : {CUBLAS_OP_N, CUBLAS_OP_T, CUBLAS_OP_C}) {
      check({.op_a = op_a, .op_b = op_b, .m = 19, .n = 7, .k = 33, .ab = kType, .c = kType});
      check({.op_a = op_a,
             .op_b = op_b,
             .m = 6,
             .n = 5,
             .k = 9,
             .lda_more = 3,
             .ldb_more = 2,
             .ldc_more = 4,
             .alpha = 0.5F,
             .beta = -2,
             .ab = kType,
             .c = kType});
    }
  }
  check({.m = 5,
         .n = 6,
         .k = 7,
         .ab = kType,
         .c = kType,
         .a_step = 35,
         .b_step = 0,
         .batch_count = 4});
}

TEST_F(FakeBlasTest, sums_int8_mod_2_to_the_32) {
  for (const auto& [m, n, k, more] : {std::array{20, 7, 36, 0}, std::array{8, 5, 12, 4}}) {
    Int8Case t{.m = m, .n = n, .k = k, .ld = k + more, .ldc = m + more};
    std::mt19937 random(7);
    for (std::int8_t& each : t.a = bytes_for(m, t.ld)) each = static_cast<std::int8_t>(random());
    for (std::int8_t& each : t.b = bytes_for(n, t.ld)) each = static_cast<std::int8_t>(random());
    const std::vector<std::int32_t> got = multiply(t);
    for (int j = 0; j < n; ++j) {
      for (int i = 0; i < m; ++i) {
        std::int64_t sum = 0;
        for (int l = 0; l < k; ++l) sum += std::int64_t{t.a_at(i, l)} * t.b_at(j, l);
        ASSERT_EQ(got[t.c_index(i, j)], sum) << i << ' ' << j;
      }
    }
  }
}

TEST_F(FakeBlasTest, wraps_int32_sums_of_long_columns) {
  Int8Case t{.m = 4, .n = 1, .k = 1 << 18, .ld = 1 << 18, .ldc = 4};
  t.a = bytes_for(4, t.ld, -128);
  t.b = bytes_for(1, t.ld, -128);
  t.b.back() = 1;
  const std::int64_t exact = std::int64_t{128 * 128} * (t.k - 1) - 128;  // over 2^31
  ASSERT_GT(exact, std::numeric_limits<std::int32_t>::max());
  EXPECT_EQ(multiply(t)[0], static_cast<std::int32_t>(static_cast<std::uint32_t>(exact)));
}

TEST_F(FakeBlasTest, refuses_int8_that_its_documentation_refuses) {
  constexpr auto kNo = CUBLAS_STATUS_NOT_SUPPORTED;
  auto* memory = device(4096);
  memory_.push_back(memory);
  std::int32_t one = 1;
  const auto run = [&](int k, int lda, int ldb, int shift = 0, cudaDataType a = CUDA_R_8I,
                       cudaDataType b = CUDA_R_8I, cudaDataType c = CUDA_R_32I,
                       cublasComputeType_t compute = CUBLAS_COMPUTE_32I) {
    return cublasGemmEx(blas_, CUBLAS_OP_T, CUBLAS_OP_N, 4, 4, k, &one, memory + shift, a, lda,
                        memory + 1024, b, ldb, &one, memory + 2048, c, 4, compute,
                        CUBLAS_GEMM_DEFAULT);
  };
  EXPECT_EQ(run(16, 15, 16), CUBLAS_STATUS_INVALID_VALUE) << "lda";
  EXPECT_EQ(run(16, 18, 16), kNo) << "lda";
  EXPECT_EQ(run(16, 16, 17), kNo) << "ldb";
  EXPECT_EQ(run(14, 16, 16), kNo) << "k";
  EXPECT_EQ(run(16, 16, 16, 2), kNo) << "a";
  EXPECT_EQ(run(16, 16, 16, 0, CUDA_R_8U), kNo);
  EXPECT_EQ(run(16, 16, 16, 0, CUDA_R_8I, CUDA_R_32F), kNo);
  EXPECT_EQ(run(16, 16, 16, 0, CUDA_R_8I, CUDA_R_8I, CUDA_R_32F), kNo);
  EXPECT_EQ(run(16, 16, 16, 0, CUDA_R_8I, CUDA_R_8I, CUDA_R_8I), kNo);
  EXPECT_EQ(run(16, 16, 16, 0, CUDA_R_8I, CUDA_R_8I, CUDA_R_32I, CUBLAS_COMPUTE_32F), kNo);
  EXPECT_EQ(run(16, 16, 16, 0, CUDA_R_32F, CUDA_R_32F, CUDA_R_32F), kNo) << "fp32 in int32";
  one = 2;
  EXPECT_EQ(run(16, 16, 16), kNo) << "alpha";
  one = 1;
  EXPECT_THAT(take_misuses(), IsEmpty());
  EXPECT_EQ(counters().gemms, 0U);
  EXPECT_EQ(run(16, 16, 16, 4), CUBLAS_STATUS_SUCCESS);
  expect_misuse("of int8 in a form that no tensor core takes");
}

TEST_F(FakeBlasTest, multiplies_batches_with_steps_of_nothing) {
  check(
      {.op_b = CUBLAS_OP_T, .m = 5, .n = 6, .k = 7, .a_step = 35, .b_step = 42, .batch_count = 4});
  check({.m = 5, .n = 6, .k = 7, .a_step = 0, .b_step = 42, .batch_count = 4});
  check({.m = 5, .n = 6, .k = 7, .lda_more = 15, .a_step = 5, .b_step = 0, .batch_count = 4});
}

TEST_F(FakeBlasTest, rounds_to_tf32_only_where_asked) {
  auto* a = floats(1);
  auto* b = floats(1);
  auto* c = floats(1);
  const auto put = [](float* to, float value) { std::memcpy(host_view(to), &value, sizeof value); };
  const auto get = [](const float* from) {
    float value = 0;
    std::memcpy(&value, host_view(from), sizeof value);
    return value;
  };
  put(a, 1.0F + 0x1.8p-11F);
  put(b, 1);
  ASSERT_EQ(square(1, a, b, c), CUBLAS_STATUS_SUCCESS);
  finish(stream_);
  EXPECT_EQ(get(c), 1.0F + 0x1.8p-11F);
  ASSERT_EQ(cublasSetMathMode(blas_, CUBLAS_TF32_TENSOR_OP_MATH), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(square(1, a, b, c), CUBLAS_STATUS_SUCCESS);
  finish(stream_);
  EXPECT_EQ(get(c), 1.0F + 0x1p-10F) << "to nearest";
  const auto seen = gemm_calls();
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_EQ(seen[1].math_mode, CUBLAS_TF32_TENSOR_OP_MATH);
  EXPECT_TRUE(seen[1].f32_operands);
}

TEST_F(FakeBlasTest, refuses_what_its_documentation_refuses) {
  const float one = 1;
  const auto run = [&](int m, int n, int k, int lda, int ldb, int ldc, cudaDataType ab,
                       cudaDataType c, cublasComputeType_t compute = CUBLAS_COMPUTE_32F) {
    auto* memory = memory_.empty() ? floats(64) : static_cast<float*>(memory_[0]);
    return cublasGemmEx(blas_, CUBLAS_OP_T, CUBLAS_OP_N, m, n, k, &one, memory, ab, lda, memory, ab,
                        ldb, &one, memory, c, ldc, compute, CUBLAS_GEMM_DEFAULT);
  };
  EXPECT_EQ(run(4, 2, 3, 2, 3, 4, CUDA_R_32F, CUDA_R_32F), CUBLAS_STATUS_INVALID_VALUE) << "lda";
  EXPECT_EQ(run(4, 2, 3, 3, 2, 4, CUDA_R_32F, CUDA_R_32F), CUBLAS_STATUS_INVALID_VALUE) << "ldb";
  EXPECT_EQ(run(4, 2, 3, 3, 3, 3, CUDA_R_32F, CUDA_R_32F), CUBLAS_STATUS_INVALID_VALUE) << "ldc";
  EXPECT_EQ(run(-1, 2, 3, 3, 3, 4, CUDA_R_32F, CUDA_R_32F), CUBLAS_STATUS_INVALID_VALUE) << "m";
  EXPECT_EQ(run(4, 2, 3, 3, 3, 4, CUDA_R_32F, CUDA_R_16F), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(run(4, 2, 3, 3, 3, 4, CUDA_R_64F, CUDA_R_64F), CUBLAS_STATUS_NOT_SUPPORTED)
      << "fp64 summed in fp32";
  EXPECT_EQ(run(4, 2, 3, 3, 3, 4, CUDA_R_64F, CUDA_R_32F), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(run(4, 2, 3, 3, 3, 4, CUDA_R_64F, CUDA_R_32F, CUBLAS_COMPUTE_64F),
            CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(run(4, 2, 3, 3, 3, 4, CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_64F),
            CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(run(4, 2, 3, 3, 3, 4, CUDA_R_32F, CUDA_R_64F, CUBLAS_COMPUTE_64F),
            CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_THAT(take_misuses(), IsEmpty());
  EXPECT_EQ(run(0, 2, 3, 3, 3, 4, CUDA_R_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  expect_misuse("of nothing: 0 x 2 x 3");
  EXPECT_EQ(counters().gemms, 0U);
}

TEST_F(FakeBlasTest, reports_a_handle_without_a_workspace) {
  auto* m = floats(4);
  ASSERT_EQ(cublasSetStream_v2(blas_, stream_), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(square(1, m, m + 1, m + 2), CUBLAS_STATUS_SUCCESS);
  expect_misuse("with no workspace set since the last cublasSetStream");
  EXPECT_EQ(cublasSetWorkspace_v2(blas_, workspace_ + 8, 64), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(cublasSetWorkspace_v2(blas_, workspace_, 9000), CUBLAS_STATUS_SUCCESS);
  expect_misuse("device memory that ends before");
}

TEST_F(FakeBlasTest, uses_its_workspace) {
  auto* m = floats(4);
  std::memset(host_view(workspace_), 0, 64);
  ASSERT_EQ(square(1, m, m + 1, m + 2), CUBLAS_STATUS_SUCCESS);
  finish(stream_);
  EXPECT_EQ(std::to_integer<int>(*host_view(workspace_)), 0xff);
  auto other = stream();
  ASSERT_EQ(square(1, m, m + 1, m + 2), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cudaMemcpyAsync(m, workspace_, 4, cudaMemcpyDeviceToDevice, other), cudaSuccess);
  expect_misuse("nothing orders them");
  finish(stream_);
  finish(other);
  destroy(other);
}

TEST_F(FakeBlasTest, reports_handles_that_are_shared_or_gone) {
  auto* m = floats(8);
  auto other = stream();
  ASSERT_EQ(square(1, m, m + 1, m + 2), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasSetStream_v2(blas_, other), CUBLAS_STATUS_SUCCESS);
  expect_misuse("to another stream while the handle has work queued");
  finish(stream_);
  ASSERT_EQ(cublasSetStream_v2(blas_, stream_), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasSetWorkspace_v2(blas_, workspace_, 8192), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(square(1, m, m + 1, m + 2), CUBLAS_STATUS_SUCCESS);
  finish(stream_);
  std::thread([&] {
    EXPECT_EQ(square(1, m + 4, m + 5, m + 6), CUBLAS_STATUS_SUCCESS);
    EXPECT_THAT(take_misuses(),
                ElementsAre(testing::HasSubstr("with a cuBLAS handle that another thread uses"),
                            testing::HasSubstr("on a stream that another thread uses")));
  }).join();
  EXPECT_THAT(leaks(), testing::Contains("a cuBLAS handle was not destroyed"));
  cublasHandle_t gone = nullptr;
  ASSERT_EQ(cublasCreate_v2(&gone), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(cublasDestroy_v2(gone), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasSetMathMode(gone, CUBLAS_DEFAULT_MATH), CUBLAS_STATUS_NOT_INITIALIZED);
  expect_misuse("of a cuBLAS handle that was destroyed or never was");
  destroy(other);
}

TEST_F(FakeBlasTest, reports_matrices_that_are_not_there) {
  auto* m = floats(16);
  EXPECT_EQ(square(3, m, m, m, 4), CUBLAS_STATUS_SUCCESS) << "11 elements each";
  finish(stream_);
  EXPECT_THAT(take_misuses(), IsEmpty());
  EXPECT_EQ(square(3, m, m + 8, m, 4), CUBLAS_STATUS_SUCCESS);
  finish(stream_);
  expect_misuse("cublasGemmEx reads 44 bytes");
  std::vector<float> host(16);
  EXPECT_EQ(square(3, m, m, host.data(), 4), CUBLAS_STATUS_SUCCESS);
  finish(stream_);
  expect_misuse("host memory");
}

TEST_F(FakeBlasTest, reports_results_that_overlap) {
  auto* m = floats(64);
  const float one = 1;
  const float zero = 0;
  const auto run = [&](long long c_step, int ldc) {
    return cublasGemmStridedBatchedEx(blas_, CUBLAS_OP_N, CUBLAS_OP_N, 2, 3, 1, &one, m, CUDA_R_32F,
                                      2, 0, m + 8, CUDA_R_32F, 1, 0, &zero, m + 16, CUDA_R_32F, ldc,
                                      c_step, 3, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  };
  EXPECT_EQ(run(2, 6), CUBLAS_STATUS_SUCCESS) << "side by side";
  EXPECT_EQ(run(6, 2), CUBLAS_STATUS_SUCCESS) << "one after the other";
  EXPECT_THAT(take_misuses(), IsEmpty());
  EXPECT_EQ(run(2, 5), CUBLAS_STATUS_SUCCESS);
  expect_misuse("with results that overlap");
  EXPECT_EQ(run(0, 6), CUBLAS_STATUS_SUCCESS);
  expect_misuse("with results that overlap");
}

TEST_F(FakeBlasTest, makes_its_own_status_of_a_failure) {
  auto* m = floats(4);
  fail_function("cublasGemmEx", 1, cudaErrorMemoryAllocation);
  fail_function("cublasGemmEx", 2, cudaErrorUnknown);
  EXPECT_EQ(square(1, m, m + 1, m + 2), CUBLAS_STATUS_ALLOC_FAILED);
  EXPECT_EQ(square(1, m, m + 1, m + 2), CUBLAS_STATUS_INTERNAL_ERROR);
  EXPECT_EQ(counters().gemms, 0U);
  EXPECT_STREQ(cublasGetStatusName(CUBLAS_STATUS_ALLOC_FAILED), "CUBLAS_STATUS_ALLOC_FAILED");
  int version = 0;
  EXPECT_EQ(cublasGetVersion_v2(blas_, &version), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(version, CUBLAS_VERSION);
}

TEST(FakeBlasLost, fails_every_product) {
  reset();
  cublasHandle_t blas = nullptr;
  ASSERT_EQ(cublasCreate_v2(&blas), CUBLAS_STATUS_SUCCESS);
  fail_function("cublasSetMathMode", 1, cudaErrorECCUncorrectable);
  EXPECT_EQ(cublasSetMathMode(blas, CUBLAS_DEFAULT_MATH), CUBLAS_STATUS_EXECUTION_FAILED);
  EXPECT_THAT(take_misuses(), IsEmpty());
  EXPECT_EQ(cublasSetMathMode(blas, CUBLAS_DEFAULT_MATH), CUBLAS_STATUS_EXECUTION_FAILED);
  EXPECT_THAT(reset(), ElementsAre(testing::HasSubstr("cublasSetMathMode after this thread")));
}

}  // namespace
}  // namespace airlock::cuda_fake
