#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/log.h"
#include "base/output_file.h"
#include "base/process_limits.h"
#include "base/sink.h"
#include "base/thread.h"
#include "proto/limits.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"
#include "runtime/model/model_source.h"
#include "runtime/program/program.h"
#include "runtime/rpc/client.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/trace/trace.h"
#include "tee_runner/llama/driver.h"
#include "tee_runner/measured_backend.h"
#include "tee_runner/options.h"
#include "tee_runner/private_session.h"
#include "tee_runner/recording.h"
#include "tee_runner/replay_command.h"
#include "tee_runner/result.h"
#include "tee_runner/served_llama.h"
#include "tee_runner/stats_reporter.h"
#include "tee_runner/text_commands.h"
#include "tee_runner/text_session.h"
#include "tee_runner/tile_choice.h"
#include "tee_runner/tokenize_command.h"

namespace airlock {
namespace {

/// nullopt for a file that was not asked for.
Result<std::optional<OutputFile>> open_output(const std::string& path) {
  if (path.empty()) return std::optional<OutputFile>();
  ASSIGN_OR_RETURN(OutputFile file, OutputFile::open(path));
  return std::optional<OutputFile>(std::move(file));
}

/// Everything of one prefill but the backend.
struct Prompt {
  LlamaConfig config;
  Tensor norms;
  DType wire = DType::kF32;
  std::vector<std::int32_t> tokens;
};

/// `hidden`: of a private mode, what hides and checks what `backend` is asked; null: none.
/// `connect`: how the server was asked for, and a dealer is.
struct PrefillParts {
  const std::optional<PathPolicy> policy;
  const PrivateModel* hidden = nullptr;
  PrivacyStats* privacy = nullptr;
  OpStatsTable* pad_ops = nullptr;
  ConnectOptions connect;
  std::shared_ptr<ThreadPool> pool;
};

/// options.tile is the driver's.
Result<PrefillResult> prefill(const PrefillOptions& options, Prompt prompt, Backend& backend,
                              TeeStatsTable& tee, Recording& recording, PrefillParts parts = {}) {
  // What is recorded is what crosses.
  Recording::Session session{parts.policy, prompt.wire, prompt.tokens.size(), options.tile};
  if (parts.hidden != nullptr) {
    session.crossing = [&](const std::vector<PlannedOp>& plan) {
      return crossing_ops(options.private_mode, *parts.hidden, plan);
    };
  }
  ASSIGN_OR_RETURN(Backend * asked, recording.start(backend, session));
  std::unique_ptr<PrivateSession> hidden;
  if (parts.hidden != nullptr) {
    ASSIGN_OR_RETURN(hidden, PrivateSession::start(options, parts.connect, *parts.hidden, *asked,
                                                   *parts.privacy, *parts.pad_ops));
    asked = &hidden->backend();
    parts.pool = hidden->pool();
  }
  const LlamaOptions llama{.wire = prompt.wire,
                           .attention = options.attention,
                           .logits = options.all_logits ? Logits::kAll : Logits::kLast,
                           .chunk = options.chunk,
                           .tile = options.tile,
                           .threads = options.threads,
                           .op_timeout = options.op_timeout};
  ASSIGN_OR_RETURN(auto driver, LlamaDriver::create(prompt.config, std::move(prompt.norms), llama,
                                                    *asked, tee, std::move(parts.pool)));
  auto result = run_prefill(*driver, prompt.tokens, options.repeat, [&] { recording.begin_run(); });
  recording.finish(result);
  return result;
}

Result<Prompt> own_prompt(const PrefillOptions& options, const PromptSource& asked,
                          const ModelSource& source) {
  Prompt prompt;
  prompt.config = source.config();
  prompt.wire = is_private(options.private_mode.mode)
                    ? DType::kF32
                    : options.wire.value_or(source.stored_dtype());
  ASSIGN_OR_RETURN(prompt.tokens, asked.tokens(prompt.config.dims.vocab));
  ASSIGN_OR_RETURN(prompt.norms, read_norms(source));
  return prompt;
}

Result<PrefillResult> run_local(const PrefillOptions& options, const PromptSource& asked,
                                const ModelSource& source, const LoadOptions& cpu,
                                OpStatsTable& ops, TeeStatsTable& tee, Recording& recording) {
  ASSIGN_OR_RETURN(Prompt prompt, own_prompt(options, asked, source));
  log_info(fmt::format("loading weights as {}, {} threads", name_of(cpu.dtype), cpu.threads));
  // The ops and what lies between them take turns on one thread: they share the others too.
  ASSIGN_OR_RETURN(std::shared_ptr<ThreadPool> pool, ThreadPool::create(cpu.threads));
  ASSIGN_OR_RETURN(const std::shared_ptr<CpuModel> model, CpuModel::create(source, cpu, pool));
  LocalBackend backend(model->make_compute());
  MeasuredBackend measured(backend, ops);
  PrefillParts parts;
  if (cpu.threads == options.threads) parts.pool = std::move(pool);
  return prefill(options, std::move(prompt), measured, tee, recording, std::move(parts));
}

/// In this process, in the integers of the private modes.
Result<PrefillResult> run_tee_only(PrefillOptions options, const PromptSource& asked,
                                   const ModelSource& source, PrivacyStats& privacy,
                                   OpStatsTable& ops, TeeStatsTable& tee, Recording& recording) {
  options.private_mode.mode = PrivacyMode::kTeeOnly;
  options.private_mode.pad_tokens.clear();
  options.private_mode.decode_rows = 0;
  ASSIGN_OR_RETURN(Prompt prompt, own_prompt(options, asked, source));
  ASSIGN_OR_RETURN(const auto model,
                   PrivateModel::create(source, options.private_mode, options.threads));
  LocalBackend backend(model->make_compute());
  MeasuredBackend measured(backend, ops);
  return prefill(options, std::move(prompt), measured, tee, recording,
                 {{}, model.get(), &privacy, &ops, {}, nullptr});
}

Result<Prompt> servers_prompt(const PrefillOptions& options, const PromptSource& asked,
                              ClientSession& session) {
  ASSIGN_OR_RETURN(ModelFacts facts, ask_for_facts(session, options.op_timeout));
  Prompt prompt;
  prompt.config = facts.config;
  prompt.norms = std::move(facts.norms);
  prompt.wire = options.wire.value_or(session.backend().info().stored_dtype);
  ASSIGN_OR_RETURN(prompt.tokens, asked.tokens(prompt.config.dims.vocab));
  return prompt;
}

/// `digest`: the source's, where it was read already: that may be the whole model; else empty.
Result<PrefillResult> run_remote(PrefillOptions options, const PromptSource& asked,
                                 const ModelSource* source, std::string digest,
                                 StatsReporter& reporter, Recording& recording) {
  std::optional<Prompt> own;  // before connecting: a bad prompt needs no server
  ConnectOptions connect = options;
  ask_for_privacy(options.private_mode, connect);
  if (source != nullptr) {
    ASSIGN_OR_RETURN(own, own_prompt(options, asked, *source));
    if (digest.empty()) {
      ASSIGN_OR_RETURN(digest, source->digest());
    }
    connect.digest = std::move(digest);
    connect.dims = source->config().dims;
  } else if (!asked.is_random()) {
    RETURN_IF_ERROR(asked.tokens(limits::kMaxVocab).status());
  }
  std::unique_ptr<PrivateModel> hidden;
  PrivacyStats* privacy = nullptr;
  if (is_private(options.private_mode.mode)) {
    ASSIGN_OR_RETURN(hidden, PrivateModel::create(*source, options.private_mode, options.threads));
    privacy = &reporter.privacy(name_of(options.private_mode.mode));
  }
  if (options.dtype) log_warning("--dtype is for --backend local: the server's own type counts");
  ASSIGN_OR_RETURN(const std::unique_ptr<ClientSession> session, ClientSession::connect(connect));
  ReportedSession reported(reporter, *session);
  if (hidden != nullptr) RETURN_IF_ERROR(check_int8_digest(*session, *hidden));
  const BackendInfo info = session->backend().info();
  reporter.set_device(info.device);
  reporter.add_config("dtype", name_of(info.dtype));
  reporter.add_config("epoch", fmt::format("{:016x}", session->epoch()));
  if (!own) {
    ASSIGN_OR_RETURN(own, servers_prompt(options, asked, *session));
  }
  options.tile = tile_for(options, info);
  reporter.add_config("tile", tile_text(options.tile));
  const DType wire = own->wire;
  reporter.add_config("wire", name_of(wire));
  ASSIGN_OR_RETURN(
      PrefillResult result,
      prefill(options, std::move(*own), session->backend(), reporter.tee(), recording,
              {session->policy(), hidden.get(), privacy, &reporter.local_ops(), connect, nullptr}));
  // The last result lay in the ring: a server that had ended by then may have taken its memory
  // away.
  RETURN_IF_ERROR(session->check());
  const OpSnapshotTable ops = snapshot_of(session->op_stats());
  reported.say_goodbye();
  if (options.compare_local) {
    OpStatsTable local_ops;
    TeeStatsTable local_tee;  // not the pair's
    PrivacyStats local_privacy;
    const PrefillOptions unrecorded;
    Recording no_recording(unrecorded);
    // The server's own thread count where it is a CPU: the comparison is of the airlock, not of
    // cores.
    const LoadOptions cpu{
        info.dtype, info.device.starts_with("cpu") ? info.threads : options.threads, {}};
    ASSIGN_OR_RETURN(const PrefillResult local,
                     hidden != nullptr ? run_tee_only(options, asked, *source, local_privacy,
                                                      local_ops, local_tee, no_recording)
                                       : run_local(options, asked, *source, cpu, local_ops,
                                                   local_tee, no_recording));
    result.comparison = compare(result, ops, info, wire, local, snapshot_of(local_ops));
  }
  return result;
}

Result<PrefillResult> run_alone(PrefillOptions options, const PromptSource& asked,
                                const ModelSource& source, StatsReporter& reporter,
                                Recording& recording) {
  options.tile = tile_for(options, {});
  reporter.add_config("tile", tile_text(options.tile));
  const DType stored = source.stored_dtype();
  const LoadOptions cpu{options.dtype.value_or(stored), options.threads, {}};
  reporter.set_device("cpu");
  if (options.private_mode.mode == PrivacyMode::kTeeOnly) {
    return run_tee_only(options, asked, source,
                        reporter.privacy(name_of(options.private_mode.mode)), reporter.local_ops(),
                        reporter.tee(), recording);
  }
  reporter.add_config("dtype", name_of(cpu.dtype));
  reporter.add_config("wire", name_of(options.wire.value_or(stored)));
  return run_local(options, asked, source, cpu, reporter.local_ops(), reporter.tee(), recording);
}

Status run(const PrefillOptions& options, StatsReporter& reporter) {
  reporter.add_config("model", options.model.empty() ? options.synthetic : options.model);
  reporter.add_config("backend", name_of(options.backend));
  announce_privacy(options, reporter);
  if (is_private(options.private_mode.mode)) keep_words_private();
  reporter.add_config("attention", name_of(options.attention));
  if (options.chunk > 0) reporter.add_config("chunk", std::to_string(options.chunk));
  reporter.add_config("threads", std::to_string(options.threads));
  reporter.add_config("repeat", std::to_string(options.repeat));
  ASSIGN_OR_RETURN(const std::optional<OutputFile> logits_out, open_output(options.logits_out));
  Recording recording(options);
  RETURN_IF_ERROR(recording.check());
  ASSIGN_OR_RETURN(const PromptSource asked, PromptSource::read(options));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, open_model(options));
  std::string digest;
  if (!options.model_digest.empty()) {
    ASSIGN_OR_RETURN(digest, source->digest());
    RETURN_IF_ERROR(check_model_digest(options, digest));
  }
  const auto result =
      options.backend == BackendChoice::kLocal
          ? run_alone(options, asked, *source, reporter, recording)
          : run_remote(options, asked, source.get(), std::move(digest), reporter, recording);
  if (const auto cost_ns = recording.cost_ns()) {
    reporter.add_config("record_cost_ns", std::to_string(*cost_ns));
  }
  if (!result.ok()) return result.status();
  reporter.add_config("tokens", std::to_string(result->tokens));
  Status status;
  if (logits_out) {
    TensorView logits = result->logits.view();
    if (!options.all_logits) logits.desc.shape = Shape{logits.desc.shape[1]};
    status = write_npy(*logits_out, logits);
  }
  // What one output lacks the others have all the same.
  status = first_failure(std::move(status), print(format_result(*result, options.output)));
  if (result->comparison)
    status = first_failure(std::move(status), check_comparison(*result->comparison));
  return first_failure(std::move(status), recording.status());
}

Status warn_of_exposure(const RunnerOptions& options) {
  if (options.security != nullptr) return {};
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(options.endpoint));
  warn_of_exposure(endpoint);
  return {};
}
Status warn_of_exposure(const ModelOptions& options) {
  if (options.backend == BackendChoice::kLocal) return {};
  const std::string& dealer = options.private_mode.dealer_endpoint;
  if (!dealer.empty() && options.dealer_security == nullptr) {
    ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(dealer));
    warn_of_exposure(endpoint);
  }
  return warn_of_exposure(static_cast<const RunnerOptions&>(options));
}

