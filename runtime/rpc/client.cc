#include "runtime/rpc/client.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/thread.h"
#include "proto/handshake.h"
#include "proto/limits.h"
#include "shm/ring_memory.h"

namespace airlock {
namespace {

constexpr std::chrono::milliseconds kRetryPause{50};
/// From Welcome to Attached, however often the server gives a sign.
constexpr int kMostTimeouts = 10;
/// The same where the server may first have to make int8 weights: of the largest models on the
/// slowest cores.
constexpr std::chrono::minutes kInt8Patience{15};
/// So that no flood keeps the control thread from its signs of life and from its end.
constexpr int kMessagesARound = 16;
/// From the end of the connection to the control thread's word on it.
constexpr std::chrono::milliseconds kReasonPatience{200};
/// Bytes of one ring segment that are mapped without having been demanded.
constexpr std::size_t kMostUndemanded = std::size_t{1} << 30;

Status server_gone() {
  return {StatusCode::kUnavailable, "the server closed the connection: it ended or was killed"};
}

/// Why the server at `endpoint` gives no session.
Status refused(const ConnectOptions& options, const Endpoint& endpoint, const Refusal& refusal) {
  if (options.refused != nullptr) *options.refused = true;
  StatusCode code = refusal.code;
  if (code == StatusCode::kOk) code = StatusCode::kProtocolError;
  // That we gave up is ours to say.
  if (code == StatusCode::kCancelled) code = StatusCode::kUnavailable;
  return {code, "the server at {} refused: {}", endpoint.text(), refusal.message};
}

/// In each slice of a wait; as ConnectOptions has both.
Status check_wanted(Pulse* pulse, const std::atomic<bool>* cancelled) {
  if (pulse != nullptr) pulse->beat();
  if (cancelled == nullptr || !cancelled->load(std::memory_order_relaxed)) return {};
  return {StatusCode::kCancelled, "nobody waits for the session any more"};
}
Status check_wanted(const ConnectOptions& options) {
  return check_wanted(options.pulse, options.cancelled);
}

/// Int8 weights are there exactly where they were asked for.
Status check_int8(const Attached& attached, Int8Weights asked) {
  const bool there = !attached.int8_digest.empty();
  if (there == (asked != Int8Weights::kNone)) return {};
  return {StatusCode::kProtocolError, there ? "the session has int8 weights that were not asked for"
                                            : "the session lacks the int8 weights asked for"};
}

/// What `welcome` has to be beyond what decode_control() checks of any.
Status check_welcome(const Welcome& welcome, const ConnectOptions& options, bool want_ring) {
  const auto refuse = [](const char* text) { return Status(StatusCode::kProtocolError, text); };
  if (welcome.has_ring && !want_ring)
    return refuse("the session has a ring that was not asked for");
  if (!welcome.has_ring && options.ring.choice == RingChoice::kOn) {
    return {StatusCode::kUnavailable,
            "the server's ring is off and --ring on demands one: start it with --ring on"};
  }
  if (!options.ring.accepts(welcome.geometry)) {
    return {StatusCode::kUnavailable,
            "the server's ring has {} slots of {} bytes, not what was demanded (--ring-slots, "
            "--ring-slot-bytes)",
            welcome.geometry.slot_count, welcome.geometry.slot_bytes};
  }
  if (welcome.epoch == 0) return refuse("the session's epoch is 0");
  const bool demanded = options.ring.slot_count != 0 && options.ring.slot_bytes != 0;
  if (welcome.has_ring && !demanded) {
    ASSIGN_OR_RETURN(const std::size_t bytes, ring_segment_bytes(welcome.geometry));
    if (bytes > kMostUndemanded) {
      return {StatusCode::kUnavailable,
              "the server's rings have {} slots of {} bytes, more than is taken unasked: give "
              "--ring-slots and --ring-slot-bytes to take them, or --ring off",
              welcome.geometry.slot_count, welcome.geometry.slot_bytes};
    }
  }
  if (options.needs_model && welcome.dims.is_none()) {
    return {StatusCode::kMismatch,
            "the server has no model: it was started with --no-model, for the pool alone"};
  }
  if (options.path_limit != 0 && welcome.path_limit > options.path_limit)
    return refuse("the path limit is more than was asked for");
  if (welcome.calibrates && options.path_limit != 0)
    return refuse("a path limit that was asked for is to be tried");
  if (welcome.inline_bytes > options.inline_bytes)
    return refuse("more rides behind headers than was asked for");
  if (!options.digest.empty() && options.digest != welcome.digest) {
    return {StatusCode::kMismatch, "the server has another model: digest {}, ours is {}",
            welcome.digest, options.digest};
  }
  if (options.dims && !(*options.dims == welcome.dims)) {
    return {StatusCode::kMismatch, "the server's model has another shape than ours"};
  }
  return {};
}

}  // namespace

Status ClientSession::check() const {
  RETURN_IF_ERROR(life_.check());
  if (closing_.load(std::memory_order_acquire) || !control_->peer_closed()) return {};
  // The control thread may be about to read why.
  for (const Deadline patience = Deadline::after(kReasonPatience); !patience.expired();) {
    RETURN_IF_ERROR(life_.check());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return server_gone();
}

Status ClientSession::ServerWatch::check() const {
  RETURN_IF_ERROR(check_wanted(session_.pulse_, session_.cancelled_));
  return session_.check();
}

// The next control message, before the control thread runs. kDeadlineExceeded: none came.
Result<ControlFrame> ClientSession::await_frame(Deadline deadline, const ConnectOptions& options) {
  for (;;) {
    auto frame = control_->receive();
    if (frame.status().code() == StatusCode::kUnavailable) return server_gone();
    RETURN_IF_ERROR(frame.status());
    if (*frame) return std::move(**frame);
    RETURN_IF_ERROR(check_wanted(options));
    if (deadline.expired()) return Status(StatusCode::kDeadlineExceeded, "no answer came");
    pollfd waiting{control_->fd(), POLLIN, 0};
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline.slice(kSignInterval).remaining());
    (void)::poll(&waiting, 1, static_cast<int>(left.count()));
  }
}

// One attempt, to the session or to why there is none. `answered`: the server has said so.
Status ClientSession::greet(const ConnectOptions& options, const Endpoint& endpoint,
                            Deadline deadline, bool& answered) {
  const bool ipc = endpoint.kind == Endpoint::Kind::kIpc;
  if (ipc) RETURN_IF_ERROR(check_endpoint_directory(endpoint.directory(), IfMissing::kRefuse));
  const bool want_ring =
      options.ring.choice == RingChoice::kOn || (options.ring.choice == RingChoice::kAuto && ipc);
  Hello hello;
  hello.client = fmt::format("{} pid {}", options.client, ::getpid());
  hello.ring = options.ring;
  hello.ring.choice = want_ring ? RingChoice::kOn : RingChoice::kOff;
  hello.digest = options.digest;
  // Descriptors of its memory pass over ipc alone; --ring off is ZeroMQ alone.
  const PoolWish pool = want_ring && ipc ? options.pool : PoolWish();
  hello.pool = pool;
  hello.path_limit = options.path_limit;
  hello.inline_bytes = options.inline_bytes;
  hello.capabilities = capabilities_of(data_sockets_for(options.data_sockets, endpoint));
  hello.privacy = options.privacy;
  hello.int8_weights = options.int8_weights;
  ASSIGN_OR_RETURN(auto connection,
                   ControlConnection::connect(endpoint, deadline, security_.get(),
                                              [&] { return check_wanted(options); }));
  control_.emplace(std::move(connection));
  RETURN_IF_ERROR(control_->send(hello));
  for (;;) {
    auto frame = await_frame(deadline, options);
    if (frame.status().code() == StatusCode::kDeadlineExceeded || deadline.expired()) {
      return {StatusCode::kUnavailable,
              "the server at {} took the connection and has not answered within {} ms "
              "(--timeout-ms)",
              endpoint.text(), options.longest_wait().count()};
    }
    RETURN_IF_ERROR(frame.status());
    answered = true;
    ASSIGN_OR_RETURN(ControlMessage message, decode_control(frame->bytes));
    if (const auto* refusal = std::get_if<Refusal>(&message))
      return refused(options, endpoint, *refusal);
    if (auto* welcome = std::get_if<Welcome>(&message)) {
      RETURN_IF_ERROR(check_welcome(*welcome, options, want_ring));
      if (data_sockets_in(welcome->capabilities) > data_sockets_in(hello.capabilities))
        return {StatusCode::kProtocolError, "more data sockets than were asked for"};
      if (welcome->has_pool && !wants_pool(pool))
        return {StatusCode::kProtocolError, "the session has a pool that was not asked for"};
      return attach(options, endpoint, std::move(*welcome), std::move(frame->descriptors));
    }
    if (!std::holds_alternative<Sign>(message)) {
      return {StatusCode::kProtocolError,
              "the server answered hello with neither welcome nor refusal"};
    }
  }
}

/// What the server had to say of it comes first: nobody else reads it yet.
Status ClientSession::why_no_limit(const Status& status, const ConnectOptions& options) {
  const Deadline patience = Deadline::after(kReasonPatience);
  for (auto frame = await_frame(patience, options); frame.ok();
       frame = await_frame(patience, options)) {
    const auto message = decode_control(frame->bytes);
    if (!message.ok()) break;
    if (const auto* goodbye = std::get_if<Goodbye>(&*message))
      return {StatusCode::kUnavailable, "the server ended the session: {}", goodbye->reason};
  }
  if (status.code() != StatusCode::kDeadlineExceeded)
    return status.with_context("finding the path limit");
  return {StatusCode::kUnavailable,
          "the server at {} has not helped to find the path limit within {} ms (--timeout-ms)",
          options.endpoint, options.timeout.count()};
}

Status ClientSession::attach(const ConnectOptions& options, const Endpoint& endpoint,
                             Welcome welcome, std::vector<UniqueFd> descriptors) {
  // A server that gives signs of life may take its time, though not for ever.
  Deadline deadline = Deadline::after(options.timeout);
  std::chrono::milliseconds patience = kMostTimeouts * options.timeout;
  if (options.int8_weights != Int8Weights::kNone)
    patience = std::max<std::chrono::milliseconds>(patience, kInt8Patience);
  const Deadline last = Deadline::after(patience);
  // The address that the control connection has, whatever a name may mean the next time.
  Endpoint control = endpoint;
  if (control.kind == Endpoint::Kind::kTcp) {
    const std::string& address = control_->peer();
    control.host = address.find(':') == address.npos ? address : fmt::format("[{}]", address);
  }
  ASSIGN_OR_RETURN(channel_, SessionChannel::attach(welcome, descriptors, watch_, security_.get()));
  descriptors.clear();
  std::string data;
  const auto connect = [&] {
    return channel_->connect(data, [&] { return check_wanted(options); });
  };
  for (;;) {
    auto frame = await_frame(deadline.slice(kRetryPause), options);
    if (frame.status().code() == StatusCode::kDeadlineExceeded || last.expired()) {
      if (deadline.expired() || last.expired()) {
        const auto [waited, name] = last.expired() ? std::pair(patience, "")
                                                   : std::pair(options.timeout, " (--timeout-ms)");
        return {StatusCode::kUnavailable,
                "the server at {} has not said within {} ms{} that the session is attached; it "
                "announced {}",
                endpoint.text(),
                waited.count(),
                name,
                data.empty() ? "no data socket" : data};
      }
      if (!data.empty() && channel_->lost()) RETURN_IF_ERROR(connect());
      continue;
    }
    RETURN_IF_ERROR(frame.status());
    deadline = Deadline::after(options.timeout);
    ASSIGN_OR_RETURN(ControlMessage message, decode_control(frame->bytes));
    if (const auto* socket = std::get_if<DataSocket>(&message)) {
      ASSIGN_OR_RETURN(data, session_endpoint(control, socket->endpoint));
      RETURN_IF_ERROR(connect());
    } else if (const auto* attached = std::get_if<Attached>(&message);
               attached != nullptr && !data.empty()) {
      RETURN_IF_ERROR(check_int8(*attached, options.int8_weights));
      int8_digest_ = attached->int8_digest;
      RETURN_IF_ERROR(channel_->take_lease(*attached, frame->descriptors, options.pool));
      break;
    } else if (const auto* refusal = std::get_if<Refusal>(&message)) {
      return refused(options, endpoint, *refusal);
    } else if (const auto* goodbye = std::get_if<Goodbye>(&message)) {
      return {StatusCode::kUnavailable, "the server ended the session: {}", goodbye->reason};
    } else if (!std::holds_alternative<Sign>(message)) {
      return {StatusCode::kProtocolError, "the server sent a message that does not belong here"};
    }
  }
  RETURN_IF_ERROR(channel_->open());
  if (welcome.calibrates) {
    auto found =
        lead_calibration(channel_->channel(), channel_->pool(), Deadline::after(options.timeout));
    if (!found.ok()) return why_no_limit(found.status(), options);
    calibration_ = std::move(found).value();
    channel_->channel().agree(calibration_.path_limit);
  }
  life_.set_waker([this] { channel_->wake(); });  // for the control thread, which ends before it
  BackendInfo info{welcome.dims,   welcome.dtype,  welcome.stored_dtype, welcome.threads,
                   welcome.device, welcome.digest, welcome.fp64_products};
  auto last_sign = [this] {
    const std::uint64_t heard_ns = heard_ns_.load(std::memory_order_relaxed);
    return fmt::format("the server's last sign of life came {:.1f} s ago",
                       static_cast<double>(now_ns() - heard_ns) / 1e9);
  };
  backend_ = std::make_unique<RemoteBackend>(std::move(info), channel_->channel(), op_stats_,
                                             std::move(last_sign), channel_->pool());
  return {};
}

void ClientSession::close() {
  if (!control_thread_.joinable()) return;
  closing_.store(true, std::memory_order_release);  // pairs with the loads elsewhere
  wake_.set();
  control_thread_.join();
  // The server sees the end at once. Closed with the object: check() may look at it from elsewhere.
  (void)::shutdown(control_->fd(), SHUT_RDWR);
}

// The control thread: sends and awaits signs of life, whatever the main thread computes.
void ClientSession::watch_server(std::chrono::milliseconds timeout) {
  const Status status = without_exceptions([&]() -> Status {
    watch(timeout);
    return {};
  });
  if (!status.ok()) life_.end(status);
}

void ClientSession::watch(std::chrono::milliseconds timeout) {
  SilenceMeter silence;
  Deadline next_sign = Deadline::now();
  const auto look = [&]() -> Status {
    for (int i = 0; i < kMessagesARound; ++i) {
      const auto frame = control_->receive();
      if (frame.status().code() == StatusCode::kUnavailable) return server_gone();
      RETURN_IF_ERROR(frame.status());
      if (!*frame) return {};
      silence.heard();
      heard_ns_.store(now_ns(), std::memory_order_relaxed);
      ASSIGN_OR_RETURN(const ControlMessage message, decode_control((*frame)->bytes));
      if (const auto* goodbye = std::get_if<Goodbye>(&message))
        return {StatusCode::kUnavailable, "the server ended the session: {}", goodbye->reason};
      if (!std::holds_alternative<Sign>(message))
        return {StatusCode::kProtocolError, "the server sent a message that does not belong here"};
    }
    return {};
  };
  while (!closing_.load(std::memory_order_acquire)) {
    if (next_sign.expired()) {
      // A server that does not read shows as silence soon enough.
      (void)control_->send(Sign{});
      next_sign = Deadline::after(kSignInterval);
    }
    pollfd waiting[] = {{control_->fd(), POLLIN, 0}, {wake_.fd(), POLLIN, 0}};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_sign.remaining());
    (void)::poll(waiting, 2, static_cast<int>(left.count()));
    silence.tick(now_ns());
    if (const Status seen = look(); !seen.ok()) return life_.end(seen);
    if (std::chrono::nanoseconds(silence.silent_ns()) > timeout) {
      return life_.end(
          {StatusCode::kUnavailable,
           "no sign of life from the server for {} ms (--timeout-ms): it hangs or was stopped",
           timeout.count()});
    }
  }
  // The server may be gone already.
  (void)control_->send(Goodbye{"the client is done"});
}

