#include "tee_runner/privacy/private_model.h"

#include <fmt/format.h>

#include <utility>

#include "base/deadline.h"
#include "base/log.h"

namespace airlock {

namespace {

/// Whether this process multiplies weights itself.
bool needs_products(PrivacyMode mode) {
  return mode == PrivacyMode::kTeeOnly || mode == PrivacyMode::kOtp ||
         mode == PrivacyMode::kOtpVerify;
}

}  // namespace

Result<std::unique_ptr<PrivateModel>> PrivateModel::create(const ModelSource& model,
                                                           const PrivacyOptions& options,
                                                           std::size_t threads) {
  const std::uint64_t start_ns = now_ns();
  std::unique_ptr<PrivateModel> made(new PrivateModel());
  made->dims_ = model.config().dims;
  ASSIGN_OR_RETURN(made->secret_, BootSecret::create());
  ASSIGN_OR_RETURN(EmbeddingTable table, EmbeddingTable::read(model));
  made->embedding_ = std::make_unique<EmbeddingTable>(std::move(table));
  Int8Sink sink = [](const Int8Rows&) { return Status(); };
  if (checks(options.mode)) {
    ASSIGN_OR_RETURN(const PadKey key, made->secret_->draw_key(kCheckLabel));
    ASSIGN_OR_RETURN(made->check_, ModelCheck::create(key, made->dims_));
    sink = [check = made->check_.get()](const Int8Rows& rows) { return check->add(rows); };
  }
  ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ThreadPool::create(threads));
  if (needs_products(options.mode)) {
    ASSIGN_OR_RETURN(made->products_,
                     CpuModel::create_for_int8(model, options.int8_weights, threads, pool, sink));
    made->int8_ = made->products_->int8();
  } else {
    ASSIGN_OR_RETURN(made->own_int8_, make_int8_weights(model, options.int8_weights, *pool, sink));
    made->int8_ = &*made->own_int8_;
  }
  log_info(fmt::format("int8 weights ({}) ready in {:.1f} s; {:.0f} MB of the model are held here",
                       name_of(options.int8_weights),
                       static_cast<double>(now_ns() - start_ns) / 1e9,
                       static_cast<double>(made->held_bytes()) / 1e6));
  return made;
}

std::unique_ptr<Compute> PrivateModel::make_compute() const {
  return products_ != nullptr ? products_->make_compute() : nullptr;
}

std::size_t PrivateModel::held_bytes() const {
  std::size_t bytes = embedding_->bytes();
  if (products_ != nullptr) {
    const auto add = [&bytes](const Int8Linear& linear) {
      bytes += static_cast<std::size_t>(linear.rows() * linear.columns) * linear.planes;
    };
    for (const auto& layer : int8_->layers) {
      for (const Int8Linear& linear : layer) add(linear);
    }
    add(int8_->lm_head);
  }
  return bytes;
}

}  // namespace airlock
