#include "tee_runner/served_llama.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"
#include "tee_runner/measured_backend.h"
#include "tee_runner/private_session.h"
#include "tee_runner/tile_choice.h"

namespace airlock {

/// A driver, and what hides and checks its ops where the mode does.
struct Driven {
  std::unique_ptr<PrivateSession> hidden;
  std::unique_ptr<LlamaDriver> driver;
};

namespace {

constexpr std::chrono::milliseconds kReconnectPatience{300};

LlamaOptions driver_options(const TextOptions& options, const BackendInfo& server, DType wire,
                            Pulse& pulse) {
  return {.wire = wire,
          .attention = Attention::kTee,
          .tile = tile_for(options, server),
          .threads = options.threads,
          .op_timeout = options.op_timeout,
          .pulse = &pulse};
}

class LocalLlama final : public EngineModel {
 public:
  LocalLlama(std::unique_ptr<Compute> compute, OpStatsTable& ops)
      : backend_(std::move(compute)), measured_(backend_, ops) {}

  Backend& backend() { return measured_; }
  Driven& driven() { return driven_; }
  LlamaDriver& driver() override { return *driven_.driver; }
  Status check() override { return {}; }

 private:
  LocalBackend backend_;
  MeasuredBackend measured_;
  Driven driven_;
};

class RemoteLlama final : public EngineModel {
 public:
  RemoteLlama(std::unique_ptr<ClientSession> session, StatsReporter& reporter)
      : session_(std::move(session)), reported_(reporter, *session_) {}
  ~RemoteLlama() override { reported_.say_goodbye(); }

  ClientSession& session() { return *session_; }
  Driven& driven() { return driven_; }
  LlamaDriver& driver() override { return *driven_.driver; }
  Status check() override {
    RETURN_IF_ERROR(session_->check());
    return driven_.hidden == nullptr ? Status() : driven_.hidden->check();
  }

 private:
  const std::unique_ptr<ClientSession> session_;
  ReportedSession reported_;
  Driven driven_;
};

}  // namespace

Result<std::unique_ptr<ModelSource>> open_model(const ModelOptions& options) {
  if (!options.model.empty()) return open_model_directory(options.model);
  if (!options.synthetic.empty())
    return make_synthetic_model(options.synthetic, options.weights_seed);
  return std::unique_ptr<ModelSource>();
}

Result<ModelFacts> ask_for_facts(ClientSession& session, std::chrono::nanoseconds timeout) {
  log_info("no --model and no --synthetic: config and norm weights are the server's word");
  ModelFacts facts;
  std::string config_json;
  RETURN_IF_ERROR(session.backend().init(session.config_bytes(), config_json, facts.norms,
                                         Deadline::after(timeout)));
  auto config = parse_config(config_json, "the server's config");
  if (!config.ok()) return Status(StatusCode::kProtocolError, config.status().message());
  if (!(config->dims == session.backend().info().dims)) {
    return Status(StatusCode::kProtocolError,
                  "the server's config has other dimensions than its handshake told");
  }
  facts.config = *config;
  return facts;
}

Result<std::unique_ptr<EngineModel>> LlamaSource::make() {
  was_refused_ = false;
  if (!options_.model_digest.empty()) {
    ASSIGN_OR_RETURN(const std::string own, digest());
    RETURN_IF_ERROR(check_model_digest(options_, own));
  }
  if (is_private(options_.private_mode.mode) && private_model_ == nullptr) {
    ASSIGN_OR_RETURN(private_model_,
                     PrivateModel::create(*model_, options_.private_mode, options_.threads));
  }
  if (options_.private_mode.mode == PrivacyMode::kTeeOnly) return make_tee_only();
  return options_.backend == BackendChoice::kLocal ? make_local() : make_remote();
}

/// `asked`: the backend that computes, or one around it, and what the driver asks: that, or what
/// hides and checks what it is asked.
Status LlamaSource::drive(Driven& driven, ModelFacts facts, const ConnectOptions& connect,
                          Backend& asked, DType wire, std::shared_ptr<ThreadPool> pool) {
  config_ = facts.config;
  Backend* shown = &asked;
  if (private_model_ != nullptr) {
    ASSIGN_OR_RETURN(driven.hidden,
                     PrivateSession::start(options_, connect, *private_model_, asked,
                                           reporter_.privacy(name_of(options_.private_mode.mode)),
                                           reporter_.local_ops()));
    shown = &driven.hidden->backend();
    pool = driven.hidden->pool();
  }
  ASSIGN_OR_RETURN(driven.driver,
                   LlamaDriver::create(facts.config, std::move(facts.norms),
                                       driver_options(options_, shown->info(), wire, pulse_),
                                       *shown, reporter_.tee(), std::move(pool)));
  return {};
}

Result<std::unique_ptr<EngineModel>> LlamaSource::make_tee_only() {
  reporter_.set_device("cpu");
  describe({}, DType::kF32);
  ModelFacts facts{model_->config(), {}};
  ASSIGN_OR_RETURN(facts.norms, read_norms(*model_));
  auto made = std::make_unique<LocalLlama>(private_model_->make_compute(), reporter_.local_ops());
  ASSIGN_OR_RETURN(Backend* const asked, recorded(made->backend(), std::nullopt, DType::kF32));
  RETURN_IF_ERROR(drive(made->driven(), std::move(facts), options_, *asked, DType::kF32, nullptr));
  return std::unique_ptr<EngineModel>(std::move(made));
}

void LlamaSource::describe(const BackendInfo& info, DType wire) {
  if (std::exchange(is_described_, true)) return;
  reporter_.add_config("dtype", name_of(info.dtype));
  reporter_.add_config("wire", name_of(wire));
  reporter_.add_config("tile", tile_text(tile_for(options_, info)));
}

Result<Backend*> LlamaSource::recorded(Backend& backend, const std::optional<PathPolicy>& policy,
                                       DType wire) {
  if (recording_ == nullptr) return &backend;
  ASSIGN_OR_RETURN(Backend* const asked,
                   recording_->start(backend, {policy, wire, prompt_tokens_}));
  recording_->begin_run();
  return asked;
}

Result<std::unique_ptr<EngineModel>> LlamaSource::make_local() {
  const DType stored = model_->stored_dtype();
  const LoadOptions cpu{options_.dtype.value_or(stored), options_.threads, {}};
  const DType wire = options_.wire.value_or(stored);
  reporter_.set_device("cpu");
  BackendInfo here;
  here.dtype = cpu.dtype;
  describe(here, wire);
  log_info(fmt::format("loading weights as {}, {} threads", name_of(cpu.dtype), cpu.threads));
  // The ops and what lies between them take turns on one thread: they share the others too.
  ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ThreadPool::create(cpu.threads));
  ASSIGN_OR_RETURN(const std::shared_ptr<CpuModel> computes, CpuModel::create(*model_, cpu, pool));
  ModelFacts facts{model_->config(), {}};
  ASSIGN_OR_RETURN(facts.norms, read_norms(*model_));
  auto made = std::make_unique<LocalLlama>(computes->make_compute(), reporter_.local_ops());
  ASSIGN_OR_RETURN(Backend* const asked, recorded(made->backend(), std::nullopt, wire));
  RETURN_IF_ERROR(drive(made->driven(), std::move(facts), options_, *asked, wire, std::move(pool)));
  return std::unique_ptr<EngineModel>(std::move(made));
}

