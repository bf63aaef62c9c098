// The trusted side's own time a token, LLaMA-3.2-1B's shape with a context behind it: the kernels
// that the driver books in a pass of one row, and the greedy choice among its logits, against
// reading as many bytes as they move, once, with the same threads. Passes and reads take turns; the
// products between the kernels read 2.5 GB of weights, so that no cache holds keys and values.
//   tee_step [THREADS [ROUNDS [POSITIONS]]]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <vector>

#include "base/deadline.h"
#include "bench/local_llama.h"
#include "bench/numbers.h"
#include "bench/read_memory.h"
#include "bench/record.h"
#include "tee_runner/generate/sampler.h"

namespace airlock {
namespace {

constexpr std::size_t kReadMemory = std::size_t{1} << 30;  // more than caches hold
constexpr std::size_t kWireBytes = 2;                      // bf16
constexpr std::size_t kFloatBytes = 4;

/// What the kernels move for one token, by kernel; each operand once.
using Bytes = PerValue<TeeKernel, std::size_t>;

Bytes moved_bytes(std::size_t positions, DType cache) {
  const ModelDims& dims = bench::kLlama1B;
  const auto hidden = static_cast<std::size_t>(dims.hidden);
  const auto inner = static_cast<std::size_t>(dims.intermediate);
  const auto kv = static_cast<std::size_t>(dims.kv_heads * dims.head_dim);
  const auto queries = static_cast<std::size_t>(dims.heads * dims.head_dim);
  const auto layers = static_cast<std::size_t>(dims.layers);
  Bytes bytes;
  // Keys and values of all positions; q, k and v in, what o_proj takes out.
  bytes[TeeKernel::kAttention] = layers * (2 * kv * (positions + 1) * dtype_bytes(cache) +
                                           (2 * kv + 2 * queries) * kWireBytes);
  // Hidden states and weights in, rounded rows out; twice a layer and once at the end.
  bytes[TeeKernel::kRmsNorm] = (2 * layers + 1) * hidden * (2 * kFloatBytes + kWireBytes);
  // Gate and up in, down's input out.
  bytes[TeeKernel::kSilu] = layers * 3 * inner * kWireBytes;
  // A product's result in, hidden states in and out; twice a layer.
  bytes[TeeKernel::kResidual] = 2 * layers * hidden * (kWireBytes + 2 * kFloatBytes);
  return bytes;
}

/// Of each round, in ms.
struct Times {
  PerValue<TeeKernel, std::vector<double>> kernels;
  std::vector<double> sampling;
  std::vector<double> all;
  std::vector<double> read;
  std::vector<double> ratio;
};

double ms_since(std::uint64_t start_ns) { return static_cast<double>(now_ns() - start_ns) * 1e-6; }

/// Passes and reads in turns; the first of each is not counted.
Times measure(bench::LocalLlama& llama, bench::Memory& memory, DType cache_type,
              std::size_t positions, std::size_t rounds, std::size_t bytes) {
  LlamaDriver& driver = llama.driver();
  const auto blocks =
      CacheMemory::create(bench::kLlama1B, cache_type, std::uint64_t{1} << 30).value();
  SequenceCache cache(blocks);
  const auto behind = static_cast<std::int64_t>(positions);
  CHECK(cache.promise(behind + 1).ok());
  const std::vector<std::int32_t> prompt(positions, 7);
  const std::vector<SequencePass> first = {{prompt, &cache, false}};
  CHECK(driver.forward(first).ok());
  Sampler sampler = Sampler::create({}, bench::kLlama1B.vocab).value();
  const std::int32_t token = 11;
  Times times;
  for (std::size_t round = 0; round <= rounds; ++round) {
    const TeeSnapshotTable before = snapshot_of(llama.stats());
    const std::vector<SequencePass> pass = {{{&token, 1}, &cache, true}};
    auto logits = driver.forward(pass);
    CHECK(logits.ok());
    cache.truncate(behind);
    const std::uint64_t chosen_ns = now_ns();
    CHECK(sampler.sample(logits->as<float>()).ok());
    const double sampling_ms = ms_since(chosen_ns);
    const TeeSnapshotTable after = snapshot_of(llama.stats());
    const std::uint64_t read_ns = now_ns();
    bench::read_memory(llama.pool(), memory.next(bytes), bytes);
    const double read_ms = ms_since(read_ns);
    if (round == 0) continue;
    double all_ms = sampling_ms;
    for (const TeeKernel kernel : kValuesOf<TeeKernel>) {
      const std::uint64_t ns = after[kernel].total_ns - before[kernel].total_ns;
      times.kernels[kernel].push_back(static_cast<double>(ns) * 1e-6);
      all_ms += times.kernels[kernel].back();
    }
    times.sampling.push_back(sampling_ms);
    times.all.push_back(all_ms);
    times.read.push_back(read_ms);
    times.ratio.push_back(all_ms / read_ms);
  }
  return times;
}

void show(DType cache_type, const Times& times, const Bytes& moved, std::size_t sampling_bytes,
          std::size_t bytes) {
  const double rate = static_cast<double>(bytes) * 1e-6 / bench::median_of(times.read);
  const auto line = [&](std::string_view name, std::size_t count, double ms) {
    const double mb = static_cast<double>(count) * 1e-6;
    fmt::print("| {} | {} | {:.2f} | {:.3f} | {:.3f} | {} |\n", name_of(cache_type), name, mb, ms,
               mb / rate, count == 0 ? "-" : fmt::format("{:.2f}", ms * rate / mb));
  };
  for (const TeeKernel kernel : kValuesOf<TeeKernel>) {
    const double ms = bench::median_of(times.kernels[kernel]);
    if (ms > 0) line(name_of(kernel), moved[kernel], ms);
  }
  line("greedy choice", sampling_bytes, bench::median_of(times.sampling));
  const auto [least, most] = std::ranges::minmax(times.ratio);
  fmt::print("| {} | all | {:.2f} | {:.3f} | {:.3f} | {:.2f} ({:.2f} to {:.2f}) |\n",
             name_of(cache_type), static_cast<double>(bytes) * 1e-6, bench::median_of(times.all),
             bench::median_of(times.read), bench::median_of(times.ratio), least, most);
}

void run(std::size_t threads, std::size_t rounds, std::size_t positions) {
  bench::LocalLlama llama(threads);
  bench::Memory memory(kReadMemory);
  fmt::print(
      "{} threads, {} positions behind the token, {} rounds; medians. Of all, the ratio is the "
      "median of the rounds' with its range; reading is measured, a kernel's share of it by its "
      "bytes.\n\n"
      "| cache | kernel | MB | ms | reading them, ms | ratio |\n"
      "| --- | --- | ---: | ---: | ---: | ---: |\n",
      threads, positions, rounds);
  for (const DType cache_type : {DType::kF32, DType::kBF16}) {
    const Bytes moved = moved_bytes(positions, cache_type);
    // Logits, once.
    const std::size_t sampling_bytes =
        static_cast<std::size_t>(bench::kLlama1B.vocab) * kFloatBytes;
    std::size_t bytes = sampling_bytes;
    for (const std::size_t count : moved) bytes += count;
    bytes = bytes / bench::kReadBytes * bench::kReadBytes;
    const Times times = measure(llama, memory, cache_type, positions, rounds, bytes);
    show(cache_type, times, moved, sampling_bytes, bytes);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const auto numbers =
      airlock::bench::numbers_of(argc, argv, "tee_step [THREADS [ROUNDS [POSITIONS, to 2048]]]",
                                 {{2, 64}, {40, 10000}, {1024, 2048}});
  if (!numbers) return 2;
  const auto [threads, rounds, positions] = *numbers;
  airlock::run(static_cast<std::size_t>(threads), static_cast<std::size_t>(rounds),
               static_cast<std::size_t>(positions));
  return 0;
}
