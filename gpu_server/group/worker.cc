#include "gpu_server/group/worker.h"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/thread.h"
#include "gpu_server/group/worker_ops.h"
#include "proto/message.h"

namespace airlock {

namespace {

constexpr std::size_t kLeader = 0;
constexpr std::size_t kMaxIdleBufferBytes = std::size_t{256} << 20;
/// Until what the leader is told last has gone.
constexpr std::chrono::seconds kLastWords{2};

class Worker {
 public:
  Worker(GroupLink& link, const WorkerGround& ground)
      : ground_(ground), port_(link, ground.timing), buffers_(kMaxIdleBufferBytes) {}

  ~Worker() {
    if (loader_.joinable()) loader_.join();
    if (maker_.joinable()) maker_.join();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  Status run() {
    RETURN_IF_ERROR(port_.listen(kLeader, ground_.timing.silence));
    RETURN_IF_ERROR(
        port_.send(kLeader, {.kind = FrameKind::kHello, .body = encode(ground_.hello)}));
    const Status status = without_exceptions([this] { return serve(); });
    if (status.ok()) return say_and_part({.kind = FrameKind::kStopped});
    // A leader that is gone is told nothing.
    if (status.code() != StatusCode::kUnavailable) {
      (void)say_and_part(Frame::of_text(
          FrameKind::kFailed, static_cast<std::uint64_t>(status.code()), status.message()));
    }
    return status;
  }

 private:
  /// Something that another thread has made; what it failed with ends the worker.
  struct Made {
    std::optional<Result<LoadedShare>> share;
    std::optional<Result<std::string>> int8_lines;
    std::vector<WorkerOps::Job> jobs;
  };

  Status serve() {
    const GroupPort::Take take = [this](std::size_t, Frame frame) { return handle(frame); };
    while (!stopped_) {
      auto came = port_.turn(take);
      if (!came.ok()) return name_silence(came.status());
      if (*came) rest_.reset();
      RETURN_IF_ERROR(finish_made());
      if (launcher_.is_gone()) return {StatusCode::kDevice, "the launcher is gone"};
      pass_signals();
      if (!stopped_) rest_.rest(pace());
    }
    return {};
  }

  Pace pace() const {
    if (port_.moving()) return Pace::kMoving;
    return jobs_.empty() || !share_->model->info().on_cpu() ? Pace::kIdle : Pace::kBusy;
  }

  static Status name_silence(const Status& status) {
    if (status.code() != StatusCode::kDevice) return status;
    return {StatusCode::kUnavailable, "the group is over: {}", status.message()};
  }

  /// Until it is sent, or it is clear that it never will be.
  Status say_and_part(const Frame& last) {
    return without_exceptions([&] { return say_last(last); });
  }

  Status say_last(const Frame& last) {
    RETURN_IF_ERROR(port_.send(kLeader, last));
    const GroupPort::Take ignore = [](std::size_t, const Frame&) { return Status(); };
    for (const Deadline deadline = Deadline::after(kLastWords);
         !port_.idle() && !deadline.expired(); rest_.rest(Pace::kMoving)) {
      RETURN_IF_ERROR(port_.turn(ignore).status());
    }
    return {};
  }

  Status handle(const Frame& frame) {
    switch (frame.kind) {
      case FrameKind::kLoad:
        return load();
      case FrameKind::kOp:
        return begin(frame);
      case FrameKind::kCancel:
        if (const auto job = jobs_.find(frame.number); job != jobs_.end())
          job->second->cancelled.store(true, std::memory_order_relaxed);
        return {};
      case FrameKind::kInt8:
        return make_int8(frame.values[0]);
      case FrameKind::kEcho:
        return echo(frame.values[0]);
      case FrameKind::kStop:
        stopped_ = true;
        return {};
      default:
        return {StatusCode::kProtocolError, "rank 0 has sent a frame of kind {}",
                static_cast<std::uint32_t>(frame.kind)};
    }
  }

  Status load() {
    if (loader_.joinable()) return {StatusCode::kProtocolError, "rank 0 says to load once more"};
    ASSIGN_OR_RETURN(loader_, start_thread("loading", [this] {
                       std::optional<Result<LoadedShare>> share;
                       const Status status = without_exceptions([&]() -> Status {
                         share = ground_.load();
                         return {};
                       });
                       if (!status.ok()) share = status;
                       tell([&](Made& made) { made.share = std::move(share); });
                     }));
    return {};
  }

  Status make_int8(std::uint64_t which) {
    if (share_ && !share_->model) return tell_int8(std::string());
    if (!share_ || !share_->make_int8 || which > static_cast<std::uint64_t>(Int8Weights::kAuto))
      return {StatusCode::kProtocolError, "rank 0 asks for int8 weights that cannot be"};
    // Rank 0 asks for one at a time.
    if (maker_.joinable()) maker_.join();
    ASSIGN_OR_RETURN(maker_, start_thread("int8 weights", [this, which] {
                       std::optional<Result<std::string>> lines;
                       const Status status = without_exceptions([&]() -> Status {
                         lines = share_->make_int8(static_cast<Int8Weights>(which));
                         return {};
                       });
                       if (!status.ok()) lines = status;
                       tell([&](Made& made) { made.int8_lines = std::move(lines); });
                     }));
    return {};
  }

  Status echo(std::uint64_t bytes) {
    if (bytes == 0 || bytes > kMaxGroupTextBytes)
      return {StatusCode::kProtocolError, "rank 0 asks for an echo of {} bytes", bytes};
    return port_.receive_text(kLeader, bytes, [this](const std::string& text) -> Status {
      RETURN_IF_ERROR(port_.send(kLeader, {.kind = FrameKind::kEchoed}));
      return port_.send_text(kLeader, text);
    });
  }

  template <typename Change>
  void tell(const Change& change) {
    const Status status = without_exceptions([&]() -> Status {
      const std::lock_guard lock(mutex_);
      change(made_);
      return {};
    });
    if (!status.ok()) is_short_of_memory_.store(true, std::memory_order_relaxed);
    rest_.ring();
  }

  Status finish_made() {
    if (is_short_of_memory_.load(std::memory_order_relaxed))
      return {StatusCode::kResourceExhausted, "out of memory"};
    Made made;
    {
      const std::lock_guard lock(mutex_);
      std::swap(made, made_);
    }
    if (made.share) RETURN_IF_ERROR(tell_loaded(std::move(*made.share)));
    if (made.int8_lines) RETURN_IF_ERROR(tell_int8(*made.int8_lines));
    for (const WorkerOps::Job& job : made.jobs) RETURN_IF_ERROR(answer(job));
    return {};
  }

  Status tell_loaded(Result<LoadedShare> share) {
    RETURN_IF_ERROR(share.status());
    share_ = std::move(share).value();
    RankLoaded loaded;
    loaded.device = "none";
    loaded.threads = ground_.hello.threads;
    loaded.bytes = share_->bytes;
    if (share_->model) {
      const BackendInfo& info = share_->model->info();
      loaded.device = info.device;
      loaded.dtype = info.dtype;
      loaded.fp64_products = info.fp64_products;
      ops_ = std::make_unique<WorkerOps>(*share_->model, [this](WorkerOps::Job job) {
        tell([&](Made& made) { made.jobs.push_back(std::move(job)); });
      });
    }
    loaded.lines_bytes = share_->digest_lines.size();
    RETURN_IF_ERROR(port_.send(kLeader, {.kind = FrameKind::kLoaded, .body = encode(loaded)}));
    return port_.send_text(kLeader, share_->digest_lines);
  }

  Status tell_int8(const Result<std::string>& lines) {
    // What is wrong with them is no reason to end: a session asked.
    if (!lines.ok()) {
      return port_.send(kLeader, Frame::of_text(FrameKind::kInt8Made,
                                                static_cast<std::uint64_t>(lines.status().code()),
                                                lines.status().message()));
    }
    Frame frame{.kind = FrameKind::kInt8Made};
    frame.values[1] = lines->size();
    RETURN_IF_ERROR(port_.send(kLeader, frame));
    return port_.send_text(kLeader, *lines);
  }

  Status begin(const Frame& frame) {
    ASSIGN_OR_RETURN(RequestHeader request, decode_request(frame.body));
    if (ops_ == nullptr || jobs_.contains(frame.number))
      return {StatusCode::kProtocolError, "rank 0 has sent an op that cannot be"};
    auto job = std::make_shared<WorkerJob>();
    job->number = frame.number;
    job->spec = std::move(request.spec);
    ASSIGN_OR_RETURN(job->results, share_results(job->spec, ground_.dims, ground_.share));
    job->deadline = Deadline::after(std::chrono::nanoseconds(frame.values[0]));
    job->status = take_memory(*job);
    job->to_come = job->spec.inputs.size();
    for (std::size_t i = 0; i < job->spec.inputs.size(); ++i) {
      const std::size_t bytes = job->spec.inputs[i].bytes();
      const auto over = [this, job]() -> Status {
        if (--job->to_come > 0) return {};
        // The inputs are in the way of what comes behind them, also where there is no room.
        if (!job->status.ok()) return answer(job);
        job->received_ns = now_ns();
        return ops_->give(job);
      };
      if (!job->status.ok()) {
        RETURN_IF_ERROR(port_.drop_row(kLeader, op_tag(job->number), bytes, over));
        continue;
      }
      const ByteRows rows = ByteRows::dense(job->input_memory[i].owner.get(), bytes);
      RETURN_IF_ERROR(port_.receive_rows(kLeader, op_tag(job->number), rows, over));
    }
    jobs_.emplace(job->number, std::move(job));
    return {};
  }

  Status take_memory(WorkerJob& job) {
    for (const TensorDesc& desc : job.results) {
      ASSIGN_OR_RETURN(job.result_memory.emplace_back(), buffers_.take(desc.bytes()));
    }
    for (const TensorDesc& desc : job.spec.inputs) {
      ASSIGN_OR_RETURN(job.input_memory.emplace_back(), buffers_.take(desc.bytes()));
    }
    return {};
  }

  Status answer(const WorkerOps::Job& job) {
    jobs_.erase(job->number);
    // A dealer's pads come of their key.
    if (job->spec.op == Op::kPadLinear) {
      for (const PooledBuffer& buffer : job->input_memory)
        ::explicit_bzero(buffer.owner.get(), buffer.size);
    }
    job->input_memory.clear();
    Frame frame{.kind = FrameKind::kAnswer, .number = job->number};
    const DeviceTimes& device = job->times.device;
    frame.values = {device.copy_in_ns, device.compute_ns, device.copy_out_ns};
    ResponseHeader response{.request_id = job->number,
                            .op = job->spec.op,
                            .code = job->status.code(),
                            .message = job->status.message(),
                            .results = {},
                            .queue_ns = job->times.queue_ns,
                            .server_ns = job->times.server_ns};
    if (job->status.ok()) response.results = job->results;
    frame.body = encode(response);
    RETURN_IF_ERROR(port_.send(kLeader, frame));
    rest_.reset();
    // No op works on a device that is lost.
    if (job->status.code() == StatusCode::kDevice) return job->status;
    if (!job->status.ok()) return {};
    for (std::size_t i = 0; i < job->results.size(); ++i) {
      const ByteRows rows = tensor_rows(job->result_memory[i].owner.get(), job->results[i]);
      RETURN_IF_ERROR(
          port_.send_rows(kLeader, op_tag(job->number), rows, [job] { return Status(); }));
    }
    return {};
  }

  void pass_signals() {
    if (ground_.signal_fd < 0 || !next_look_.expired()) return;
    next_look_ = Deadline::after(std::chrono::milliseconds(50));
    signalfd_siginfo info{};
    while (::read(ground_.signal_fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
      if (info.ssi_signo == SIGUSR1) continue;
      log_info("asked to end: rank 0 is told, and ends all ranks");
      (void)port_.send(kLeader, {.kind = FrameKind::kLeave});
    }
  }

  const WorkerGround& ground_;
  GroupPort port_;
  GroupRest rest_;
  BufferPool buffers_;
  LauncherWatch launcher_;
  bool stopped_ = false;
  Deadline next_look_ = Deadline::now();
  std::map<std::uint64_t, WorkerOps::Job> jobs_;
  std::mutex mutex_;
  Made made_;  // guarded by mutex_
  // What was made is lost.
  std::atomic<bool> is_short_of_memory_{false};
  std::optional<LoadedShare> share_;
  std::thread loader_;
  std::thread maker_;
  // Before what its threads use goes.
  std::unique_ptr<WorkerOps> ops_;
};

}  // namespace

Status run_worker(GroupLink& link, const WorkerGround& ground) {
  Worker worker(link, ground);
  Status status = worker.run();
  if (ground.before_end) ground.before_end(status);
  return status;
}

}  // namespace airlock