/// Read once: where no cache may be written it is the whole model that is read.
Result<std::string> LlamaSource::digest() {
  if (digest_.empty()) {
    ASSIGN_OR_RETURN(digest_, model_->digest());
  }
  return digest_;
}

Result<std::unique_ptr<EngineModel>> LlamaSource::make_remote() {
  ConnectOptions connect = options_;
  // Who asks again, asks again soon: nothing that ends meanwhile waits for it.
  if (is_described_) connect.patience = std::min(options_.timeout, kReconnectPatience);
  if (model_ != nullptr) {
    ASSIGN_OR_RETURN(connect.digest, digest());
    connect.dims = model_->config().dims;
  }
  connect.cancelled = &cancelled_;
  connect.refused = &was_refused_;
  connect.pulse = &pulse_;
  ask_for_privacy(options_.private_mode, connect);
  if (options_.dtype && !is_described_)
    log_warning("--dtype is for --backend local: the server's own type counts");
  ASSIGN_OR_RETURN(auto session, ClientSession::connect(connect));
  auto made = std::make_unique<RemoteLlama>(std::move(session), reporter_);
  RemoteBackend& backend = made->session().backend();
  const BackendInfo& info = backend.info();
  ModelFacts facts;
  if (model_ != nullptr) {
    facts.config = model_->config();
    ASSIGN_OR_RETURN(facts.norms, read_norms(*model_));
  } else {
    ASSIGN_OR_RETURN(facts, ask_for_facts(made->session(), options_.op_timeout));
  }
  const bool hides = is_private(options_.private_mode.mode);
  const DType stored = model_ != nullptr ? model_->stored_dtype() : info.stored_dtype;
  const DType wire = hides ? DType::kF32 : options_.wire.value_or(stored);
  reporter_.set_device(info.device);
  describe(info, wire);
  if (hides) RETURN_IF_ERROR(check_int8_digest(made->session(), *private_model_));
  ASSIGN_OR_RETURN(Backend* const asked, recorded(backend, made->session().policy(), wire));
  RETURN_IF_ERROR(drive(made->driven(), std::move(facts), connect, *asked, wire, nullptr));
  return std::unique_ptr<EngineModel>(std::move(made));
}

}  // namespace airlock