/// Of one session; measured: 9, and the files of a model; a dealer's session takes as many more.
/// Two for each further data socket of both.
constexpr std::size_t kDescriptors = 24 + 4 * limits::kMaxDataSockets;

/// The statistics are written after a failure, too.
Status run_and_report(const auto& options) {
  RETURN_IF_ERROR(ensure_descriptors(kDescriptors));
  ASSIGN_OR_RETURN(std::optional<OutputFile> stats_json, open_output(options.stats_json));
  // A stderr that nobody reads holds up neither the run nor a signal that ends it.
  RETURN_IF_ERROR(stderr_sink().start_writer());
  ASSIGN_OR_RETURN(const auto reporter, StatsReporter::create(std::move(stats_json)));
  reporter->add_config("build", build_name());
  RETURN_IF_ERROR(warn_of_exposure(options));
  Status status = without_exceptions([&] { return run(options, *reporter); });
  return first_failure(std::move(status), reporter->write());
}

Status run_command(const auto& options) { return run_and_report(options); }
Status run_command(const TokenizeOptions& options) { return run(options); }

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  return airlock::run_program(
      "tee_runner", [&] { return airlock::parse_options(argc, argv); },
      [](const airlock::Command& command) {
        return std::visit([](const auto& options) { return airlock::run_command(options); },
                          command);
      });
}
