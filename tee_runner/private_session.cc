#include "tee_runner/private_session.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "base/log.h"

namespace airlock {

void announce_privacy(const ModelOptions& options, StatsReporter& reporter) {
  const PrivacyMode mode = options.private_mode.mode;
  reporter.add_config("privacy", name_of(mode));
  if (is_private(mode) || options.backend == BackendChoice::kRemote)
    log_info(fmt::format("privacy {}: {}", name_of(mode), promise_of(mode)));
}

void ask_for_privacy(const PrivacyOptions& options, ConnectOptions& connect) {
  connect.privacy = wire_privacy(options.mode);
  if (connect.privacy != Privacy::kPlain) connect.int8_weights = options.int8_weights;
}

Status check_int8_digest(const ClientSession& session, const PrivateModel& model) {
  if (session.int8_digest() == model.int8().digest) return {};
  return {StatusCode::kMismatch, "the server has made other int8 weights: digest {}, ours is {}",
          session.int8_digest(), model.int8().digest};
}

Status check_model_digest(const ModelOptions& options, const std::string& digest) {
  if (options.model_digest.empty() || digest == options.model_digest) return {};
  return {StatusCode::kMismatch, "the model has the digest {}, --model-digest demands {}", digest,
          options.model_digest};
}

std::vector<PlannedOp> crossing_ops(const PrivacyOptions& options, const PrivateModel& model,
                                    const std::vector<PlannedOp>& plan) {
  std::vector<PlannedOp> crossing;
  for (PlannedOp op : plan) {
    if (op.spec.op == Op::kEmbedding) continue;
    const Linear linear = linear_of(op.spec);
    const std::uint8_t planes = model.int8().linear(linear, layer_of(op.spec)).planes;
    const std::int64_t rows = shown_rows(options, linear, op.spec.inputs[0].shape[0]);
    op.spec = int_linear_spec(op.spec.weights, planes, rows, model.dims());
    crossing.push_back(std::move(op));
  }
  return crossing;
}

PrivateSession::~PrivateSession() {
  // A dealer that hangs holds nothing up.
  if (dealer_ != nullptr) dealer_->end({StatusCode::kCancelled, "the session is over"});
  pads_.reset();
}

Result<std::unique_ptr<PrivateSession>> PrivateSession::start(const ModelOptions& options,
                                                              const ConnectOptions& connect,
                                                              const PrivateModel& model,
                                                              Backend& worker, PrivacyStats& stats,
                                                              OpStatsTable& ops) {
  std::unique_ptr<PrivateSession> made(new PrivateSession());
  ASSIGN_OR_RETURN(made->pool_, ThreadPool::create(options.threads));
  const PrivacyMode mode = options.private_mode.mode;
  if (masks(mode)) RETURN_IF_ERROR(made->start_pads(options, connect, model, stats, ops));
  ASSIGN_OR_RETURN(made->backend_,
                   PrivateBackend::create({model, options.private_mode, worker, made->pads_.get(),
                                           &made->pad_key_, *made->pool_, stats}));
  return made;
}

Status PrivateSession::start_pads(const ModelOptions& options, const ConnectOptions& connect,
                                  const PrivateModel& model, PrivacyStats& stats,
                                  OpStatsTable& ops) {
  const PrivacyOptions& privacy = options.private_mode;
  ASSIGN_OR_RETURN(pad_key_, model.secret().draw_key(kPadLabel));
  Backend* products = nullptr;
  if (privacy.mode == PrivacyMode::kOtpDealer) {
    ConnectOptions asked = connect;
    asked.endpoint = privacy.dealer_endpoint;
    asked.security = options.dealer_security;
    asked.pulse = nullptr;  // pads are made on another thread
    asked.privacy = Privacy::kDealer;
    auto dealer = ClientSession::connect(asked);
    if (!dealer.ok()) return dealer.status().with_context("the dealer");
    dealer_ = std::move(dealer).value();
    // Once more, now that both sockets are there.
    RETURN_IF_ERROR(check_two_servers(options.endpoint, privacy.dealer_endpoint));
    if (const Status same = check_int8_digest(*dealer_, model); !same.ok())
      return same.with_context("the dealer");
    products = &dealer_->backend();
  } else {
    local_ = std::make_unique<LocalBackend>(model.make_compute());
    products = local_.get();
  }
  products_.emplace(*products, ops);
  const PadMakerOptions maker{model.dims().layers, pad_key_, privacy.pad_bytes, options.op_timeout,
                              connect.pulse};
  ASSIGN_OR_RETURN(pads_, PadMaker::create(maker, model.int8(), *products_, stats));
  return {};
}

}  // namespace airlock
