#include "tee_runner/recording.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "base/output_file.h"
#include "runtime/model/digest.h"
#include "runtime/model/forward_plan.h"
#include "runtime/stats/report.h"
#include "runtime/trace/trace_line.h"

namespace airlock {
namespace {

std::string base_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

/// Where a trace would mix with the result; nobody reads /dev/null.
bool is_stdout(const struct stat& info) {
  struct stat out {};
  if (::fstat(STDOUT_FILENO, &out) != 0) return false;
  return info.st_dev == out.st_dev && info.st_ino == out.st_ino &&
         (!S_ISCHR(info.st_mode) || ::isatty(STDOUT_FILENO) == 1);
}

/// Adds the time of a scope to `cost_ns`.
class CostTimer {
 public:
  explicit CostTimer(std::uint64_t& cost_ns) : cost_ns_(cost_ns), start_ns_(now_ns()) {}
  ~CostTimer() { cost_ns_ += now_ns() - start_ns_; }
  CostTimer(const CostTimer&) = delete;
  CostTimer& operator=(const CostTimer&) = delete;

 private:
  std::uint64_t& cost_ns_;
  const std::uint64_t start_ns_;
};

Status check_payload_place(const PrefillOptions& options, const std::string& path) {
  const std::string name = base_name(path);
  if (!is_payload_name(name)) {
    return {StatusCode::kUsage,
            "--record-payload: a file beside the trace cannot be called {}: choose another name "
            "for --record, one without a dot at its beginning",
            name};
  }
  std::error_code ignored;
  if (!options.model.empty() &&
      std::filesystem::equivalent(folder_of(path), options.model, ignored)) {
    return {StatusCode::kUsage,
            "--record-payload would put {} among the weights of --model {}: choose another folder "
            "for --record",
            path, options.model};
  }
  return PayloadWriter::check_place(path);
}

TraceHeader make_header(const PrefillOptions& options, const BackendInfo& info,
                        const Recording::Session& session, const std::string& payload_path) {
  TraceHeader header;
  header.source = TraceSource::kRecorded;
  header.build = build_name();
  header.host = describe_host(info.device);
  header.started_at = utc_now();
  header.model = base_name(options.model.empty() ? options.synthetic : options.model);
  header.dims = info.dims;
  header.digest = info.digest;
  header.tokens = static_cast<std::int64_t>(session.tokens);
  header.runs = options.repeat;
  header.wire = session.wire;
  header.dtype = info.dtype;
  header.attention = name_of(options.attention);
  header.backend = session.policy ? "remote" : "local";
  if (session.policy && session.policy->has_ring) {
    header.path_limit_bytes = session.policy->limit_bytes;
    header.ring_slots = static_cast<std::uint32_t>(session.policy->slot_count);
  }
  header.digests = options.record_digest || options.record_payload;
  if (options.record_payload) header.payload = base_name(payload_path);
  return header;
}

}  // namespace

class RecordingBackend::RecordingPending : public ForwardingPending {
 public:
  RecordingPending(RecordingBackend& owner, std::unique_ptr<Pending> inner, TraceRecord record,
                   std::uint64_t prepare_ns)
      : ForwardingPending(std::move(inner)),
        owner_(owner),
        record_(std::move(record)),
        prepare_ns_(prepare_ns) {}

  Status submit() override {
    {
      const CostTimer timer(owner_.cost_ns_);
      record_.seq = owner_.next_seq_++;
      record_.run = owner_.runs_ == 0 ? 0 : owner_.runs_ - 1;
      if (!record_.weights.empty()) owner_.layer_ = record_.weights[0].layer;
      if (!record_.weights.empty() || !is_outside_layers(record_.op)) record_.layer = owner_.layer_;
      for (std::size_t i = 0; i < record_.inputs.size(); ++i)
        owner_.keep(record_, TraceSide::kInput, i, input(i));
    }
    const std::uint64_t now = now_ns();
    if (owner_.origin_ns_ == 0) owner_.origin_ns_ = now - owner_.cost_ns_;
    // A trace has an op as one span: what prepare() took stands right before submit().
    record_.start_ns = now - std::min(now, owner_.origin_ns_ + owner_.cost_ns_ + prepare_ns_);
    return ForwardingPending::submit();
  }
  Status wait() override {
    Status status = ForwardingPending::wait();
    if (status.ok() && !std::exchange(recorded_, true)) record();
    return status;
  }

 private:
  void record() {
    const CostTimer timer(owner_.cost_ns_);
    record_.times = times();
    record_.times.device = {};
    record_.slots_in_use = static_cast<std::uint32_t>(slots_in_use());
    for (std::size_t i = 0; i < record_.outputs.size(); ++i)
      owner_.keep(record_, TraceSide::kOutput, i, result(i));
    if (owner_.status_.ok()) owner_.sink_(std::move(record_));
  }

