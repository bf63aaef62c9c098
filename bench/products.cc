// The products of one prefill with LLaMA-3.2-1B's shape, by oneDNN alone: each linear of a layer
// with all threads, its operands where the last call left them; times 16, and lm_head of one row.
// In the quickest of three ways: one call, whose weights lie as oneDNN asks for them or as W's own
// rows, and calls of 128 rows and 256 columns on one thread each (oneDNN's own threads share a
// product badly on some CPUs). In fp32, and in bf16 where the CPU multiplies it: the quicker one is
// what a prefill can cost at best. Nothing of attention.
//   products [--tokens N] [--threads N] [--rounds N] [-o md|json]
#include <fmt/format.h>
#include <omp.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/cpu_count.h"
#include "bench/llama_1b.h"
#include "bench/one_dnn_product.h"
#include "bench/record.h"
#include "proto/limits.h"
#include "runtime/program/command_line.h"
#include "runtime/program/program.h"

namespace airlock {
namespace {

using bench::OneDnnProduct;

struct Options {
  std::int64_t tokens = 1024;
  std::size_t threads = usable_cpu_count();
  std::size_t rounds = 3;
  OutputForm form = OutputForm::kMarkdown;
};

struct Linear {
  std::string name;
  std::int64_t rows;
  std::int64_t k;
  std::int64_t n;
  double times;  // in a pass
};

std::vector<Linear> linears_of(std::int64_t tokens) {
  const ModelDims& dims = bench::kLlama1B;
  std::vector<Linear> all;
  for (const airlock::Linear linear : kValuesOf<airlock::Linear>) {
    if (linear == airlock::Linear::kLmHead) continue;
    std::int64_t k = 0;
    std::int64_t n = 0;
    for (const WeightKind kind : kinds_of(linear)) {
      const Shape shape = weight_shape(dims, kind);
      n += shape[0];
      k = shape[1];
    }
    all.push_back({std::string(name_of(linear)), tokens, k, n, static_cast<double>(dims.layers)});
  }
  all.push_back({"lm_head", 1, dims.hidden, dims.vocab, 1});
  return all;
}

/// As oneDNN says of this CPU: it is asked for a product.
bool has_bf16() {
  try {
    const OneDnnProduct probe(64, 64, 64, OneDnnProduct::Type::bf16);
    return true;
  } catch (const dnnl::error&) {
    return false;
  }
}

struct Times {
  std::string type;
  std::vector<std::vector<double>> ms;  // of each linear, by round
  std::vector<double> pass;             // ms, by round
};

/// Each round's ms in the way whose median is least.
std::vector<double> quickest_ms(const Linear& linear, OneDnnProduct::Type type,
                                std::size_t rounds) {
  using Tag = OneDnnProduct::Tag;
  std::vector<double> best;
  const auto attempt = [&](const auto& make) {
    std::vector<double> ms;
    try {
      auto product = make();
      (void)product.ms();  // warms up
      for (std::size_t round = 0; round < rounds; ++round) ms.push_back(product.ms());
    } catch (const dnnl::error&) {
      return;  // no kernel for that layout
    }
    if (best.empty() || bench::median_of(ms) < bench::median_of(best)) best = std::move(ms);
  };
  for (const Tag layout : {Tag::any, Tag::ba})
    attempt([&] { return OneDnnProduct(linear.rows, linear.k, linear.n, type, layout); });
  attempt([&] { return bench::OneDnnCutProduct(linear.rows, linear.k, linear.n, type); });
  CHECK(!best.empty());
  return best;
}

Times measure(const std::vector<Linear>& linears, OneDnnProduct::Type type, std::size_t rounds) {
  Times times{type == OneDnnProduct::Type::bf16 ? "bf16" : "fp32", {}, {}};
  times.pass.assign(rounds, 0);
  for (const Linear& linear : linears) {
    const std::vector<double>& ms = times.ms.emplace_back(quickest_ms(linear, type, rounds));
    for (std::size_t round = 0; round < rounds; ++round)
      times.pass[round] += ms[round] * linear.times;
  }
  return times;
}

void print_markdown(const std::vector<Linear>& linears, const Times& times) {
  for (std::size_t i = 0; i < linears.size(); ++i) {
    const Linear& linear = linears[i];
    const double ms = bench::median_of(times.ms[i]);
    const auto flop = 2.0 * static_cast<double>(linear.rows * linear.k * linear.n);
    fmt::print("| {} | {} | {:.3f} | {:.1f} |\n", times.type, linear.name, ms, flop / ms * 1e-6);
  }
  fmt::print("| {} | a pass | {:.1f} | |\n", times.type, bench::median_of(times.pass));
}

Status run(const Options& options) {
  omp_set_num_threads(static_cast<int>(options.threads));
  const std::vector<Linear> linears = linears_of(options.tokens);
  std::vector<Times> all = {measure(linears, OneDnnProduct::Type::f32, options.rounds)};
  if (has_bf16()) all.push_back(measure(linears, OneDnnProduct::Type::bf16, options.rounds));
  if (options.form == OutputForm::kMarkdown) {
    fmt::print("{} tokens, {} threads, {} rounds; medians\n\n", options.tokens, options.threads,
               options.rounds);
    fmt::print("| type | product | ms | GF/s |\n| --- | --- | ---: | ---: |\n");
    for (const Times& times : all) print_markdown(linears, times);
    return {};
  }
  std::vector<std::string> records;
  for (const Times& times : all) {
    bench::Record record;
    record.text("type", times.type).count("tokens", static_cast<std::uint64_t>(options.tokens));
    record.count("threads", options.threads).spread("pass_ms", times.pass);
    for (std::size_t i = 0; i < linears.size(); ++i)
      record.number(linears[i].name + "_ms", bench::median_of(times.ms[i]));
    records.push_back(record.json());
  }
  fmt::print("{{\"results\":[\n{}\n]}}\n", fmt::join(records, ",\n"));
  return {};
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using airlock::OutputForm;
  const auto parse = [&]() -> airlock::Result<std::optional<airlock::Options>> {
    airlock::Options options;
    airlock::CommandLine line(
        "products", "The products of one prefill with LLaMA-3.2-1B's shape, by oneDNN alone.");
    const airlock::CommandOptions command = line.options();
    command.number("--tokens", options.tokens, std::int64_t{1}, std::int64_t{16384},
                   "rows of the products (1024)");
    command.number("--threads", options.threads, std::size_t{1}, airlock::limits::kMaxThreads,
                   "of each product (all usable CPUs)");
    command.number("--rounds", options.rounds, std::size_t{1}, std::size_t{1000},
                   "calls counted of each product (3)");
    command.choice<OutputForm>("-o", options.form, "md or json", airlock::bench::kForms);
    ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
    return asked ? std::optional(options) : std::nullopt;
  };
  return airlock::run_program("products", parse, airlock::run);
}
