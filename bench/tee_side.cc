// The trusted side's part of a prefill, LLaMA-3.2-1B's shape: the driver over a server that answers
// at once. Says what the whole takes, each kernel, the asking of a backend that does nothing, and
// what the driver spends outside of both. Numbers of tokens and of threads take turns.
//   tee_side [--tokens N,...] [--threads N,...] [--wire D] [--rounds N] [-o md|json]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/cpu_count.h"
#include "base/deadline.h"
#include "bench/llama_1b.h"
#include "bench/null_backend.h"
#include "bench/record.h"
#include "proto/limits.h"
#include "tee_runner/llama/driver.h"

namespace airlock {
namespace {

constexpr std::size_t kMostThreads = 16;  // that are tried where none are named

struct Options {
  std::vector<std::int64_t> tokens{128, 1024};
  std::vector<std::size_t> threads;
  std::string wire = "bf16";
  std::string form = "md";
  std::size_t rounds = 5;
};

/// 1, 2, 4 and so on, up to the CPUs there are, at most kMostThreads.
std::vector<std::size_t> usual_threads() {
  const std::size_t most = std::min(usable_cpu_count(), kMostThreads);
  std::vector<std::size_t> threads;
  for (std::size_t count = 1; count < most; count *= 2) threads.push_back(count);
  threads.push_back(most);
  return threads;
}

/// One number of tokens on one number of threads. Times in ms, of each round.
struct Case {
  std::int64_t tokens;
  std::size_t threads;
  std::unique_ptr<bench::NullBackend> backend;
  std::unique_ptr<TeeStatsTable> stats;
  std::unique_ptr<LlamaDriver> driver;
  std::vector<double> wall;
  PerValue<TeeKernel, std::vector<double>> kernels;
  std::vector<double> asking;  // NullBackend::prepare()
  std::vector<double> rest;    // of the driver, outside of kernels and of asking
};

Case make_case(std::int64_t tokens, std::size_t threads, DType wire) {
  const bench::Llama1B source;
  LlamaOptions options;
  options.wire = wire;
  options.attention = Attention::kTee;
  options.threads = threads;
  Case made{tokens,
            threads,
            std::make_unique<bench::NullBackend>(bench::kLlama1B),
            std::make_unique<TeeStatsTable>(),
            nullptr,
            {},
            {},
            {},
            {}};
  made.driver = LlamaDriver::create(source.config(), read_norms(source).value(), options,
                                    *made.backend, *made.stats)
                    .value();
  return made;
}

double ms(std::uint64_t ns) { return static_cast<double>(ns) * 1e-6; }

void measure(Case& one, bool counts) {
  const std::vector<std::int32_t> prompt(static_cast<std::size_t>(one.tokens), 7);
  const TeeSnapshotTable before = snapshot_of(*one.stats);
  const std::uint64_t asked_ns = one.backend->spent_ns();
  const std::uint64_t start_ns = now_ns();
  CHECK(one.driver->prefill(prompt).ok());
  const double wall = ms(now_ns() - start_ns);
  if (!counts) return;
  const TeeSnapshotTable after = snapshot_of(*one.stats);
  const double asking = ms(one.backend->spent_ns() - asked_ns);
  double rest = wall - asking;
  for (const TeeKernel kernel : kValuesOf<TeeKernel>) {
    const double spent = ms(after[kernel].total_ns - before[kernel].total_ns);
    one.kernels[kernel].push_back(spent);
    rest -= spent;
  }
  one.wall.push_back(wall);
  one.asking.push_back(asking);
  one.rest.push_back(rest);
}

std::string json_of(const Case& one, const std::string& wire) {
  bench::Record record;
  record.count("tokens", static_cast<std::uint64_t>(one.tokens)).count("threads", one.threads);
  record.text("wire", wire).spread("wall_ms", one.wall);
  for (const TeeKernel kernel : kValuesOf<TeeKernel>)
    record.number(fmt::format("{}_ms", name_of(kernel)), bench::median_of(one.kernels[kernel]));
  record.number("asking_ms", bench::median_of(one.asking));
  record.number("rest_ms", bench::median_of(one.rest));
  return record.json();
}

void print_markdown(const std::vector<Case>& cases, const Options& options) {
  fmt::print(
      "{} on the wire, {} rounds; medians, in ms. rest: the driver outside of its kernels.\n\n",
      options.wire, options.rounds);
  fmt::print("| tokens | threads | seconds in all (range) |");
  for (const TeeKernel kernel : kValuesOf<TeeKernel>) fmt::print(" {} |", name_of(kernel));
  fmt::print(" asking | rest |\n| ---: | ---: | ---: |");
  for (std::size_t i = 0; i < std::size(kValuesOf<TeeKernel>) + 2; ++i) fmt::print(" ---: |");
  fmt::print("\n");
  for (const Case& one : cases) {
    const auto [least, most] = std::ranges::minmax(one.wall);
    fmt::print("| {} | {} | {:.3f} ({:.3f} to {:.3f}) |", one.tokens, one.threads,
               1e-3 * bench::median_of(one.wall), 1e-3 * least, 1e-3 * most);
    for (const TeeKernel kernel : kValuesOf<TeeKernel>)
      fmt::print(" {:.2f} |", bench::median_of(one.kernels[kernel]));
    fmt::print(" {:.2f} | {:.2f} |\n", bench::median_of(one.asking), bench::median_of(one.rest));
  }
}

int run(const Options& options) {
  const DType wire = from_name<DType>(options.wire).value();
  std::vector<Case> cases;
  for (const std::int64_t tokens : options.tokens) {
    for (const std::size_t threads : options.threads.empty() ? usual_threads() : options.threads)
      cases.push_back(make_case(tokens, threads, wire));
  }
  for (std::size_t round = 0; round <= options.rounds; ++round) {
    for (Case& one : cases) measure(one, round > 0);  // the first one warms up
  }
  if (options.form == "md") {
    print_markdown(cases, options);
    return 0;
  }
  std::vector<std::string> records;
  for (const Case& one : cases) records.push_back(json_of(one, options.wire));
  fmt::print("{{\"results\":[\n{}\n]}}\n", fmt::join(records, ",\n"));
  return 0;
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using airlock::Options;
  Options options;
  CLI::App app{
      "The trusted side's part of a prefill: the driver over a server that answers at once."};
  app.add_option("--tokens", options.tokens, "lengths of the prompts")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{16384}));
  app.add_option("--threads", options.threads, "of the kernels (1, 2, 4 to the CPUs, 16 at most)")
      ->delimiter(',')
      ->check(CLI::Range(std::size_t{1}, airlock::limits::kMaxThreads));
  app.add_option("--wire", options.wire, "type of the tensors that would cross")
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  app.add_option("--rounds", options.rounds, "prefills counted of each")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1000}));
  app.add_option("-o", options.form, "md or json")->check(CLI::IsMember({"md", "json"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : airlock::exit_code(airlock::StatusCode::kUsage);
  }
  return airlock::run(options);
}