  RecordingBackend& owner_;
  TraceRecord record_;
  const std::uint64_t prepare_ns_;
  bool recorded_ = false;
};

void RecordingBackend::begin_run() {
  if (origin_ns_ == 0) origin_ns_ = now_ns();
  ++runs_;
}

Result<std::unique_ptr<Pending>> RecordingBackend::prepare(const OpSpec& spec, Deadline deadline) {
  const std::uint64_t start_ns = now_ns();
  ASSIGN_OR_RETURN(auto pending, inner_.prepare(spec, deadline));
  const std::uint64_t prepare_ns = now_ns() - start_ns;
  const CostTimer timer(cost_ns_);
  TraceRecord record = make_record(spec, pending->result_descs(), options_.policy);
  return std::unique_ptr<Pending>(
      std::make_unique<RecordingPending>(*this, std::move(pending), std::move(record), prepare_ns));
}

void RecordingBackend::keep(TraceRecord& record, TraceSide side, std::size_t index,
                            TensorView tensor) {
  if (!status_.ok() || !is_kept(record.op)) return;
  auto& tensors = side == TraceSide::kInput ? record.inputs : record.outputs;
  if (options_.payload != nullptr) {
    auto digest = options_.payload->add(payload_tensor_name(record.seq, side, index), tensor);
    if (digest.ok()) {
      tensors[index].sha256 = std::move(*digest);
    } else {
      status_ = digest.status();
    }
  } else if (options_.digests) {
    tensors[index].sha256 = sha256_of(tensor.bytes());
  }
}

Status Recording::check() {
  const std::string& path = options_.record;
  if (path.empty()) return {};
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && is_stdout(info)) {
    return {StatusCode::kUsage, "--record {}: that is stdout, where the result goes; give a file",
            path};
  }
  ASSIGN_OR_RETURN(place_, OutputFile::open(path));
  payload_path_ = new_payload_path(options_);
  return options_.record_payload ? check_payload_place(options_, payload_path_) : Status();
}

Result<Backend*> Recording::start(Backend& inner, const Session& session) {
  if (!place_) return &inner;
  const BackendInfo& info = inner.info();
  const std::string& path = options_.record;
  if (options_.record_payload) {
    const ForwardShape prompt{static_cast<std::int64_t>(session.tokens),
                              session.wire,
                              options_.attention,
                              options_.all_logits ? Logits::kAll : Logits::kLast,
                              0,
                              kMaxScoreBytes,
                              0,
                              session.tile};
    // The dims may be the server's word.
    ASSIGN_OR_RETURN(std::vector<PlannedOp> plan, plan_forward(info.dims, prompt, options_.chunk));
    if (session.crossing) plan = session.crossing(plan);
    const PayloadNeed need = payload_need(info.dims, plan, options_.repeat);
    ASSIGN_OR_RETURN(payload_, PayloadWriter::prepare(payload_path_, need));
  }
  // What was asked for whole is waited for.
  const auto when_full = digests() ? TraceWriter::WhenFull::kWait : TraceWriter::WhenFull::kDrop;
  ASSIGN_OR_RETURN(
      writer_, TraceWriter::create(*std::exchange(place_, std::nullopt),
                                   make_header(options_, info, session, payload_path_), when_full));
  // Last: where a file cannot be made, the older pair is still there.
  if (payload_) RETURN_IF_ERROR(payload_->take_place());
  std::string what;
  if (options_.record_payload) {
    what = fmt::format(" and every tensor to {}: the prompt and all activations can be read there",
                       payload_path_);
  } else if (options_.record_digest) {
    what = " with a digest of every tensor: what a TEE hides can be searched for";
  }
  log_info(fmt::format("recording a trace to {}{}", path, what));
  const RecordingOptions recording{session.policy, digests(), payload_.get()};
  backend_ = std::make_unique<RecordingBackend>(
      inner, recording, [this](TraceRecord record) { writer_->add(std::move(record)); });
  return backend_.get();
}

void Recording::begin_run() {
  if (backend_) backend_->begin_run();
}

void Recording::finish(const Result<PrefillResult>& result) {
  if (!backend_) return;
  cost_ns_ = backend_->cost_ns();
  status_ = backend_->status();
  backend_.reset();
  if (result.ok()) {
    const std::uint64_t runs_ns =
        std::accumulate(result->runs_ns.begin(), result->runs_ns.end(), std::uint64_t{0});
    if (digests()) {
      log_info(fmt::format("recording cost {:.2f} s of {:.2f} s: {}",
                           static_cast<double>(*cost_ns_) / 1e9, static_cast<double>(runs_ns) / 1e9,
                           options_.record_payload ? "digests and payloads" : "digests"));
    }
    if (status_.ok()) status_ = writer_->close(runs_ns - std::min(runs_ns, *cost_ns_));
    if (const std::uint64_t dropped = writer_->dropped(); status_.ok() && dropped > 0) {
      log_warning(fmt::format("{} ops are missing from {}: the disk was too slow", dropped,
                              options_.record));
    }
  }
  writer_.reset();  // of a run that failed: it stays as one that was cut off
  payload_.reset();
}

}  // namespace airlock
