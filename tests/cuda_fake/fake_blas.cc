/// cuBLAS: handles and the two products, column-major, to the letter of its documentation.
#include <cublas_v2.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "tests/cuda_fake/fake_gemm.h"
#include "tests/cuda_fake/fake_state.h"

namespace airlock::cuda_fake {

namespace {

constexpr std::uintptr_t kBlasTag = 0x0dec'b000'0000'0000;
constexpr std::uintptr_t kStep = 64;
constexpr std::size_t kMaxGemms = 1000;
constexpr std::size_t kScribble = 4096;

cublasStatus_t status_of(cudaError_t error) {
  if (error == cudaSuccess) return CUBLAS_STATUS_SUCCESS;
  if (error == cudaErrorMemoryAllocation) return CUBLAS_STATUS_ALLOC_FAILED;
  return loses_device(error) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_INTERNAL_ERROR;
}

/// As call(), for a body that returns a cublasStatus_t.
template <typename Body>
cublasStatus_t blas_call(const char* function, const Body& body,
                         CallKind kind = CallKind::kOrdinary) {
  State& s = state();
  Lock lock(s.mutex);
  const Entered entered = s.enter(function, kind);
  if (s.lost(s.current_device()) != cudaSuccess && !entered.injected)
    return CUBLAS_STATUS_EXECUTION_FAILED;
  if (entered.error != cudaSuccess) {
    if (entered.injected && kind == CallKind::kRelease) static_cast<void>(body(s, lock));
    return status_of(entered.error);
  }
  const cublasStatus_t status = body(s, lock);
  return s.leave(cudaSuccess, kind) == cudaSuccess ? status : CUBLAS_STATUS_EXECUTION_FAILED;
}

BlasHandle* find_handle(State& s, cublasHandle_t handle, const char* function) {
  const auto found = s.blas.find(reinterpret_cast<std::uintptr_t>(handle));
  if (found != s.blas.end()) return &found->second;
  s.misuse(fmt::format("{} of a cuBLAS handle that was destroyed or never was", function));
  return nullptr;
}

bool has_work(const State& s, const BlasHandle& handle) {
  const Work* work = s.schedule.unproven_in(handle.stream);
  return work != nullptr && handle.last_position >= work->position;
}

/// The calls' arguments; the plain one is a batch of one.
struct Request {
  const char* function = "";
  cublasOperation_t op_a = CUBLAS_OP_N;
  cublasOperation_t op_b = CUBLAS_OP_N;
  int m = 0;
  int n = 0;
  int k = 0;
  const void* alpha = nullptr;  // of the type in which sums are
  const void* beta = nullptr;
  std::uintptr_t a = 0;
  std::uintptr_t b = 0;
  std::uintptr_t c = 0;
  cudaDataType a_type = CUDA_R_32F;
  cudaDataType b_type = CUDA_R_32F;
  cudaDataType c_type = CUDA_R_32F;
  int lda = 0;
  int ldb = 0;
  int ldc = 0;
  long long a_step = 0;
  long long b_step = 0;
  long long c_step = 0;
  int batch_count = 1;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cublasGemmAlgo_t algorithm = CUBLAS_GEMM_DEFAULT;
};

std::optional<DType> dtype_of(cudaDataType type) {
  switch (type) {
    case CUDA_R_32F:
      return DType::kF32;
    case CUDA_R_16F:
      return DType::kF16;
    case CUDA_R_16BF:
      return DType::kBF16;
    case CUDA_R_64F:
      return DType::kF64;
    case CUDA_R_8I:
      return DType::kU8;  // as wide
    case CUDA_R_32I:
      return DType::kI32;
    default:
      return std::nullopt;
  }
}

bool sums_in_fp64(const Request& r) {
  return r.compute == CUBLAS_COMPUTE_64F || r.compute == CUBLAS_COMPUTE_64F_PEDANTIC;
}

bool sums_in_int32(const Request& r) {
  return r.compute == CUBLAS_COMPUTE_32I || r.compute == CUBLAS_COMPUTE_32I_PEDANTIC;
}

double factor(const Request& r, const void* value) {
  if (sums_in_int32(r)) return *static_cast<const std::int32_t*>(value);
  return sums_in_fp64(r) ? *static_cast<const double*>(value)
                         : static_cast<double>(*static_cast<const float*>(value));
}

bool is_op(cublasOperation_t op) {
  return op == CUBLAS_OP_N || op == CUBLAS_OP_T || op == CUBLAS_OP_C;
}

/// https://docs.nvidia.com/cuda/cublas/, cublasGemmEx: sums in int32 are of int8 alone, with alpha
/// and beta 0 or 1, A and B aligned to 4 bytes, lda and ldb multiples of 4. k too, or a column's
/// last word has what is not its own.
bool takes_int8(const Request& r) {
  const bool types = r.a_type == CUDA_R_8I && r.b_type == CUDA_R_8I && r.c_type == CUDA_R_32I;
  if (!types || !sums_in_int32(r)) return false;
  const auto is_bit = [&](const void* value) {
    return factor(r, value) == 0 || factor(r, value) == 1;
  };
  return is_bit(r.alpha) && is_bit(r.beta) && r.k % 4 == 0 && r.lda % 4 == 0 && r.ldb % 4 == 0 &&
         r.a % 4 == 0 && r.b % 4 == 0;
}

bool is_integer(cudaDataType type) { return type == CUDA_R_8I || type == CUDA_R_32I; }

cublasStatus_t check(const Request& r) {
  if (r.m < 0 || r.n < 0 || r.k < 0 || r.batch_count < 0) return CUBLAS_STATUS_INVALID_VALUE;
  if (!is_op(r.op_a) || !is_op(r.op_b)) return CUBLAS_STATUS_INVALID_VALUE;
  if (r.lda < std::max(1, r.op_a == CUBLAS_OP_N ? r.m : r.k)) return CUBLAS_STATUS_INVALID_VALUE;
  if (r.ldb < std::max(1, r.op_b == CUBLAS_OP_N ? r.k : r.n)) return CUBLAS_STATUS_INVALID_VALUE;
  if (r.ldc < std::max(1, r.m)) return CUBLAS_STATUS_INVALID_VALUE;
  if (r.alpha == nullptr || r.beta == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (r.algorithm != CUBLAS_GEMM_DEFAULT) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (is_integer(r.a_type) || is_integer(r.b_type) || is_integer(r.c_type) || sums_in_int32(r))
    return takes_int8(r) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
  const bool is_f64 = r.a_type == CUDA_R_64F;
  const bool known = dtype_of(r.a_type) && r.a_type == r.b_type && dtype_of(r.c_type) &&
                     (r.c_type == r.a_type || (r.c_type == CUDA_R_32F && !is_f64));
  if (!known) return CUBLAS_STATUS_NOT_SUPPORTED;
  // fp64 is summed in fp64, and nothing else is.
  const bool sums_in_fp32 = r.compute == CUBLAS_COMPUTE_32F ||
                            r.compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                            r.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  return (is_f64 ? sums_in_fp64(r) : sums_in_fp32) ? CUBLAS_STATUS_SUCCESS
                                                   : CUBLAS_STATUS_NOT_SUPPORTED;
}

/// From the first byte of a batch of column-major matrices to the last.
Access batch_access(std::uintptr_t base, DType dtype, int rows, int columns, int ld, long long step,
                    int batch_count, bool write) {
  const auto unit = static_cast<long long>(dtype_bytes(dtype));
  const long long one = (static_cast<long long>(columns) - 1) * ld + rows;
  const long long reach = step * (batch_count - 1);
  Access made;
  made.address = base + static_cast<std::uintptr_t>(std::min(reach, 0LL) * unit);
  made.bytes = static_cast<std::size_t>((one + std::abs(reach)) * unit);
  made.write = write;
  return made;
}

/// Whether two results of the batch share an element.
bool results_overlap(const Request& r) {
  const long long step = std::abs(r.c_step);
  const long long extent = (static_cast<long long>(r.n) - 1) * r.ldc + r.m;
  for (long long i = 1; i < r.batch_count && i * step < extent; ++i) {
    const long long row = i * step % r.ldc;
    const long long column = i * step / r.ldc;
    if (row < r.m && column < r.n) return true;
    if (row > r.ldc - r.m && column + 1 < r.n) return true;
  }
  return false;
}

/// What is legal to ask for, and surely not meant.
void report(State& s, const Request& r, const BlasHandle& handle) {
  const auto say = [&](const char* what) { s.misuse(fmt::format("{} {}", r.function, what)); };
  if (handle.workspace.bytes == 0) {
    say("with no workspace set since the last cublasSetStream");
  }
  if (r.batch_count > 1 && results_overlap(r)) say("with results that overlap");
  const std::size_t ab_bytes = dtype_bytes(*dtype_of(r.a_type));
  const std::size_t c_bytes = dtype_bytes(*dtype_of(r.c_type));
  if (r.a % ab_bytes != 0 || r.b % ab_bytes != 0 || r.c % c_bytes != 0) {
    say("of a matrix that is not aligned to its elements");
  }
  // Right in any other form, without tensor cores.
  const bool fast = r.op_a == CUBLAS_OP_T && r.op_b == CUBLAS_OP_N && r.m % 4 == 0 &&
                    r.ldc % 4 == 0 && r.a % 16 == 0 && r.b % 16 == 0 && r.c % 16 == 0;
  if (sums_in_int32(r) && !fast) say("of int8 in a form that no tensor core takes");
}

Product product_of(const Request& r, cublasMath_t math) {
  Product p;
  p.m = r.m;
  p.n = r.n;
  p.k = r.k;
  p.alpha = factor(r, r.alpha);
  p.beta = factor(r, r.beta);
  p.a = {nullptr, *dtype_of(r.a_type), r.lda, r.op_a != CUBLAS_OP_N};
  p.b = {nullptr, *dtype_of(r.b_type), r.ldb, r.op_b != CUBLAS_OP_N};
  p.c_dtype = *dtype_of(r.c_type);
  p.ldc = r.ldc;
  p.tf32 = (math & 0xf) == CUBLAS_TF32_TENSOR_OP_MATH || r.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
  return p;
}

/// Calls `each` with the byte offsets of A, B and C of every product of the batch. Offsets count
/// from where the access begins, which for negative steps is the last matrix.
template <typename Each>
void for_each_product(const Request& r, const Each& each) {
  const auto offset = [&](long long step, cudaDataType type, int i) {
    const long long first = step < 0 ? -step * (r.batch_count - 1) : 0;
    return static_cast<std::ptrdiff_t>((first + step * i) *
                                       static_cast<long long>(dtype_bytes(*dtype_of(type))));
  };
  for (int i = 0; i < r.batch_count; ++i) {
    each(offset(r.a_step, r.a_type, i), offset(r.b_step, r.b_type, i),
         offset(r.c_step, r.c_type, i));
  }
}

/// accesses: C, then the workspace if there is one, then A and B if they are read.
Work work_of(const Request& r, const BlasHandle& handle, bool saturate_int8) {
  Product product = product_of(r, handle.math);
  product.saturate = saturate_int8;
  const bool reads = product.alpha != 0 && product.k > 0;
  Work work;
  work.function = r.function;
  work.accesses = {
      batch_access(r.c, product.c_dtype, r.m, r.n, r.ldc, r.c_step, r.batch_count, true)};
  if (handle.workspace.bytes != 0) work.accesses.push_back(handle.workspace);
  const std::size_t first_read = work.accesses.size();
  if (reads) {
    const bool ta = product.a.transposed;
    const bool tb = product.b.transposed;
    work.accesses.push_back(batch_access(r.a, product.a.dtype, ta ? r.k : r.m, ta ? r.m : r.k,
                                         r.lda, r.a_step, r.batch_count, false));
    work.accesses.push_back(batch_access(r.b, product.b.dtype, tb ? r.n : r.k, tb ? r.k : r.n,
                                         r.ldb, r.b_step, r.batch_count, false));
  }
  if (product.beta == 0) {
    work.spoil = [r, product](std::span<const Resolved> at) -> std::string {
      const std::size_t unit = dtype_bytes(product.c_dtype);
      for_each_product(r, [&](std::ptrdiff_t, std::ptrdiff_t, std::ptrdiff_t c) {
        fill({at[0].data + c, static_cast<std::size_t>(r.m) * unit,
              static_cast<std::size_t>(r.ldc) * unit, static_cast<std::size_t>(r.n)});
      });
      return "";
    };
  }
  work.run = [r, product, reads, first_read](std::span<const Resolved> at) -> std::string {
    if (first_read == 2) {
      std::memset(at[1].data, kFill, std::min(at[1].available, kScribble));  // used and left so
    }
    for_each_product(r, [&](std::ptrdiff_t a, std::ptrdiff_t b, std::ptrdiff_t c) {
      Product one = product;
      one.a.data = reads ? at[first_read].data + a : nullptr;
      one.b.data = reads ? at[first_read + 1].data + b : nullptr;
      one.c = at[0].data + c;
      multiply(one);
    });
    return "";
  };
  return work;
}

cublasStatus_t queue_product(State& s, Lock& lock, cublasHandle_t handle, const Request& r) {
  BlasHandle* found = find_handle(s, handle, r.function);
  if (found == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
  const std::uint64_t thread = thread_number();
  if (found->thread == 0) found->thread = thread;
  if (found->thread != thread) {
    s.misuse(fmt::format("{} with a cuBLAS handle that another thread uses", r.function));
  }
  if (const cublasStatus_t wrong = check(r); wrong != CUBLAS_STATUS_SUCCESS) return wrong;
  if (r.m == 0 || r.n == 0 || r.k == 0 || r.batch_count == 0) {
    s.misuse(fmt::format("{} of nothing: {} x {} x {}, {} times", r.function, r.m, r.n, r.k,
                         r.batch_count));
    if (r.m == 0 || r.n == 0 || r.batch_count == 0) return CUBLAS_STATUS_SUCCESS;
  }
  Stream* stream = found->stream == 0 ? nullptr : s.schedule.find_stream(found->stream);
  if (stream == nullptr) {
    s.misuse(fmt::format("{} on the default stream, or one that was destroyed", r.function));
    return CUBLAS_STATUS_EXECUTION_FAILED;
  }
  if (found->device != s.current_device() || stream->device != found->device) {
    s.misuse(fmt::format("{} with a handle or stream of another device", r.function));
    return CUBLAS_STATUS_EXECUTION_FAILED;
  }
  report(s, r, *found);
  ++s.counters.gemms;
  s.gemms.push_back({r.op_a != CUBLAS_OP_N, r.op_b != CUBLAS_OP_N, r.m, r.n, r.k, r.batch_count,
                     r.compute, found->math, r.a_type == CUDA_R_32F});
  if (s.gemms.size() > kMaxGemms) s.gemms.pop_front();
  found->last_position =
      s.schedule.queue(*stream, work_of(r, *found, s.options.saturate_int8), lock);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

}  // namespace airlock::cuda_fake

using namespace airlock::cuda_fake;  // NOLINT: the functions below are C's

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  return blas_call("cublasCreate", [&](State& s, Lock&) {
    static std::uintptr_t last = kBlasTag;  // under State::mutex, beyond reset()
    if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    last += kStep;
    s.blas[last].device = s.current_device();
    *handle = reinterpret_cast<cublasHandle_t>(last);
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  return blas_call(
      "cublasDestroy",
      [&](State& s, Lock&) {
        const BlasHandle* found = find_handle(s, handle, "cublasDestroy");
        if (found == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
        if (has_work(s, *found) && !s.is_dead(found->device)) {
          s.misuse("cublasDestroy while the handle's work may not have run yet");
        }
        s.blas.erase(reinterpret_cast<std::uintptr_t>(handle));
        return CUBLAS_STATUS_SUCCESS;
      },
      CallKind::kRelease);
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
  return blas_call("cublasSetStream", [&](State& s, Lock&) {
    BlasHandle* found = find_handle(s, handle, "cublasSetStream");
    if (found == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const Stream* wanted = s.schedule.find_stream(stream, "cublasSetStream");
    if (wanted == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (wanted->id != found->stream && has_work(s, *found)) {
      s.misuse("cublasSetStream to another stream while the handle has work queued");
    }
    found->stream = wanted->id;
    found->thread = 0;  // handed on: its next user's
    found->workspace = {};
    found->last_position = 0;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void* workspace, size_t bytes) {
  return blas_call("cublasSetWorkspace", [&](State& s, Lock&) {
    BlasHandle* found = find_handle(s, handle, "cublasSetWorkspace");
    if (found == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    const auto address = reinterpret_cast<std::uintptr_t>(workspace);
    if (address % 256 != 0 || (address == 0 && bytes != 0)) return CUBLAS_STATUS_INVALID_VALUE;
    Access wanted;
    wanted.address = address;
    wanted.bytes = bytes;
    wanted.write = true;
    wanted.scratch = true;
    Resolved at;
    const std::string wrong = bytes == 0 ? "nothing" : s.memory.resolve(wanted, found->device, at);
    if (!wrong.empty()) {
      s.misuse(fmt::format("cublasSetWorkspace to {} bytes at {:#x}: {}", bytes, address, wrong));
    }
    found->workspace = wanted;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  return blas_call("cublasSetMathMode", [&](State& s, Lock&) {
    BlasHandle* found = find_handle(s, handle, "cublasSetMathMode");
    if (found == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    found->math = mode;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t handle, int* version) {
  return blas_call("cublasGetVersion", [&](State& s, Lock&) {
    if (find_handle(s, handle, "cublasGetVersion") == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (version == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void* alpha, const void* a,
                            cudaDataType a_type, int lda, const void* b, cudaDataType b_type,
                            int ldb, const void* beta, void* c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  return blas_call("cublasGemmEx", [&](State& s, Lock& lock) {
    Request r;
    r.function = "cublasGemmEx";
    r.op_a = op_a, r.op_b = op_b;
    r.m = m, r.n = n, r.k = k;
    r.alpha = alpha, r.beta = beta;
    r.a = reinterpret_cast<std::uintptr_t>(a), r.a_type = a_type, r.lda = lda;
    r.b = reinterpret_cast<std::uintptr_t>(b), r.b_type = b_type, r.ldb = ldb;
    r.c = reinterpret_cast<std::uintptr_t>(c), r.c_type = c_type, r.ldc = ldc;
    r.compute = compute, r.algorithm = algorithm;
    return queue_product(s, lock, handle, r);
  });
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType a_type,
                                          int lda, long long a_step, const void* b,
                                          cudaDataType b_type, int ldb, long long b_step,
                                          const void* beta, void* c, cudaDataType c_type, int ldc,
                                          long long c_step, int batch_count,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  return blas_call("cublasGemmStridedBatchedEx", [&](State& s, Lock& lock) {
    Request r;
    r.function = "cublasGemmStridedBatchedEx";
    r.op_a = op_a, r.op_b = op_b;
    r.m = m, r.n = n, r.k = k;
    r.alpha = alpha, r.beta = beta;
    r.a = reinterpret_cast<std::uintptr_t>(a), r.a_type = a_type, r.lda = lda;
    r.b = reinterpret_cast<std::uintptr_t>(b), r.b_type = b_type, r.ldb = ldb;
    r.c = reinterpret_cast<std::uintptr_t>(c), r.c_type = c_type, r.ldc = ldc;
    r.a_step = a_step, r.b_step = b_step, r.c_step = c_step;
    r.batch_count = batch_count;
    r.compute = compute, r.algorithm = algorithm;
    return queue_product(s, lock, handle, r);
  });
}

}  // extern "C"
