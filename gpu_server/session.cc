#include "gpu_server/session.h"

#include <fmt/format.h>
#include <unistd.h>

#include <utility>

#include "base/log.h"
#include "runtime/rpc/serve.h"
#include "shm/segment.h"

namespace airlock {

namespace {
constexpr std::chrono::seconds kAttachTimeout{5};
}  // namespace

Session::Session(const ZmqContext& context, const ServedModel& model, Welcome welcome,
                 std::string data_endpoint, std::string client, WakeEvent& changed,
                 const SessionCounters& counters)
    : context_(context),
      model_(model),
      welcome_(std::move(welcome)),
      epoch_(welcome_.epoch),
      id_(fmt::format("{:016x}", welcome_.epoch)),
      data_endpoint_(std::move(data_endpoint)),
      client_(std::move(client)),
      changed_(changed),
      counters_(counters) {
  worker_ = std::thread([this] { work(); });
}

Session::~Session() {
  end({StatusCode::kCancelled, "the session is being removed"});
  worker_.join();
}

std::optional<Result<Welcome>> Session::take_offer() {
  const std::lock_guard lock(mutex_);
  if (offer_) answered_ = true;
  return std::exchange(offer_, std::nullopt);
}

void Session::work() {
  const Status status = serve_client();
  close_channel();
  const std::string text = fmt::format("session {} ended: {}", id_, status.message());
  if (status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kCancelled) {
    log_info(text);
  } else {
    log_warning(text);
  }
  finished_.store(true, std::memory_order_release);  // pairs with the load in finished()
  changed_.set();
}

// Here and not in the destructor: to unmap the rings takes time that the control thread does not
// have.
void Session::close_channel() {
  std::unique_ptr<SessionChannel> channel;
  {
    const std::lock_guard lock(mutex_);
    channel = std::move(channel_);
  }
  if (channel) channel->remove_files();
}

// The control thread passes it on.
Status Session::refuse(Status reason) {
  const std::lock_guard lock(mutex_);
  offer_ = reason;
  return reason;
}

Status Session::serve_client() {
  auto offered =
      SessionChannel::offer(context_, welcome_, data_endpoint_, life_, &counters_.block.transport);
  if (!offered.ok()) return refuse(offered.status());
  {
    const std::lock_guard lock(mutex_);
    channel_ = std::move(offered).value();
  }
  // Before the client is told that it has a session: one that finds no memory on the device is
  // refused, and the first op does not wait for what a device needs once.
  auto made = model_.compute->make_compute(channel_->segments());
  if (!made.ok()) {
    close_channel();  // the control thread joins this one when it has the refusal
    return refuse(made.status());
  }
  const std::unique_ptr<Compute> compute = std::move(made).value();
  {
    const std::lock_guard lock(mutex_);
    offer_ = welcome_;
  }
  changed_.set();
  RETURN_IF_ERROR(channel_->accept(Deadline::after(kAttachTimeout)));
  Channel& channel = channel_->channel();
  ServeContext context;
  context.config_json = model_.config_json;
  context.norms = model_.norms.view();
  context.watch = &life_;
  context.service_ns = &counters_.service_ns;
  context.session_stats = [this] { return own_json(); };
  return serve(channel, *compute, context, counters_.block.ops);
}

SessionReport Session::report() const {
  SessionReport report;
  report.id = id_;
  report.client = client_;
  report.transport = snapshot_of(counters_.block.transport);
  report.ops = snapshot_of(counters_.block.ops);
  return report;
}

std::string Session::own_json() const {
  SideReport own;
  own.side = "gpu_server";
  own.host = describe_host(welcome_.device);
  own.host.gpu = model_.device;
  own.wall_ns = now_ns() - start_ns_;
  own.merge(report());
  return report_json(own);
}

void Session::remove_files() {
  const std::lock_guard lock(mutex_);
  if (channel_) channel_->remove_files();
  // Whatever the worker was about to make has these names.
  for (SegmentDirection direction : {SegmentDirection::kRequest, SegmentDirection::kReply}) {
    ::unlink(("/dev/shm/" + make_segment_name(::geteuid(), epoch_, direction)).c_str());
  }
  if (data_endpoint_.starts_with("ipc://")) ::unlink(data_endpoint_.c_str() + 6);
}

}  // namespace airlock
