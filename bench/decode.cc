// Passes over one to sixteen sequences with LLaMA-3.2-1B's shape in one process: what a token of
// each takes, against reading the weights once, as they are held, with the same threads. The
// numbers of sequences and the reading take turns, so that a slow phase of the machine hits all of
// them.
//   decode [THREADS [ROUNDS [POSITIONS [SEQUENCES]]]] [-o md|json]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "bench/local_llama.h"
#include "bench/numbers.h"
#include "bench/read_memory.h"
#include "bench/record.h"
#include "runtime/cpu/onednn.h"

namespace airlock {
namespace {

constexpr std::size_t kSequences[] = {1, 2, 4, 8, 16};
constexpr std::size_t kReadMemory = std::size_t{1} << 30;  // more than caches hold

/// Linears of all layers and the table, as this CPU holds them.
std::size_t weight_bytes() {
  const ModelDims& dims = bench::kLlama1B;
  std::int64_t layer = 0;
  for (const Linear linear : kValuesOf<Linear>) {
    for (const WeightKind kind : kinds_of(linear)) {
      const Shape shape = weight_shape(dims, kind);
      layer += shape[0] * shape[1];
    }
  }
  const std::int64_t elements = dims.layers * layer + dims.vocab * dims.hidden;
  return static_cast<std::size_t>(elements) *
         dtype_bytes(onednn::has_bf16() ? DType::kBF16 : DType::kF32);
}

double ms_since(std::uint64_t start_ns) { return static_cast<double>(now_ns() - start_ns) * 1e-6; }

double read_ms(ThreadPool& pool, bench::Memory& memory, std::size_t bytes) {
  const std::uint64_t start = now_ns();
  for (std::size_t left = bytes; left > 0;) {
    const std::size_t piece = std::min(left, kReadMemory);
    bench::read_memory(pool, memory.next(piece), piece);
    left -= piece;
  }
  return ms_since(start);
}

struct Numbers {
  std::size_t threads;
  std::size_t rounds;
  std::int64_t positions;
  std::size_t most_sequences;
};

/// Of each round, in ms; passes by number of sequences as in kSequences.
struct Times {
  std::vector<std::size_t> sequences;
  std::vector<std::vector<double>> passes;
  std::vector<double> read;
};

Times measure(const Numbers& numbers) {
  Times times;
  for (const std::size_t count : kSequences)
    if (count <= numbers.most_sequences) times.sequences.push_back(count);
  times.passes.resize(times.sequences.size());
  bench::LocalLlama llama(numbers.threads);
  LlamaDriver& driver = llama.driver();
  bench::Memory memory(kReadMemory);
  const auto blocks =
      CacheMemory::create(bench::kLlama1B, DType::kF32, std::uint64_t{4} << 30).value();
  std::vector<SequenceCache> caches;
  const std::vector<std::int32_t> prompt(static_cast<std::size_t>(numbers.positions), 7);
  const std::int32_t token = 11;
  for (std::size_t i = 0; i < times.sequences.back(); ++i) {
    CHECK(caches.emplace_back(blocks).promise(numbers.positions + 1).ok());
    const std::vector<SequencePass> passes = {{prompt, &caches.back(), false}};
    CHECK(driver.forward(passes).ok());
  }
  for (std::size_t round = 0; round <= numbers.rounds; ++round) {
    for (std::size_t which = 0; which < times.sequences.size(); ++which) {
      std::vector<SequencePass> passes;
      for (std::size_t i = 0; i < times.sequences[which]; ++i)
        passes.push_back({{&token, 1}, &caches[i], true});
      const std::uint64_t start = now_ns();
      CHECK(driver.forward(passes).ok());
      if (round > 0) times.passes[which].push_back(ms_since(start));
      for (std::size_t i = 0; i < times.sequences[which]; ++i)
        caches[i].truncate(numbers.positions);
    }
    const double read = read_ms(llama.pool(), memory, weight_bytes());
    if (round > 0) times.read.push_back(read);
  }
  return times;
}

void print_markdown(const Numbers& numbers, const Times& times) {
  const double read = bench::median_of(times.read);
  const double one_ms = bench::median_of(times.passes[0]);
  fmt::print(
      "{} threads, {} positions behind each, {} rounds; reading {:.2f} GB of weights takes {:.1f} "
      "ms\n\n"
      "| sequences | ms a pass | tokens/s | of one's | over reading |\n"
      "| ---: | ---: | ---: | ---: | ---: |\n",
      numbers.threads, numbers.positions, numbers.rounds,
      static_cast<double>(weight_bytes()) * 1e-9, read);
  for (std::size_t which = 0; which < times.sequences.size(); ++which) {
    const double pass_ms = bench::median_of(times.passes[which]);
    const auto count = static_cast<double>(times.sequences[which]);
    fmt::print("| {} | {:.1f} | {:.1f} | {:.2f} | {:.2f} |\n", times.sequences[which], pass_ms,
               1e3 * count / pass_ms, one_ms * count / pass_ms, pass_ms / read);
  }
}

void print_json(const Numbers& numbers, const Times& times) {
  fmt::print("{{\"results\":[\n");
  for (std::size_t which = 0; which < times.sequences.size(); ++which) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < times.read.size(); ++i)
      ratios.push_back(times.passes[which][i] / times.read[i]);
    bench::Record record;
    record.count("sequences", times.sequences[which]).count("threads", numbers.threads);
    record.count("weight_bytes", weight_bytes()).spread("pass_ms", times.passes[which]);
    record.spread("read_ms", times.read).spread("ratio", ratios);
    fmt::print("{}{}\n", record.json(), which + 1 < times.sequences.size() ? "," : "");
  }
  fmt::print("]}}\n");
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const bool has_form = argc >= 3 && std::string_view(argv[argc - 2]) == "-o";
  const std::string_view form = has_form ? argv[argc - 1] : "md";
  const auto numbers = airlock::bench::numbers_of(
      has_form ? argc - 2 : argc, argv,
      "decode [THREADS [ROUNDS [POSITIONS, to 1024 [SEQUENCES, to 16]]]] [-o md|json]",
      {{2, 64}, {20, 10000}, {64, 1024}, {16, 16}});
  if (!numbers || (form != "md" && form != "json")) return 2;
  const auto [threads, rounds, positions, sequences] = *numbers;
  const airlock::Numbers asked{static_cast<std::size_t>(threads), static_cast<std::size_t>(rounds),
                               positions, static_cast<std::size_t>(sequences)};
  const airlock::Times times = airlock::measure(asked);
  (form == "md" ? airlock::print_markdown : airlock::print_json)(asked, times);
  return 0;
}
