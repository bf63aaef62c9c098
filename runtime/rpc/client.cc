#include "runtime/rpc/client.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <thread>
#include <vector>

#include "base/log.h"
#include "base/wake_event.h"
#include "proto/handshake.h"
#include "proto/limits.h"
#include "runtime/channel/zmq_socket.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"

namespace airlock {

namespace {

constexpr std::chrono::milliseconds kRetryPause{50};

Status send_control(ZmqSocket& socket, const ControlMessage& message, Deadline deadline) {
  const std::vector<std::byte> frame = encode_control(message);
  const std::span<const std::byte> part = frame;
  return socket.send({&part, 1}, deadline);
}

Result<ControlMessage> receive_control(ZmqSocket& socket, Deadline deadline) {
  ASSIGN_OR_RETURN(auto parts, socket.receive(deadline));
  if (parts.size() != 1)
    return Status(StatusCode::kProtocolError, "a control message has more than one part");
  return decode_control(parts[0]);
}

struct Greeting {
  ZmqSocket socket;
  Welcome welcome;
};

Status no_server(const ConnectOptions& options) {
  return {StatusCode::kUnavailable,
          "no server at {} within {} ms; start gpu_server, or give its --endpoint (it prints "
          "'ready ENDPOINT')",
          options.endpoint, options.timeout.count()};
}

// One attempt. kDeadlineExceeded: nobody is there yet.
Result<Greeting> greet(const ZmqContext& context, const ConnectOptions& options, const Hello& hello,
                       int wake_fd, Deadline deadline) {
  ZmqSocketOptions socket_options;
  socket_options.linger = std::chrono::milliseconds(100);  // lets goodbye leave
  socket_options.max_frame_bytes = limits::kMaxControlBytes;
  socket_options.wake_fd = wake_fd;
  ASSIGN_OR_RETURN(ZmqSocket socket,
                   ZmqSocket::create(context, ZmqSocketType::kDealer, socket_options));
  RETURN_IF_ERROR(socket.connect(options.endpoint));
  RETURN_IF_ERROR(send_control(socket, hello, deadline));
  while (!deadline.expired()) {
    auto message = receive_control(socket, deadline.slice(kSignInterval));
    if (!message.ok()) {
      if (message.status().code() != StatusCode::kDeadlineExceeded) return message.status();
      if (socket.disconnected()) break;
      continue;
    }
    if (auto* welcome = std::get_if<Welcome>(&*message))
      return Greeting{std::move(socket), std::move(*welcome)};
    if (auto* refusal = std::get_if<Refusal>(&*message)) {
      const StatusCode code =
          refusal->code == StatusCode::kOk ? StatusCode::kProtocolError : refusal->code;
      return Status(code, "the server at {} refused: {}", options.endpoint, refusal->message);
    }
    if (!std::holds_alternative<Sign>(*message)) {
      return Status(StatusCode::kProtocolError,
                    "the server answered hello with neither welcome nor refusal");
    }
  }
  return Status(StatusCode::kDeadlineExceeded, "no answer");
}

Status check_welcome(const Welcome& welcome, const ConnectOptions& options, bool want_ring) {
  auto refuse = [](std::string text) {
    return Status(StatusCode::kProtocolError, std::move(text));
  };
  RETURN_IF_ERROR(check_geometry(welcome.geometry));
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
  const bool hex =
      std::ranges::all_of(welcome.token, [](unsigned char c) { return std::isxdigit(c) != 0; });
  if (welcome.token.size() != 32 || !hex) return refuse("the session's token is not 32 hex digits");
  if (welcome.epoch == 0) return refuse("the session's epoch is 0");
  if (Status dims = welcome.dims.check(); !dims.ok())
    return refuse("the server's model: " + dims.message());
  if (welcome.threads < 1 || welcome.threads > limits::kMaxThreads)
    return refuse("the server's thread count is absurd");
  if (!is_float(welcome.dtype) || !is_float(welcome.stored_dtype))
    return refuse("the server's dtype is no float type");
  if (!options.digest.empty() && options.digest != welcome.digest) {
    return {StatusCode::kMismatch, "the server has another model: digest {}, ours is {}",
            welcome.digest, options.digest};
  }
  if (options.dims && !(*options.dims == welcome.dims)) {
    return {StatusCode::kMismatch, "the server's model has another shape than ours"};
  }
  return {};
}

// Where the data socket is, by the server's word: only a sibling of the control socket, or another
// port of its host.
Result<std::string> data_endpoint(const Endpoint& control, const std::string& claimed) {
  auto parsed = parse_endpoint(claimed);
  if (!parsed.ok())
    return Status(StatusCode::kProtocolError, "the session's " + parsed.status().message());
  if (parsed->kind != control.kind ||
      (control.kind == Endpoint::Kind::kIpc && parsed->directory() != control.directory())) {
    return Status(StatusCode::kProtocolError, "the session's endpoint {} does not belong to {}",
                  claimed, control.text());
  }
  if (control.kind == Endpoint::Kind::kTcp) parsed->host = control.host;
  return parsed->text();
}

/// A thread that starts while this lives takes no signals: they are for the program's own threads,
/// which may want them blocked. Faults stay theirs.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t signals;
    sigfillset(&signals);
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT})
      sigdelset(&signals, fault);
    pthread_sigmask(SIG_BLOCK, &signals, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

class ClientSessionImpl : public ClientSession {
 public:
  ~ClientSessionImpl() override { close(); }

  /// Takes the greeting's socket only if all goes well.
  Status open(const ZmqContext& context, const ConnectOptions& options, const Endpoint& endpoint,
              Greeting& greeting) {
    const Welcome& welcome = greeting.welcome;
    const Deadline deadline = Deadline::after(options.timeout);
    ASSIGN_OR_RETURN(const std::string data, data_endpoint(endpoint, welcome.data_endpoint));
    ASSIGN_OR_RETURN(channel_, SessionChannel::attach(context, welcome, data, life_, deadline));
    BackendInfo info{welcome.dims,    welcome.dtype,  welcome.stored_dtype,
                     welcome.threads, welcome.device, welcome.digest};
    backend_ = std::make_unique<RemoteBackend>(std::move(info), channel_->channel(), op_stats_);
    config_bytes_ = welcome.config_bytes;
    epoch_ = welcome.epoch;
    const SignalsBlocked blocked;
    control_thread_ = std::thread(
        [this, timeout = options.timeout, socket = std::move(greeting.socket)]() mutable {
          watch_server(std::move(socket), timeout);
        });
    return {};
  }

  void keep(std::unique_ptr<ZmqContext> context) { context_ = std::move(context); }
  const WakeEvent& wake() const { return wake_; }

  RemoteBackend& backend() override { return *backend_; }
  std::size_t config_bytes() const override { return config_bytes_; }
  std::uint64_t epoch() const override { return epoch_; }
  const PathPolicy& policy() const override { return channel_->channel().policy(); }
  TransportStats& transport_stats() override { return channel_->channel().stats(); }
  OpStatsTable& op_stats() override { return op_stats_; }
  Status check() const override { return life_.check(); }

  void close() override {
    if (!control_thread_.joinable()) return;
    closing_.store(true, std::memory_order_release);  // pairs with the load in watch_server()
    wake_.set();
    control_thread_.join();
  }

 private:
  // The control thread: sends and awaits signs of life, whatever the main thread computes.
  void watch_server(ZmqSocket socket, std::chrono::milliseconds timeout) {
    SilenceMeter silence;
    Deadline next_sign = Deadline::now();
    while (!closing_.load(std::memory_order_acquire)) {
      if (next_sign.expired()) {
        (void)send_control(socket, Sign{},
                           Deadline::now());  // a full queue shows as silence soon enough
        next_sign = Deadline::after(kSignInterval);
      }
      auto message = receive_control(socket, next_sign);
      silence.tick(now_ns());
      if (message.ok()) {
        silence.heard();
        if (auto* goodbye = std::get_if<Goodbye>(&*message)) {
          return life_.end(
              {StatusCode::kUnavailable, "the server ended the session: " + goodbye->reason});
        }
      } else if (message.status().code() != StatusCode::kDeadlineExceeded) {
        return life_.end(message.status());
      } else if (socket.disconnected()) {
        return life_.end(
            {StatusCode::kUnavailable, "the server closed the connection: it ended or was killed"});
      }
      if (silence.silent_ns() >
          static_cast<std::uint64_t>(std::chrono::nanoseconds(timeout).count())) {
        return life_.end(
            {StatusCode::kUnavailable,
             "no sign of life from the server for {} ms (--timeout-ms): it hangs or was stopped",
             timeout.count()});
      }
    }
    (void)send_control(socket, Goodbye{"the client is done"},
                       Deadline::now());  // it may be gone already
  }

  std::unique_ptr<ZmqContext> context_;  // first: sockets close before it
  PeerLife life_;
  OpStatsTable op_stats_;
  std::unique_ptr<SessionChannel> channel_;
  std::unique_ptr<RemoteBackend> backend_;
  std::size_t config_bytes_ = 0;
  std::uint64_t epoch_ = 0;
  WakeEvent wake_;  // ends the control thread's wait
  std::atomic<bool> closing_{false};
  std::thread control_thread_;
};

}  // namespace

