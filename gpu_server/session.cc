#include "gpu_server/session.h"

#include <fmt/format.h>

#include "base/log.h"
#include "runtime/rpc/serve.h"

namespace airlock {

namespace {
constexpr std::chrono::seconds kAttachTimeout{5};
}  // namespace

Session::Session(const ServedModel& model, Welcome welcome, std::string client)
    : model_(model), welcome_(std::move(welcome)), client_(std::move(client)) {}

Session::~Session() {
  end({StatusCode::kCancelled, "the session is being removed"});
  if (worker_.joinable()) worker_.join();
  if (channel_) channel_->remove_files();
}

Result<std::unique_ptr<Session>> Session::create(const ZmqContext& context, const ServedModel& model, Welcome welcome,
                                                 const std::string& data_endpoint, const Hello& hello) {
  std::unique_ptr<Session> session(new Session(model, std::move(welcome), hello.client));
  ASSIGN_OR_RETURN(session->channel_,
                   SessionChannel::offer(context, session->welcome_, data_endpoint, session->life_));
  return session;
}

void Session::start() {
  worker_ = std::thread([this] { work(); });
}

void Session::work() {
  const Status status = serve_client();
  const std::string text = fmt::format("session {:016x} ended: {}", welcome_.epoch, status.message());
  if (status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kCancelled) {
    log_info(text);
  } else {
    log_warning(text);
  }
  finished_.store(true, std::memory_order_release);  // pairs with the load in finished()
}

Status Session::serve_client() {
  RETURN_IF_ERROR(channel_->accept(Deadline::after(kAttachTimeout)));
  Channel& channel = channel_->channel();
  {
    const std::lock_guard lock(mutex_);
    stats_ = &channel.stats();
  }
  const std::unique_ptr<Backend> backend = model_.compute->make_backend();
  ServeContext context;
  context.config_json = model_.config_json;
  context.norms = model_.norms.view();
  context.session_stats = [this] { return own_json(); };
  return serve(channel, *backend, context, op_stats_);
}

SessionReport Session::report() const {
  const std::lock_guard lock(mutex_);
  SessionReport report;
  report.id = fmt::format("{:016x}", welcome_.epoch);
  report.client = client_;
  if (stats_ != nullptr) report.transport = stats_->snapshot();
  report.ops = op_stats_.snapshot();
  return report;
}

std::string Session::own_json() const {
  SideReport own;
  own.side = "gpu_server";
  own.host = describe_host(welcome_.device);
  own.wall_ns = now_ns() - start_ns_;
  own.merge(report());
  return report_json(own);
}

void Session::remove_files() { channel_->remove_files(); }

}  // namespace airlock
