#include "tee_runner/served_llama.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"
#include "tee_runner/measured_backend.h"

namespace airlock {

namespace {

constexpr std::chrono::milliseconds kReconnectPatience{300};

LlamaOptions driver_options(const TextOptions& options, DType wire) {
  return {.wire = wire,
          .attention = Attention::kTee,
          .threads = options.threads,
          .op_timeout = options.op_timeout};
}

class LocalLlama final : public EngineModel {
 public:
  LocalLlama(std::unique_ptr<Compute> compute, OpStatsTable& ops)
      : backend_(std::move(compute)), measured_(backend_, ops) {}

  Backend& backend() { return measured_; }
  Status begin(const LlamaConfig& config, Tensor norms, const LlamaOptions& options, Backend& asked,
               TeeStatsTable& tee, std::shared_ptr<ThreadPool> pool) {
    ASSIGN_OR_RETURN(driver_, LlamaDriver::create(config, std::move(norms), options, asked, tee,
                                                  std::move(pool)));
    return {};
  }
  LlamaDriver& driver() override { return *driver_; }
  Status check() override { return {}; }

 private:
  LocalBackend backend_;
  MeasuredBackend measured_;
  std::unique_ptr<LlamaDriver> driver_;
};

class RemoteLlama final : public EngineModel {
 public:
  RemoteLlama(std::unique_ptr<ClientSession> session, StatsReporter& reporter)
      : session_(std::move(session)), reported_(reporter, *session_) {}
  ~RemoteLlama() override { reported_.say_goodbye(); }

  ClientSession& session() { return *session_; }
  Status begin(const LlamaConfig& config, Tensor norms, const LlamaOptions& options, Backend& asked,
               TeeStatsTable& tee) {
    ASSIGN_OR_RETURN(driver_, LlamaDriver::create(config, std::move(norms), options, asked, tee));
    return {};
  }
  LlamaDriver& driver() override { return *driver_; }
  Status check() override { return session_->check(); }

 private:
  const std::unique_ptr<ClientSession> session_;
  ReportedSession reported_;
  std::unique_ptr<LlamaDriver> driver_;
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
  return options_.backend == BackendChoice::kLocal ? make_local() : make_remote();
}

void LlamaSource::describe(DType dtype, DType wire) {
  if (std::exchange(is_described_, true)) return;
  reporter_.add_config("dtype", name_of(dtype));
  reporter_.add_config("wire", name_of(wire));
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
  config_ = model_->config();
  reporter_.set_device("cpu");
  describe(cpu.dtype, wire);
  log_info(fmt::format("loading weights as {}, {} threads", name_of(cpu.dtype), cpu.threads));
  // The ops and what lies between them take turns on one thread: they share the others too.
  ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ThreadPool::create(cpu.threads));
  ASSIGN_OR_RETURN(const std::shared_ptr<CpuModel> computes, CpuModel::create(*model_, cpu, pool));
  ASSIGN_OR_RETURN(Tensor norms, read_norms(*model_));
  auto made = std::make_unique<LocalLlama>(computes->make_compute(), reporter_.local_ops());
  ASSIGN_OR_RETURN(Backend* const asked, recorded(made->backend(), std::nullopt, wire));
  RETURN_IF_ERROR(made->begin(config_, std::move(norms), driver_options(options_, wire), *asked,
                              reporter_.tee(), std::move(pool)));
  return std::unique_ptr<EngineModel>(std::move(made));
}

Result<std::unique_ptr<EngineModel>> LlamaSource::make_remote() {
  ConnectOptions connect = options_;
  // Who asks again, asks again soon: nothing that ends meanwhile waits for it.
  if (is_described_) connect.patience = std::min(options_.timeout, kReconnectPatience);
  if (model_ != nullptr) {
    ASSIGN_OR_RETURN(connect.digest, model_->digest());
    connect.dims = model_->config().dims;
  }
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
  const DType wire =
      options_.wire.value_or(model_ != nullptr ? model_->stored_dtype() : info.stored_dtype);
  reporter_.set_device(info.device);
  describe(info.dtype, wire);
  ASSIGN_OR_RETURN(Backend* const asked, recorded(backend, made->session().policy(), wire));
  RETURN_IF_ERROR(made->begin(facts.config, std::move(facts.norms), driver_options(options_, wire),
                              *asked, reporter_.tee()));
  config_ = facts.config;
  return std::unique_ptr<EngineModel>(std::move(made));
}

}  // namespace airlock
