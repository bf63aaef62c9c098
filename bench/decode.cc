// Passes over one to sixteen sequences with LLaMA-3.2-1B's shape in one process: what a token of
// each takes. The numbers of sequences take turns, so that a slow phase of the machine hits all of
// them.
//   decode [THREADS [ROUNDS [POSITIONS]]]
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <vector>

#include "base/deadline.h"
#include "bench/local_llama.h"
#include "bench/numbers.h"
#include "bench/record.h"

namespace airlock {
namespace {

constexpr std::size_t kSequences[] = {1, 2, 4, 8, 16};
constexpr std::size_t kMostSequences = 16;

void run(std::size_t threads, std::size_t rounds, std::int64_t positions) {
  bench::LocalLlama llama(threads);
  LlamaDriver& driver = llama.driver();
  const auto memory =
      CacheMemory::create(bench::kLlama1B, DType::kF32, std::uint64_t{4} << 30).value();
  std::vector<SequenceCache> caches;
  const std::vector<std::int32_t> prompt(static_cast<std::size_t>(positions), 7);
  const std::int32_t token = 11;
  for (std::size_t i = 0; i < kMostSequences; ++i) {
    CHECK(caches.emplace_back(memory).promise(positions + 1).ok());
    const std::vector<SequencePass> passes = {{prompt, &caches.back(), false}};
    CHECK(driver.forward(passes).ok());
  }
  std::vector<double> ms[std::size(kSequences)];
  for (std::size_t round = 0; round <= rounds; ++round) {
    for (std::size_t which = 0; which < std::size(kSequences); ++which) {
      std::vector<SequencePass> passes;
      for (std::size_t i = 0; i < kSequences[which]; ++i)
        passes.push_back({{&token, 1}, &caches[i], true});
      const std::uint64_t start = now_ns();
      CHECK(driver.forward(passes).ok());
      if (round > 0) ms[which].push_back(static_cast<double>(now_ns() - start) * 1e-6);
      for (std::size_t i = 0; i < kSequences[which]; ++i) caches[i].truncate(positions);
    }
  }
  fmt::print(
      "{} threads, {} positions behind each, {} rounds\n\n"
      "| sequences | ms a pass | tokens/s | of one's |\n| ---: | ---: | ---: | ---: |\n",
      threads, positions, rounds);
  const double one_ms = bench::median_of(ms[0]);
  for (std::size_t which = 0; which < std::size(kSequences); ++which) {
    const double pass_ms = bench::median_of(ms[which]);
    const auto count = static_cast<double>(kSequences[which]);
    fmt::print("| {} | {:.1f} | {:.1f} | {:.2f} |\n", kSequences[which], pass_ms,
               1e3 * count / pass_ms, one_ms * count / pass_ms);
  }
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const auto numbers =
      airlock::bench::numbers_of(argc, argv, "decode [THREADS [ROUNDS [POSITIONS, to 1024]]]",
                                 {{2, 64}, {20, 10000}, {64, 1024}});
  if (!numbers) return 2;
  const auto [threads, rounds, positions] = *numbers;
  airlock::run(static_cast<std::size_t>(threads), static_cast<std::size_t>(rounds), positions);
  return 0;
}
