#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <random>

#include "base/deadline.h"
#include "bench/cuda/check.h"
#include "bench/cuda/cuda_bench.h"
#include "bench/cuda/segment_backend.h"
#include "runtime/model/model_source.h"
#include "tee_runner/llama/driver.h"

namespace airlock::bench {

namespace {

/// For the tensors of all ops under way: a tile of attention has 256 MiB of scores, which come and
/// go back.
constexpr std::size_t kSegmentBytes = std::size_t{2} << 30;

std::vector<std::int32_t> random_tokens(std::int64_t count, std::int64_t vocab) {
  std::mt19937 engine(1);  // the same prompt each time
  std::uniform_int_distribution<std::int32_t> ids(0, static_cast<std::int32_t>(vocab - 1));
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(count));
  for (std::int32_t& id : tokens) id = ids(engine);
  return tokens;
}

std::string prefill_record(const ModelSource& source, Backend& backend,
                           const PrefillOptions& options, std::int64_t count) {
  auto norms = read_norms(source);
  must(norms.status(), "read_norms");
  LlamaOptions llama;
  llama.wire = options.dtype;
  llama.attention = options.attention;
  llama.threads = options.threads;
  TeeStatsTable stats;
  auto driver = LlamaDriver::create(source.config(), std::move(*norms), llama, backend, stats);
  must(driver.status(), "LlamaDriver");
  const std::vector<std::int32_t> tokens = random_tokens(count, source.config().dims.vocab);
  std::vector<double> wall_ns;
  for (int i = 0; i <= options.repeat; ++i) {
    const std::uint64_t start = now_ns();
    must((*driver)->prefill(tokens).status(), "prefill");
    if (i > 0) wall_ns.push_back(static_cast<double>(now_ns() - start));  // the first one warms up
  }
  Record record;
  record.text("kind", "prefill_in_process").text("dtype", name_of(options.dtype));
  record.text("attention", options.attention == Attention::kTee ? "tee" : "offload");
  record.count("tokens", static_cast<std::uint64_t>(count)).count("threads", options.threads);
  record.spread("wall_ns", wall_ns);
  return record.json();
}

}  // namespace

std::vector<std::string> run_prefills(const PrefillOptions& options) {
  auto source = make_synthetic_model(options.config, 1);
  must(source.status(), options.config);
  CudaOptions cuda;
  cuda.device = options.device;
  cuda.dtype = options.dtype;
  cuda.threads = options.threads;
  cuda.warn = [](const std::string& text) { fmt::print(stderr, "cuda_bench: {}\n", text); };
  auto model = options.module->create(source->get(), cuda);
  must(model.status(), "the model");
  Segment segment(kSegmentBytes);
  auto compute = (*model)->make_compute(std::vector{segment.bytes()});
  must(compute.status(), "the session");
  SegmentBackend backend(std::move(*compute), segment);
  std::vector<std::string> records;
  for (const std::int64_t tokens : options.tokens) {
    fmt::print(stderr, "prefill in one process, {} tokens\n", tokens);
    records.push_back(prefill_record(**source, backend, options, tokens));
  }
  return records;
}

}  // namespace airlock::bench
