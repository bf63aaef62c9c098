#pragma once

#include <cstddef>
#include <memory>

#include "base/thread_pool.h"
#include "bench/llama_1b.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"
#include "tee_runner/llama/driver.h"

namespace airlock::bench {

/// LLaMA-3.2-1B in this process, in bf16, with attention as an answer has it. One thread.
class LocalLlama {
 public:
  explicit LocalLlama(std::size_t threads) {
    const Llama1B source;
    pool_ = ThreadPool::create(threads).value();
    model_ =
        CpuModel::create(source, {.dtype = DType::kBF16, .threads = threads, .progress = {}}, pool_)
            .value();
    backend_ = std::make_unique<LocalBackend>(model_->make_compute());
    LlamaOptions options;
    options.wire = DType::kBF16;
    options.attention = Attention::kTee;
    options.threads = threads;
    driver_ = LlamaDriver::create(source.config(), read_norms(source).value(), options, *backend_,
                                  stats_, pool_)
                  .value();
  }
  LlamaDriver& driver() { return *driver_; }
  /// As the driver books its kernels.
  const TeeStatsTable& stats() const { return stats_; }
  /// The threads of both.
  ThreadPool& pool() { return *pool_; }

 private:
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<CpuModel> model_;
  std::unique_ptr<LocalBackend> backend_;
  TeeStatsTable stats_;
  std::unique_ptr<LlamaDriver> driver_;
};

}  // namespace airlock::bench
