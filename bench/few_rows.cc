// Linear ops of a few rows with the shapes of LLaMA-3.2-1B, as decoding asks for them, against what
// it takes to read the same bytes once with the same threads. Every op meets weights that are in no
// cache; the contenders take turns, op by op.
//   few_rows [THREADS [ROUNDS [ROWS...]]]
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/deadline.h"
#include "base/thread_pool.h"
#include "bench/llama_1b.h"
#include "bench/read_memory.h"
#include "bench/record.h"
#include "proto/op.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"

namespace airlock {
namespace {

constexpr std::int64_t kPanel = 256;  // columns that oneDNN multiplies in one call

struct Linear {
  const char* name;
  std::vector<WeightKind> kinds;  // none: lm_head
  std::int64_t k = 0;
  std::int64_t n = 0;  // of all its weights

  bool is_lm_head() const { return kinds.empty(); }
  std::size_t bytes() const { return static_cast<std::size_t>(k * n) * 2; }
  std::int64_t count() const { return is_lm_head() ? 1 : bench::kLlama1B.layers; }
};

std::vector<Linear> all_linears() {
  std::vector<Linear> all = {{"qkv", {WeightKind::kQ, WeightKind::kK, WeightKind::kV}},
                             {"o", {WeightKind::kO}},
                             {"gate_up", {WeightKind::kGate, WeightKind::kUp}},
                             {"down", {WeightKind::kDown}}};
  for (Linear& linear : all) {
    for (const WeightKind kind : linear.kinds) {
      const Shape shape = weight_shape(bench::kLlama1B, kind);
      linear.n += shape[0];
      linear.k = shape[1];
    }
  }
  all.push_back({"lm_head", {}, bench::kLlama1B.hidden, bench::kLlama1B.vocab});
  return all;
}

/// oneDNN alone: its packed panels, one call a panel, handles made before.
class BareOneDnn {
 public:
  BareOneDnn(std::size_t threads, std::int64_t rows, std::int64_t k) : x_(rows * k * 2) {
    using Type = dnnl::memory::data_type;
    using Tag = dnnl::memory::format_tag;
    const dnnl::memory::desc a({rows, k}, Type::bf16, Tag::ab);
    const dnnl::memory::desc b({k, kPanel}, Type::bf16, Tag::any);
    const dnnl::memory::desc c({rows, kPanel}, Type::bf16, Tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc description(engine_, a, b, c, attributes);
#else
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), attributes,
                                                   engine_);
#endif
    primitive_ = dnnl::matmul(description);
    panel_bytes_ = description.weights_desc().get_size();
    for (std::size_t i = 0; i < threads; ++i) {
      results_.emplace_back(static_cast<std::size_t>(rows * kPanel) * 2);
      scratchpads_.emplace_back(description.scratchpad_desc().get_size() + 64);
      right_.emplace_back(description.weights_desc(), engine_, nullptr);
      streams_.emplace_back(engine_);
      arguments_.push_back(
          {{DNNL_ARG_SRC, dnnl::memory(a, engine_, x_.data())},
           {DNNL_ARG_WEIGHTS, right_.back()},
           {DNNL_ARG_DST, dnnl::memory(c, engine_, results_.back().data())},
           {DNNL_ARG_SCRATCHPAD,
            dnnl::memory(description.scratchpad_desc(), engine_, scratchpads_.back().data())}});
    }
  }
  void run(ThreadPool& pool, std::byte* data, std::size_t bytes) {
    bench::for_pieces(pool, bytes / panel_bytes_, [&](std::size_t thread, std::size_t piece) {
      omp_set_num_threads(1);
      right_[thread].set_data_handle(data + piece * panel_bytes_);
      primitive_.execute(streams_[thread], arguments_[thread]);
    });
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::matmul primitive_;
  std::size_t panel_bytes_ = 0;
  std::vector<std::byte> x_;
  std::vector<std::vector<std::byte>> results_;
  std::vector<std::vector<std::byte>> scratchpads_;
  std::vector<dnnl::memory> right_;
  std::vector<dnnl::stream> streams_;
  std::vector<std::unordered_map<int, dnnl::memory>> arguments_;
};

void run_op(Backend& backend, const Linear& linear, std::uint16_t layer, std::int64_t rows) {
  const TensorDesc x{DType::kBF16, Shape{rows, linear.k}};
  OpSpec spec = lm_head_spec(x);
  if (!linear.is_lm_head()) {
    std::vector<WeightId> weights;
    for (const WeightKind kind : linear.kinds) weights.push_back({kind, layer});
    spec = linear_spec(std::move(weights), x, DType::kBF16);
  }
  auto pending = backend.prepare(spec, Deadline::after(std::chrono::minutes(5)));
  CHECK(pending.ok());
  std::ranges::fill((*pending)->input(0).bytes(), std::byte{0x3c});
  CHECK((*pending)->submit().ok() && (*pending)->wait().ok());
}

double ms_of(const std::function<void()>& body) {
  const std::uint64_t start = now_ns();
  body();
  return static_cast<double>(now_ns() - start) * 1e-6;
}

double least_of(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 10];
}

struct Times {
  std::vector<double> read;
  std::vector<double> bare;
  std::vector<double> ours;
};

/// Of each op, after one that makes what is kept.
Times measure(Backend& backend, ThreadPool& pool, bench::Memory& memory, const Linear& linear,
              std::int64_t rows, int rounds) {
  BareOneDnn bare(pool.thread_count(), rows, linear.k);
  const std::size_t bytes = linear.bytes();
  Times times;
  for (int round = 0; round < rounds; ++round) {
    for (std::int64_t layer = 0; layer < linear.count(); ++layer) {
      const double read_ms = ms_of([&] { bench::read_memory(pool, memory.next(bytes), bytes); });
      const double bare_ms = ms_of([&] { bare.run(pool, memory.next(bytes), bytes); });
      const double ours_ms =
          ms_of([&] { run_op(backend, linear, static_cast<std::uint16_t>(layer), rows); });
      if (round == 0 && layer == 0) continue;
      times.read.push_back(read_ms);
      times.bare.push_back(bare_ms);
      times.ours.push_back(ours_ms);
    }
  }
  return times;
}

void run(std::size_t threads, int rounds, const std::vector<std::int64_t>& all_rows) {
  const bench::Llama1B source;
  std::shared_ptr<ThreadPool> pool = ThreadPool::create(threads).value();
  const auto model =
      CpuModel::create(source, {.dtype = DType::kBF16, .threads = threads, .progress = {}}, pool)
          .value();
  LocalBackend backend(model->make_compute());
  const auto linears = all_linears();
  std::size_t most = 0;
  for (const Linear& linear : linears)
    most = std::max(most, linear.bytes() * static_cast<std::size_t>(linear.count()));
  // Stands for packed weights: as much as all layers' of the largest op.
  bench::Memory memory(most);
  fmt::print(
      "bf16, {} threads, {} rounds. Medians; in brackets the ratio of the tenth percentiles.\n\n"
      "| rows | op | MB | read ms | GB/s | oneDNN / read | ours / read |\n"
      "| ---: | --- | ---: | ---: | ---: | ---: | ---: |\n",
      threads, rounds);
  for (const std::int64_t rows : all_rows) {
    double sums[6] = {};
    double bytes = 0;
    const auto line = [&](const char* name, double mb, const double(&ms)[6]) {
      fmt::print("| {} | {} | {:.1f} | {:.3f} | {:.1f} | {:.2f} ({:.2f}) | {:.2f} ({:.2f}) |\n",
                 rows, name, mb, ms[0], mb / ms[0], ms[1] / ms[0], ms[4] / ms[3], ms[2] / ms[0],
                 ms[5] / ms[3]);
    };
    for (const Linear& linear : linears) {
      const Times times =
          measure(backend, *pool, memory, linear, rows, linear.is_lm_head() ? 4 * rounds : rounds);
      const double ms[6] = {bench::median_of(times.read), bench::median_of(times.bare),
                            bench::median_of(times.ours), least_of(times.read),
                            least_of(times.bare),         least_of(times.ours)};
      const double mb = static_cast<double>(linear.bytes()) * 1e-6;
      line(linear.name, mb, ms);
      for (std::size_t i = 0; i < 6; ++i) sums[i] += ms[i] * static_cast<double>(linear.count());
      bytes += mb * static_cast<double>(linear.count());
    }
    line("a pass", bytes, sums);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const auto number = [&](int index, long otherwise) {
    return argc > index ? std::strtol(argv[index], nullptr, 10) : otherwise;
  };
  const long threads = number(1, 2);
  const long rounds = number(2, 5);
  std::vector<std::int64_t> rows;
  for (int i = 3; i < argc; ++i) rows.push_back(number(i, 0));
  if (rows.empty()) rows = {1, 2, 3, 4, 6, 8, 12, 16, 32};
  if (threads < 1 || threads > 64 || rounds < 1 || rounds > 1000 ||
      std::ranges::any_of(rows, [](std::int64_t r) { return r < 1 || r > 1024; })) {
    std::fprintf(stderr, "usage: few_rows [THREADS [ROUNDS [ROWS...]]]\n");
    return 2;
  }
  airlock::run(static_cast<std::size_t>(threads), static_cast<int>(rounds), rows);
  return 0;
}
