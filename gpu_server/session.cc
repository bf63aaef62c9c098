#include "gpu_server/session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "base/log.h"
#include "base/thread.h"
#include "runtime/rpc/calibration.h"
#include "runtime/rpc/serve.h"
#include "shm/segment.h"

namespace airlock {

namespace {
constexpr std::chrono::seconds kAttachTimeout{5};
// The control thread releases a session within one round; it may be stopped for a while.
constexpr std::chrono::seconds kReleaseTimeout{30};
}  // namespace

Session::Session(SessionGround ground, Welcome welcome, std::string client,
                 const SessionCounters& counters)
    : ground_(std::move(ground)),
      welcome_(std::move(welcome)),
      epoch_(welcome_.epoch),
      client_(std::move(client)),
      counters_(counters) {}

Result<std::unique_ptr<Session>> Session::start(SessionGround ground, Welcome welcome,
                                                std::string client,
                                                const SessionCounters& counters) {
  std::unique_ptr<Session> session(
      new Session(std::move(ground), std::move(welcome), std::move(client), counters));
  ASSIGN_OR_RETURN(session->worker_,
                   start_thread("a session", [self = session.get()] { self->work(); }));
  return session;
}

Session::~Session() {
  end({StatusCode::kCancelled, "the session is being removed"});
  release(false);
  if (worker_.joinable()) worker_.join();
}

std::optional<SessionNews> Session::take_news() {
  const std::lock_guard lock(mutex_);
  if (news_.empty()) return std::nullopt;
  SessionNews first = std::move(news_.front());
  news_.pop_front();
  return first;
}

void Session::tell(ControlMessage message, std::vector<UniqueFd> descriptors) {
  {
    const std::lock_guard lock(mutex_);
    news_.push_back({std::move(message), std::move(descriptors)});
  }
  ground_.changed.set();
}

Status Session::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

void Session::release(bool discards) {
  const std::lock_guard lock(mutex_);
  if (released_) return;
  released_ = true;
  discards_ = discards;
  release_.notify_all();
}

// Whether the rings' memory is to go at once.
bool Session::await_release() {
  std::unique_lock lock(mutex_);
  release_.wait_for(lock, kReleaseTimeout, [this] { return released_; });
  return discards_;
}

void Session::work() {
  Status status = without_exceptions([this] { return serve_client(); });
  const bool ordinary =
      status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kCancelled;
  (void)without_exceptions([&]() -> Status {
    const std::string text = fmt::format("session {:016x} ended: {}", epoch_, status.message());
    ground_.ended_log.log(ordinary ? LogLevel::kInfo : LogLevel::kWarning, text);
    return {};
  });
  {
    const std::lock_guard lock(mutex_);
    reason_ = std::move(status);
  }
  over_.store(true, std::memory_order_release);  // pairs with the load in over()
  ground_.changed.set();
  const bool discards = await_release();
  if (discards && channel_) channel_->discard_memory();
  life_.set_waker({});
  if (shows_lease_) ground_.show_lease(*this, {});
  // Here and not in the destructor: to unmap the rings takes time that the control thread does not
  // have.
  channel_.reset();
  if (shows_lease_) ground_.show_lease(*this, {});   // what is free again
  finished_.store(true, std::memory_order_release);  // pairs with the load in finished()
  ground_.changed.set();
}

// Of a session that has a place: a stranger costs no such work. The runner waits, and hears signs
// of life meanwhile.
Result<std::string> Session::prepare_int8() {
  if (ground_.int8_weights == Int8Weights::kNone) return std::string();
  if (ground_.model.source == nullptr) {
    return Status(StatusCode::kMismatch,
                  "this server has no model (--no-model), and so no int8 weights for a session "
                  "whose privacy mode is {}",
                  name_of(ground_.privacy));
  }
  auto digest =
      ground_.model.compute->prepare_int8(*ground_.model.source, ground_.int8_weights, {});
  if (!digest.ok()) {
    return digest.status().with_context(
        fmt::format("making int8 weights ({})", name_of(ground_.int8_weights)));
  }
  return digest;
}

// To the moment from which the session is served; on failure the runner is to be refused.
Status Session::attach(std::unique_ptr<Compute>& compute, Attached& attached,
                       std::vector<UniqueFd>& leased) {
  const SegmentKind kind =
      ground_.control.kind == Endpoint::Kind::kIpc ? SegmentKind::kSealed : SegmentKind::kNamed;
  ASSIGN_OR_RETURN(channel_, SessionChannel::offer(welcome_, kind, life_,
                                                   &counters_.block.transport, ground_.security));
  life_.set_waker([this] { channel_->wake(); });
  ASSIGN_OR_RETURN(std::vector<UniqueFd> descriptors, channel_->descriptors());
  tell(welcome_, std::move(descriptors));
  RETURN_IF_ERROR(channel_->accept(
      ground_.control, [this](const std::string& endpoint) { tell(DataSocket{endpoint}); },
      Deadline::after(kAttachTimeout)));
  RETURN_IF_ERROR(ground_.admit(*this));
  ASSIGN_OR_RETURN(attached.int8_digest, prepare_int8());
  // Making them takes a while: who has gone meanwhile leases nothing.
  RETURN_IF_ERROR(life_.check());
  // Only now: what never attaches leases nothing.
  if (ground_.pool != nullptr && welcome_.has_pool) {
    Status lacking;
    shows_lease_ = true;  // also where it fails half way: what is free has changed
    ASSIGN_OR_RETURN(leased, channel_->lease(*ground_.pool, ground_.pool_wish, attached, lacking));
    ground_.show_lease(*this, {now_ns(), ground_.pool_wish, attached.pool});
    if (!lacking.ok()) {
      ground_.lacking_log.log(LogLevel::kInfo,
                              fmt::format("session {:016x}: {}; its large tensors go by ZeroMQ",
                                          epoch_, lacking.message()));
    }
  }
  RETURN_IF_ERROR(channel_->open());
  // Before the runner is told that it has a session: one that finds no memory on the device is
  // refused, and the first op does not wait for what a device needs once.
  ASSIGN_OR_RETURN(compute, ground_.model.compute->make_compute(channel_->segments()));
  return {};
}

Status Session::serve_client() {
  std::unique_ptr<Compute> compute;
  Attached attached;
  std::vector<UniqueFd> leased;
  if (Status status = without_exceptions([&] { return attach(compute, attached, leased); });
      !status.ok()) {
    tell(Refusal{status.code(), status.message().substr(0, limits::kMaxErrorTextBytes)});
    return status;
  }
  tell(std::move(attached), std::move(leased));
  Channel& channel = channel_->channel();
  if (welcome_.calibrates) {
    auto found = follow_calibration(channel, life_);
    if (!found.ok()) return found.status().with_context("finding the path limit");
    channel.agree(*found);
    ground_.limit_log.log(LogLevel::kInfo,
                          fmt::format("session {:016x}: path limit {} bytes, found "
                                      "by trying",
                                      epoch_, *found));
  }
  counters_.block.inline_bytes.store(channel.policy().inline_bytes, std::memory_order_relaxed);
  const std::size_t limit = welcome_.has_ring ? channel.policy().limit_bytes : 0;
  counters_.block.path_limit.store(limit, std::memory_order_relaxed);
  ServeContext context;
  context.config_json = ground_.model.config_json;
  context.norms = ground_.model.norms.view();
  context.watch = &life_;
  context.max_op_flop = ground_.model.max_op_flop;
  context.privacy = ground_.privacy;
  context.service_ns = &counters_.service_ns;
  context.session_stats = [this] { return own_json(); };
  return serve(channel, *compute, context, counters_.block.ops);
}

SessionReport Session::report() const {
  SessionReport report;
  report.id = fmt::format("{:016x}", epoch_);
  report.client = client_;
  report.agreed = counters_layout::agreed_limits(counters_.block);
  report.transport = snapshot_of(counters_.block.transport);
  report.ops = snapshot_of(counters_.block.ops);
  return report;
}

std::string Session::own_json() const {
  SideReport own;
  own.side = "gpu_server";
  own.host = describe_host(welcome_.device);
  own.host.gpu = ground_.model.device;
  own.wall_ns = now_ns() - start_ns_;
  own.merge(report());
  return report_json(own);
}

void Session::remove_files() const {
  // Segments with names, where the worker has made them or is about to.
  for (SegmentDirection direction : {SegmentDirection::kRequest, SegmentDirection::kReply}) {
    ::unlink(("/dev/shm/" + make_segment_name(::geteuid(), epoch_, direction)).c_str());
  }
}

}  // namespace airlock
