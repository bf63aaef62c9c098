#include "runtime/rpc/client.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "proto/handshake.h"
#include "proto/limits.h"
#include "runtime/channel/zmq_socket.h"

namespace airlock {
namespace {

constexpr std::chrono::milliseconds kRetryPause{50};

Status send_control(ZmqSocket& socket, const ControlMessage& message, Deadline deadline) {
  const std::vector<std::byte> frame = encode_control(message);
  const std::span<const std::byte> part = frame;
  return socket.send({&part, 1}, deadline);
}

/// Nobody waits for it: the server may be gone already.
void say_goodbye(ZmqSocket& socket, std::string reason) {
  (void)send_control(socket, Goodbye{std::move(reason)}, Deadline::now());
}

Result<ControlMessage> receive_control(ZmqSocket& socket, Deadline deadline) {
  ASSIGN_OR_RETURN(auto parts, socket.receive(deadline));
  if (parts.size() != 1)
    return Status(StatusCode::kProtocolError, "a control message has more than one part");
  return decode_control(parts[0]);
}

// One attempt: the control socket, and what came on it. kDeadlineExceeded: nobody is there yet.
Result<std::pair<ZmqSocket, Welcome>> greet(const ZmqContext& context,
                                            const ConnectOptions& options, const Hello& hello,
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
      return std::pair(std::move(socket), std::move(*welcome));
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
  if (!options.digest.empty() && options.digest != welcome.digest) {
    return {StatusCode::kMismatch, "the server has another model: digest {}, ours is {}",
            welcome.digest, options.digest};
  }
  if (options.dims && !(*options.dims == welcome.dims)) {
    return {StatusCode::kMismatch, "the server's model has another shape than ours"};
  }
  return {};
}

/// Starts a thread that takes no signals: they are for the program's own threads, which may want
/// them blocked. Faults stay its own.
template <typename Run>
std::thread thread_without_signals(Run run) {
  sigset_t signals;
  sigset_t before;
  sigfillset(&signals);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT})
    sigdelset(&signals, fault);
  pthread_sigmask(SIG_BLOCK, &signals, &before);
  std::thread thread(std::move(run));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace

Status ClientSession::open(const ConnectOptions& options, const Endpoint& control,
                           const Welcome& welcome) {
  const Deadline deadline = Deadline::after(options.timeout);
  ASSIGN_OR_RETURN(const std::string data, data_endpoint(control, welcome.data_endpoint));
  ASSIGN_OR_RETURN(channel_, SessionChannel::attach(*context_, welcome, data, life_, deadline));
  BackendInfo info{welcome.dims,    welcome.dtype,  welcome.stored_dtype,
                   welcome.threads, welcome.device, welcome.digest};
  backend_ = std::make_unique<RemoteBackend>(std::move(info), channel_->channel(), op_stats_);
  return {};
}

void ClientSession::close() {
  if (!control_thread_.joinable()) return;
  closing_.store(true, std::memory_order_release);  // pairs with the load in watch_server()
  wake_.set();
  control_thread_.join();
}

// The control thread: sends and awaits signs of life, whatever the main thread computes.
void ClientSession::watch_server(ZmqSocket socket, std::chrono::milliseconds timeout) {
  SilenceMeter silence;
  Deadline next_sign = Deadline::now();
  while (!closing_.load(std::memory_order_acquire)) {
    if (next_sign.expired()) {
      // A full queue shows as silence soon enough.
      (void)send_control(socket, Sign{}, Deadline::now());
      next_sign = Deadline::after(kSignInterval);
    }
    auto message = receive_control(socket, next_sign);
    silence.tick(now_ns());
    if (message.ok()) {
      silence.heard();
      if (const auto* goodbye = std::get_if<Goodbye>(&*message)) {
        return life_.end(
            {StatusCode::kUnavailable, "the server ended the session: {}", goodbye->reason});
      }
    } else if (message.status().code() != StatusCode::kDeadlineExceeded) {
      return life_.end(message.status());
    } else if (socket.disconnected()) {
      return life_.end(
          {StatusCode::kUnavailable, "the server closed the connection: it ended or was killed"});
    }
    if (std::chrono::nanoseconds(silence.silent_ns()) > timeout) {
      return life_.end(
          {StatusCode::kUnavailable,
           "no sign of life from the server for {} ms (--timeout-ms): it hangs or was stopped",
           timeout.count()});
    }
  }
  say_goodbye(socket, "the client is done");
}

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
  std::unique_ptr<ClientSession> session(new ClientSession());
  RETURN_IF_ERROR(session->wake_.check());
  ASSIGN_OR_RETURN(session->context_, ZmqContext::create());
  const Deadline deadline = Deadline::after(options.timeout);
  for (;;) {
    auto greeting = greet(*session->context_, options, hello, session->wake_.fd(), deadline);
    if (greeting.ok()) {
      auto& [socket, welcome] = *greeting;
      Status status = check_welcome(welcome, options, want_ring);
      if (status.ok()) status = session->open(options, endpoint, welcome);
      if (!status.ok()) {
        // The session is there all the same: its slot is another's to have at once.
        say_goodbye(socket, "the client cannot use the session");
        return status;
      }
      session->control_thread_ = thread_without_signals(
          [self = session.get(), timeout = options.timeout, socket = std::move(socket)]() mutable {
            self->watch_server(std::move(socket), timeout);
          });
      return session;
    }
    if (greeting.status().code() != StatusCode::kDeadlineExceeded) return greeting.status();
    if (deadline.expired()) {
      return Status(StatusCode::kUnavailable,
                    "no server at {} within {} ms; start gpu_server, or give its --endpoint (it "
                    "prints 'ready ENDPOINT')",
                    options.endpoint, options.timeout.count());
    }
    std::this_thread::sleep_for(kRetryPause);
  }
}

}  // namespace airlock
