// The trusted side's kernels over many rows, one layer of LLaMA-3.2-1B's shape: causal attention
// against oneDNN's fp32 products of the same shapes (half of both, as the mask is), and what little
// else there is against memcpy moving as many bytes. Contenders take turns; what only moves bytes
// meets memory that is in no cache.
//   tee_kernels [THREADS [ROUNDS [TOKENS...]]]
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>
#include <vector>

#include "base/convert.h"
#include "base/deadline.h"
#include "base/thread_pool.h"
#include "bench/llama_1b.h"
#include "bench/read_memory.h"
#include "bench/record.h"
#include "tee_runner/llama/kernels.h"

namespace airlock {
namespace {

constexpr ModelDims kDims = bench::kLlama1B;
constexpr std::size_t kColdBytes = std::size_t{192} << 20;  // more than caches hold
constexpr std::int64_t kMostRows = 1024;                    // of a product of oneDNN's

double ms_of(const std::function<void()>& body) {
  const std::uint64_t start = now_ns();
  body();
  return static_cast<double>(now_ns() - start) * 1e-6;
}

/// Numbers of about 1 in size, the same each time.
void fill(MutableTensorView view) {
  std::uint32_t state = 1;
  const auto next = [&] {
    state = state * 1664525U + 1013904223U;
    return static_cast<float>(state >> 8) / static_cast<float>(1U << 23) - 1.0F;
  };
  std::vector<float> values(view.desc.elements());
  std::ranges::generate(values, next);
  store_f32(view.desc.dtype, values.data(), view.data, values.size());
}

Tensor filled(DType dtype, const Shape& shape) {
  Tensor tensor({dtype, shape});
  fill(tensor.mutable_view());
  return tensor;
}

/// c [m, n] = a [m, k] * b [k, n] in fp32, b in the layout that oneDNN likes best.
class Product {
 public:
  Product(std::int64_t m, std::int64_t k, std::int64_t n)
      : a_(filled(DType::kF32, {m, k})), c_({DType::kF32, {m, n}}) {
    using Type = dnnl::memory::data_type;
    using Tag = dnnl::memory::format_tag;
    const dnnl::memory::desc a({m, k}, Type::f32, Tag::ab);
    const dnnl::memory::desc b({k, n}, Type::f32, Tag::any);
    const dnnl::memory::desc c({m, n}, Type::f32, Tag::ab);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc description(engine_, a, b, c);
#else
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), engine_);
#endif
    primitive_ = dnnl::matmul(description);
    const dnnl::memory right(description.weights_desc(), engine_);
    std::fill_n(static_cast<float*>(right.get_data_handle()),
                description.weights_desc().get_size() / sizeof(float), 0.25F);
    arguments_ = {{DNNL_ARG_SRC, dnnl::memory(a, engine_, a_.mutable_view().data)},
                  {DNNL_ARG_WEIGHTS, right},
                  {DNNL_ARG_DST, dnnl::memory(c, engine_, c_.mutable_view().data)}};
  }
  double ms() {
    return ms_of([&] {
      primitive_.execute(stream_, arguments_);
      stream_.wait();
    });
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  Tensor a_;
  Tensor c_;
  dnnl::matmul primitive_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

struct Line {
  std::string kernel;
  std::int64_t tokens;
  std::vector<double> ours;
  std::vector<double> bound;
};

void print(const Line& line) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < line.ours.size(); ++i) ratios.push_back(line.ours[i] / line.bound[i]);
  fmt::print("| {} | {} | {:.3f} | {:.3f} | {:.2f} ({:.2f} to {:.2f}) |\n", line.kernel,
             line.tokens, bench::median_of(line.ours), bench::median_of(line.bound),
             bench::median_of(ratios), *std::ranges::min_element(ratios),
             *std::ranges::max_element(ratios));
}

Line attention(ThreadPool& pool, std::int64_t tokens, std::size_t rounds) {
  const std::int64_t width = kDims.heads * kDims.head_dim;
  const Tensor q = filled(DType::kBF16, {tokens, width});
  const Tensor keys = filled(DType::kF32, {kDims.kv_heads, tokens, kDims.head_dim});
  const Tensor values = filled(DType::kF32, {kDims.kv_heads, tokens, kDims.head_dim});
  Tensor out({DType::kBF16, {tokens, width}});
  LlamaConfig config;
  config.dims = kDims;
  RopeTable table;
  extend_rope_table(config, tokens, table);
  const std::int64_t rows = std::min(tokens, kMostRows);
  Product scores(rows, kDims.head_dim, tokens);
  Product sums(rows, tokens, kDims.head_dim);
  const double share = static_cast<double>(kDims.heads * tokens) / static_cast<double>(2 * rows);
  Line line{"attention", tokens, {}, {}};
  for (std::size_t round = 0; round <= rounds; ++round) {
    const double ours = ms_of([&] {
      blocked_attention(pool, table, q.view(), 0, keys.view(), values.view(), out.mutable_view());
    });
    const double bound = share * (scores.ms() + sums.ms());
    if (round == 0) continue;
    line.ours.push_back(ours);
    line.bound.push_back(bound);
  }
  return line;
}

/// A kernel over one of several places, one after the other.
struct Mover {
  const char* name;
  std::size_t bytes;  // that it moves, in and out
  std::function<void(std::size_t place)> run;
};