Result<std::unique_ptr<ClientSession>> ClientSession::connect(const ConnectOptions& options) {
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(options.endpoint));
  const bool ipc = endpoint.kind == Endpoint::Kind::kIpc;
  if (ipc) RETURN_IF_ERROR(check_endpoint_directory(endpoint.directory(), IfMissing::kRefuse));
  const bool want_ring =
      options.ring.choice == RingChoice::kOn || (options.ring.choice == RingChoice::kAuto && ipc);
  Hello hello;
  hello.client = fmt::format("{} pid {}", options.client, ::getpid());
  hello.ring = options.ring;
  hello.ring.choice = want_ring ? RingChoice::kOn : RingChoice::kOff;
  hello.digest = options.digest;
  ASSIGN_OR_RETURN(std::unique_ptr<ZmqContext> context, ZmqContext::create());
  const Deadline deadline = Deadline::after(options.timeout);
  for (;;) {
    auto session = std::make_unique<ClientSessionImpl>();
    RETURN_IF_ERROR(session->wake().check());
    auto greeting = greet(*context, options, hello, session->wake().fd(), deadline);
    if (greeting.ok()) {
      Status status = check_welcome(greeting->welcome, options, want_ring);
      if (status.ok()) status = session->open(*context, options, endpoint, *greeting);
      if (!status
               .ok()) {  // the session is there all the same: its slot is another's to have at once
        (void)send_control(greeting->socket, Goodbye{"the client cannot use the session"},
                           Deadline::now());
        return status;
      }
      session->keep(std::move(context));
      return std::unique_ptr<ClientSession>(std::move(session));
    }
    if (greeting.status().code() != StatusCode::kDeadlineExceeded) return greeting.status();
    if (deadline.expired()) return no_server(options);
    std::this_thread::sleep_for(kRetryPause);
  }
}

}  // namespace airlock
