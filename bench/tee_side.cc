// The trusted side's part of a prefill, LLaMA-3.2-1B's shape: the driver over a server that answers
// at once. Says what the whole takes, each kernel, the asking of a backend that does nothing, and
// what the driver spends outside of both. Numbers of tokens and of threads take turns.
//   tee_side [--tokens N,...] [--threads N,...] [--wire D] [--rounds N] [-o md|json]
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/cpu_count.h"
#include "base/deadline.h"
#include "bench/llama_1b.h"
#include "bench/null_backend.h"
#include "bench/record.h"
#include "proto/limits.h"
#include "runtime/program/command_line.h"
#include "runtime/program/program.h"
#include "tee_runner/llama/driver.h"

namespace airlock {
namespace {

constexpr std::size_t kMostThreads = 16;  // that are tried where none are named

struct Options {
  std::vector<std::size_t> tokens{128, 1024};
  std::vector<std::size_t> threads;
  DType wire = DType::kBF16;
  OutputForm form = OutputForm::kMarkdown;
  std::size_t rounds = 5;
};

constexpr std::array kWireTypes = {DType::kF32, DType::kF16, DType::kBF16};

/// Numbers from 1 to `most` with commas between them.
void declare_list(const CommandOptions& command, const std::string& name,
                  std::vector<std::size_t>& numbers, std::size_t most, const std::string& help) {
  command.parsed(name, "N,...", help, [&numbers, most](const std::string& text) -> Status {
    numbers.clear();
    const char* const end = text.data() + text.size();
    for (const char* at = text.data();; ++at) {
      std::size_t number = 0;
      const auto [stop, error] = std::from_chars(at, end, number);
      if (error != std::errc() || number < 1 || number > most || (stop != end && *stop != ',')) {
        return {StatusCode::kUsage, "'{}' is no list of numbers from 1 to {}", text, most};
      }
      numbers.push_back(number);
      if (stop == end) return {};
      at = stop;
    }
  });
}

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

std::string json_of(const Case& one, DType wire) {
  bench::Record record;
  record.count("tokens", static_cast<std::uint64_t>(one.tokens)).count("threads", one.threads);
  record.text("wire", name_of(wire)).spread("wall_ms", one.wall);
  for (const TeeKernel kernel : kValuesOf<TeeKernel>)
    record.number(fmt::format("{}_ms", name_of(kernel)), bench::median_of(one.kernels[kernel]));
  record.number("asking_ms", bench::median_of(one.asking));
  record.number("rest_ms", bench::median_of(one.rest));
  return record.json();
}

void print_markdown(const std::vector<Case>& cases, const Options& options) {
  fmt::print(
      "{} on the wire, {} rounds; medians, in ms. rest: the driver outside of its kernels.\n\n",
      name_of(options.wire), options.rounds);
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

Status run(const Options& options) {
  std::vector<Case> cases;
  for (const std::size_t tokens : options.tokens) {
    for (const std::size_t threads : options.threads.empty() ? usual_threads() : options.threads)
      cases.push_back(make_case(static_cast<std::int64_t>(tokens), threads, options.wire));
  }
  for (std::size_t round = 0; round <= options.rounds; ++round) {
    for (Case& one : cases) measure(one, round > 0);  // the first one warms up
  }
  if (options.form == OutputForm::kMarkdown) {
    print_markdown(cases, options);
    return {};
  }
  std::vector<std::string> records;
  for (const Case& one : cases) records.push_back(json_of(one, options.wire));
  fmt::print("{{\"results\":[\n{}\n]}}\n", fmt::join(records, ",\n"));
  return {};
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const auto parse = [&]() -> airlock::Result<std::optional<airlock::Options>> {
    airlock::Options options;
    airlock::CommandLine line(
        "tee_side",
        "The trusted side's part of a prefill: the driver over a server that answers at once.");
    const airlock::CommandOptions command = line.options();
    airlock::declare_list(command, "--tokens", options.tokens, 16384,
                          "lengths of the prompts (128,1024)");
    airlock::declare_list(command, "--threads", options.threads, airlock::limits::kMaxThreads,
                          "of the kernels (1, 2, 4 to the CPUs, 16 at most)");
    command.choice<airlock::DType>(
        "--wire", options.wire, "type of the tensors that would cross (bf16)", airlock::kWireTypes);
    command.number("--rounds", options.rounds, std::size_t{1}, std::size_t{1000},
                   "prefills counted of each (5)");
    command.choice<airlock::OutputForm>("-o", options.form, "md or json", airlock::bench::kForms);
    ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
    return asked ? std::optional(options) : std::nullopt;
  };
  return airlock::run_program("tee_side", parse, airlock::run);
}
