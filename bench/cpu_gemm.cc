// GF/s of the offloaded ops with the shapes of LLaMA-3.2-1B, through Backend as a session uses it.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/thread_pool.h"
#include "bench/llama_1b.h"
#include "proto/op.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"

namespace airlock {
namespace {

/// Median and best of several runs, after one that makes the product and touches the memory.
void measure(Backend& backend, const std::string& name, const OpSpec& spec, double flops) {
  std::vector<double> seconds;
  for (int round = 0; round < 8; ++round) {
    auto pending = backend.prepare(spec, Deadline::after(std::chrono::minutes(5)));
    CHECK(pending.ok());
    for (std::size_t i = 0; i < spec.inputs.size(); ++i)
      std::ranges::fill((*pending)->input(i).bytes(), std::byte{0x3c});
    const std::uint64_t start = now_ns();
    CHECK((*pending)->submit().ok() && (*pending)->wait().ok());
    if (round > 0) seconds.push_back(static_cast<double>(now_ns() - start) * 1e-9);
  }
  std::ranges::sort(seconds);
  const double median = seconds[seconds.size() / 2];
  fmt::print("{:<20} median {:>9.3f} ms {:>7.1f} GF/s   best {:>9.3f} ms {:>7.1f} GF/s\n", name,
             median * 1e3, flops / median * 1e-9, seconds[0] * 1e3, flops / seconds[0] * 1e-9);
}

struct LinearCase {
  const char* name;
  std::vector<WeightId> weights;
};

void measure_all(Backend& backend, DType wire) {
  const ModelDims& dims = backend.info().dims;
  const std::vector<LinearCase> cases{
      {"qkv", {{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}}},
      {"o", {{WeightKind::kO, 0}}},
      {"gate_up", {{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}},
      {"down", {{WeightKind::kDown, 0}}}};
  for (const std::int64_t tokens : {1, 128, 1024}) {
    for (const LinearCase& linear : cases) {
      double flops = 0;
      for (const WeightId& id : linear.weights) {
        const Shape shape = weight_shape(dims, id.kind);
        flops += 2.0 * static_cast<double>(tokens * shape[0] * shape[1]);
      }
      const std::int64_t columns = weight_shape(dims, linear.weights[0].kind)[1];
      measure(backend, fmt::format("{} {} tokens", linear.name, tokens),
              linear_spec(linear.weights, {wire, Shape{tokens, columns}}, wire), flops);
    }
  }
  for (const std::int64_t tokens : {128, 1024}) {
    const double flops = 2.0 * static_cast<double>(dims.heads * tokens * tokens * dims.head_dim);
    const TensorDesc q{wire, Shape{dims.heads, tokens, dims.head_dim}};
    const TensorDesc kv{wire, Shape{dims.kv_heads, tokens, dims.head_dim}};
    const TensorDesc p{wire, Shape{dims.heads, tokens, tokens}};
    measure(backend, fmt::format("QK^T {} tokens", tokens), matmul_spec(q, kv, Transpose::kB, wire),
            flops);
    measure(backend, fmt::format("PV {} tokens", tokens),
            matmul_spec(p, kv, Transpose::kNone, wire), flops);
  }
  for (const std::int64_t rows : {1, 128}) {
    measure(backend, fmt::format("lm_head {} rows", rows),
            lm_head_spec({wire, Shape{rows, dims.hidden}}),
            2.0 * static_cast<double>(rows * dims.hidden * dims.vocab));
  }
}

}  // namespace
}  // namespace airlock

/// cpu_gemm [threads]
int main(int argc, char** argv) {
  using airlock::DType;
  const std::size_t threads =
      argc > 1 ? static_cast<std::size_t>(std::max(1, std::atoi(argv[1]))) : 1;
  for (const char* name : {"ONEDNN_MAX_CPU_ISA", "ONEDNN_VERBOSE"}) {
    if (const char* value = std::getenv(name)) fmt::print("{}={}\n", name, value);
  }
  const airlock::bench::Llama1B source(1);
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16}) {
    const std::uint64_t start = airlock::now_ns();
    auto model =
        airlock::CpuModel::create(source, {.dtype = dtype, .threads = threads, .progress = {}});
    CHECK(model.ok());
    fmt::print("\n{} weights and wire, {} threads; loaded in {:.2f} s\n", airlock::name_of(dtype),
               threads, static_cast<double>(airlock::now_ns() - start) * 1e-9);
    airlock::LocalBackend backend(model.value()->make_compute());
    airlock::measure_all(backend, dtype);
  }
  return 0;
}