Result<std::unique_ptr<ClientSession>> ClientSession::connect(const ConnectOptions& options) {
  CHECK((options.privacy == Privacy::kPlain) == (options.int8_weights == Int8Weights::kNone));
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(options.endpoint));
  std::unique_ptr<ClientSession> session(new ClientSession());
  RETURN_IF_ERROR(session->wake_.check());
  session->security_ = options.security;
  session->pulse_ = options.pulse;
  session->cancelled_ = options.cancelled;
  const Deadline deadline = Deadline::after(options.longest_wait());
  for (;;) {
    bool answered = false;
    const Status status = session->greet(options, endpoint, deadline, answered);
    if (status.ok()) break;
    // The session may be there all the same: its place is another's to have at once.
    if (session->channel_)
      (void)session->control_->send(Goodbye{"the client cannot use the session"});
    const bool connected = session->control_.has_value();
    session->channel_.reset();
    session->control_.reset();
    const bool not_yet =
        status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kDeadlineExceeded;
    if (answered || !not_yet || (connected && deadline.expired())) return status;
    if (deadline.expired()) {
      return Status(StatusCode::kUnavailable,
                    "no server at {} within {} ms: {}; start gpu_server, or give its --endpoint "
                    "(it prints 'ready ENDPOINT')",
                    options.endpoint, options.longest_wait().count(), status.message());
    }
    RETURN_IF_ERROR(check_wanted(options));
    std::this_thread::sleep_for(kRetryPause);
  }
  ASSIGN_OR_RETURN(
      session->control_thread_,
      start_thread("the control connection", [self = session.get(), timeout = options.timeout] {
        self->watch_server(timeout);
      }));
  return session;
}

}  // namespace airlock