Line move(ThreadPool& pool, const Mover& mover, std::size_t places, std::int64_t tokens,
          std::size_t rounds) {
  // Half of them is read, half written.
  const std::size_t half = mover.bytes / 2;
  const std::size_t copies = std::max<std::size_t>(kColdBytes / mover.bytes, 1);
  const PageBuffer from = PageBuffer::allocate(half * copies).value();
  PageBuffer to = PageBuffer::allocate(half * copies).value();
  std::memset(to.data(), 1, to.bytes());
  std::memcpy(const_cast<std::byte*>(from.data()), to.data(), half * copies);
  const std::size_t piece = half / pool.thread_count();
  Line line{mover.name, tokens, {}, {}};
  for (std::size_t round = 0; round <= rounds; ++round) {
    const double ours = ms_of([&] { mover.run(round % places); });
    const std::size_t at = round % copies * half;
    const double bound = ms_of([&] {
      pool.parallel_for(pool.thread_count(), [&](std::size_t begin, std::size_t end) {
        std::memcpy(to.data() + at + begin * piece, from.data() + at + begin * piece,
                    (end - begin) * piece);
      });
    });
    if (round == 0) continue;
    line.ours.push_back(ours);
    line.bound.push_back(bound);
  }
  return line;
}

void movers(ThreadPool& pool, std::int64_t tokens, std::size_t rounds) {
  const auto rows = static_cast<std::size_t>(tokens);
  const auto hidden = static_cast<std::size_t>(kDims.hidden);
  const auto inner = static_cast<std::size_t>(kDims.intermediate);
  const std::size_t row_bytes = hidden * sizeof(float);
  const std::size_t places =
      std::max<std::size_t>(kColdBytes / (rows * std::max(row_bytes, inner * 2)), 1);
  std::vector<Tensor> states;
  std::vector<Tensor> deltas;
  std::vector<Tensor> gates;
  std::vector<Tensor> ups;
  std::vector<Tensor> outs;
  for (std::size_t i = 0; i < places; ++i) {
    states.push_back(filled(DType::kF32, {tokens, kDims.hidden}));
    deltas.push_back(filled(DType::kBF16, {tokens, kDims.hidden}));
    gates.push_back(filled(DType::kBF16, {tokens, kDims.intermediate}));
    ups.push_back(filled(DType::kBF16, {tokens, kDims.intermediate}));
    outs.emplace_back(TensorDesc{DType::kBF16, {tokens, kDims.intermediate}});
  }
  const std::vector<float> weight(hidden, 1.0F);
  const auto out_rows = [&](std::size_t place) {
    return MutableTensorView{outs[place].mutable_view().data,
                             {DType::kBF16, {tokens, kDims.hidden}}};
  };
  const Mover all[] = {
      {"silu", rows * inner * 6,
       [&](std::size_t i) {
         silu_multiply(pool, gates[i].view(), ups[i].view(), outs[i].mutable_view());
       }},
      {"rmsnorm", rows * hidden * 6,
       [&](std::size_t i) { rms_norm(pool, states[i], 0, weight.data(), 1e-5, out_rows(i)); }},
      {"residual", rows * hidden * 10,
       [&](std::size_t i) { add_residual(pool, deltas[i].view(), 0, states[i]); }},
      {"residual and rmsnorm", rows * hidden * 12,
       [&](std::size_t i) {
         add_residual(pool, deltas[i].view(), 0, states[i]);
         rms_norm(pool, states[i], 0, weight.data(), 1e-5, out_rows(i));
       }},
      {"both in one pass", rows * hidden * 12,
       [&](std::size_t i) {
         add_and_normalise(pool, deltas[i].view(), 0, states[i], weight.data(), 1e-5, out_rows(i));
       }},
  };
  for (const Mover& mover : all) print(move(pool, mover, places, tokens, rounds));
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  using namespace airlock;
  const long threads = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 1;
  const long rounds = argc > 2 ? std::strtol(argv[2], nullptr, 10) : 9;
  std::vector<std::int64_t> lengths;
  for (int i = 3; i < argc; ++i) lengths.push_back(std::strtol(argv[i], nullptr, 10));
  if (lengths.empty()) lengths = {128, 1024, 8192};
  if (threads < 1 || threads > 256 || rounds < 1 || rounds > 1000 ||
      std::ranges::any_of(lengths, [](std::int64_t n) { return n < 1 || n > 131072; })) {
    std::fprintf(stderr, "usage: tee_kernels [THREADS [ROUNDS [TOKENS...]]]\n");
    return 2;
  }
  omp_set_num_threads(static_cast<int>(threads));
  const auto made = ThreadPool::create(static_cast<std::size_t>(threads)).value();
  ThreadPool& pool = *made;
  fmt::print(
      "| kernel | tokens | ms a layer | bound ms | ratio |\n| --- | ---: | ---: | ---: | ---: |\n");
  const auto count = static_cast<std::size_t>(rounds);
  for (const std::int64_t tokens : lengths)
    print(attention(pool, tokens, tokens > 4096 ? std::min<std::size_t>(count, 3) : count));
  for (const std::int64_t tokens : lengths) {
    if (tokens <= 4096) movers(pool, tokens, 3 * count);
  }
  return 0;
}
