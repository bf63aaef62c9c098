#include "tee_runner/recording.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <numeric>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/log.h"
#include "runtime/model/forward_plan.h"
#include "runtime/stats/report.h"
#include "runtime/trace/trace_line.h"

namespace airlock {
namespace {

std::string base_name(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

/// Where a trace would mix with the result; nobody reads /dev/null.
bool is_stdout(const struct stat& info) {
  struct stat out {};
  if (::fstat(STDOUT_FILENO, &out) != 0) return false;
  return info.st_dev == out.st_dev && info.st_ino == out.st_ino &&
         (!S_ISCHR(info.st_mode) || ::isatty(STDOUT_FILENO) == 1);
}

std::string payload_path(const PrefillOptions& options) { return options.record + ".safetensors"; }

Status no_place(const std::string& path, int error) {
  return {StatusCode::kInvalidInput, "cannot write the trace {}: {}", path,
          std::generic_category().message(error)};
}

}  // namespace

Status Recording::check_place() const {
  const std::string& path = options_.record;
  struct stat info {};
  const bool exists = ::stat(path.c_str(), &info) == 0;
  if (exists && S_ISDIR(info.st_mode)) return no_place(path, EISDIR);
  if (exists && is_stdout(info)) {
    return {StatusCode::kUsage, "--record {}: that is stdout, where the result goes; give a file",
            path};
  }
  if (exists && ::access(path.c_str(), W_OK) != 0) return no_place(path, errno);
  if (exists && !S_ISREG(info.st_mode)) return {};  // a pipe or a device
  struct stat itself {};
  if (::lstat(path.c_str(), &itself) == 0 && S_ISLNK(itself.st_mode)) {
    return {StatusCode::kInvalidInput,
            "cannot write the trace {}: it is a symbolic link; name the file itself", path};
  }
  // The trace is a new file, also in the place of an old one.
  if (::access(folder_of(path).c_str(), W_OK | X_OK) != 0) return no_place(path, errno);
  return {};
}

Status Recording::check_payload_place() const {
  const std::string path = payload_path(options_);
  const std::string name = base_name(path);
  if (!is_payload_name(name)) {
    return {StatusCode::kUsage,
            "--record-payload: a file beside the trace cannot be called {}: choose another name "
            "for --record, one without a dot at its beginning",
            name};
  }
  std::error_code ignored;
  if (!options_.model.empty() &&
      std::filesystem::equivalent(folder_of(path), options_.model, ignored)) {
    return {StatusCode::kUsage,
            "--record-payload would put {} among the weights of --model {}: choose another folder "
            "for --record",
            path, options_.model};
  }
  return PayloadWriter::check_place(path);
}

Status Recording::check() const {
  if (options_.record.empty()) return {};
  RETURN_IF_ERROR(check_place());
  return options_.record_payload ? check_payload_place() : Status();
}

TraceHeader Recording::header(const BackendInfo& info, const Session& session) const {
  TraceHeader header;
  header.source = TraceSource::kRecorded;
  header.build = build_name();
  header.host = describe_host(info.device);
  header.started_at = utc_now();
  header.model = base_name(options_.model.empty() ? options_.synthetic : options_.model);
  header.dims = info.dims;
  header.digest = info.digest;
  header.tokens = static_cast<std::int64_t>(session.tokens);
  header.runs = options_.repeat;
  header.wire = session.wire;
  header.dtype = info.dtype;
  header.attention = name_of(options_.attention);
  header.backend = session.policy ? "remote" : "local";
  if (session.policy && session.policy->has_ring) {
    header.path_limit_bytes = session.policy->limit_bytes;
    header.ring_slots = static_cast<std::uint32_t>(session.policy->slot_count);
  }
  header.digests = digests();
  if (options_.record_payload) header.payload = base_name(payload_path(options_));
  return header;
}

Result<Backend*> Recording::start(Backend& inner, const Session& session) {
  if (options_.record.empty()) return &inner;
  const BackendInfo& info = inner.info();
  const std::string& path = options_.record;
  if (options_.record_payload) {
    const ForwardShape prompt{static_cast<std::int64_t>(session.tokens), session.wire,
                              options_.attention,
                              options_.all_logits ? Logits::kAll : Logits::kLast};
    // The dims may be the server's word.
    ASSIGN_OR_RETURN(const std::vector<PlannedOp> plan,
                     plan_forward(info.dims, prompt, options_.chunk));
    const PayloadNeed need = payload_need(info.dims, plan, options_.repeat);
    ASSIGN_OR_RETURN(payload_, PayloadWriter::create(payload_path(options_), need));
  }
  // What was asked for whole is waited for.
  ASSIGN_OR_RETURN(writer_, TraceWriter::create(path, header(info, session),
                                                digests() ? TraceWriter::WhenFull::kWait
                                                          : TraceWriter::WhenFull::kDrop));
  say_start();
  const RecordingOptions recording{session.policy, digests(), payload_.get()};
  backend_ = std::make_unique<RecordingBackend>(
      inner, recording, [this](TraceRecord record) { writer_->add(std::move(record)); });
  return backend_.get();
}

void Recording::say_start() const {
  std::string what;
  if (options_.record_payload) {
    what = fmt::format(" and every tensor to {}: the prompt and all activations can be read there",
                       payload_path(options_));
  } else if (options_.record_digest) {
    what = " with a digest of every tensor: what a TEE hides can be searched for";
  }
  log_info(fmt::format("recording a trace to {}{}", options_.record, what));
}

void Recording::begin_run() {
  if (backend_) backend_->begin_run();
}

void Recording::say_cost(std::uint64_t runs_ns) const {
  if (!digests()) return;
  log_info(fmt::format("recording cost {:.2f} s of {:.2f} s: {}",
                       static_cast<double>(*cost_ns_) / 1e9, static_cast<double>(runs_ns) / 1e9,
                       options_.record_payload ? "digests and payloads" : "digests"));
}

void Recording::finish(const Result<PrefillResult>& result) {
  if (!backend_) return;
  cost_ns_ = backend_->cost_ns();
  status_ = backend_->status();
  backend_.reset();
  if (result.ok()) {
    const std::uint64_t runs_ns =
        std::accumulate(result->runs_ns.begin(), result->runs_ns.end(), std::uint64_t{0});
    say_cost(runs_ns);
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
