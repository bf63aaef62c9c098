#include "tools/airlock_xfer/pair.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "base/file.h"
#include "shm/ring_memory.h"
#include "shm/segment.h"
#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

constexpr std::chrono::seconds kEndPatience{2};     // for a peer that was told to end
constexpr std::chrono::milliseconds kReapSlice{1};  // between two looks at waitpid
// Leaves room for the name of a session's socket.
constexpr std::size_t kMaxDirectoryBytes = limits::kMaxEndpointPathBytes - 8;

/// A new 0700 directory below $TMPDIR, or /tmp where that is too long for a socket's path.
Result<std::string> make_directory() {
  const char* const wish = std::getenv("TMPDIR");
  std::string path = wish != nullptr && *wish == '/' ? wish : "/tmp";
  path += "/airlock-xfer-XXXXXX";
  if (path.size() > kMaxDirectoryBytes) path = "/tmp/airlock-xfer-XXXXXX";
  if (::mkdtemp(path.data()) != nullptr) return path;
  return Status(StatusCode::kInvalidInput,
                "cannot make the directory {}: {}; set TMPDIR to a directory that you may write to",
                path, os_message(errno));
}

/// All that a session's Welcome says but its endpoint.
Result<Welcome> make_welcome(Path fastest, const RingGeometry& geometry) {
  std::uint64_t random[3] = {};
  if (::getrandom(random, sizeof(random), 0) != sizeof(random))
    return os_error("get random numbers", errno);
  Welcome welcome;
  welcome.epoch = random[0];
  welcome.token = fmt::format("{:016x}{:016x}", random[1], random[2]);
  welcome.has_ring = fastest == Path::kRing;
  welcome.geometry = geometry;
  if (!welcome.has_ring) return welcome;
  const auto name = [&](auto direction) {
    return make_segment_name(::geteuid(), welcome.epoch, direction);
  };
  welcome.request_segment = name(SegmentDirection::kRequest);
  welcome.reply_segment = name(SegmentDirection::kReply);
  return welcome;
}

/// Both rings at once: Segment::create() would find out at the second.
Status check_shm_room(const RingGeometry& geometry) {
  ASSIGN_OR_RETURN(const std::size_t bytes, ring_segment_bytes(geometry));
  struct statvfs info = {};
  if (::statvfs("/dev/shm", &info) != 0) {
    return {StatusCode::kResourceExhausted, "/dev/shm: {}; rings need it, --path zmq does not",
            os_message(errno)};
  }
  const std::uint64_t have = std::uint64_t{info.f_bavail} * info.f_frsize;
  const std::uint64_t need = std::uint64_t{bytes} * 2;
  if (info.f_blocks == 0 || have >= need) return {};  // no blocks: it has no limit
  const auto text = [](std::uint64_t count) {
    return fmt::format("{} ({} bytes)", size_text(count), count);
  };
  return {StatusCode::kResourceExhausted,
          "/dev/shm has too little room for two rings: it needs {}, free are {}; use fewer "
          "--ring-slots, smaller --ring-slot-bytes or --path zmq, or enlarge /dev/shm",
          text(need), text(have)};
}

}  // namespace

Result<std::unique_ptr<Pair>> Pair::start(const Options& options, const Hooks& hooks,
                                          int signal_fd) {
  std::unique_ptr<Pair> pair(new Pair(options, hooks));
  PairSetup& setup = pair->setup_;
  for (const auto path : options.paths) {
    const Path session = session_of(path);
    if (setup.welcome[session]) continue;
    ASSIGN_OR_RETURN(setup.welcome[session], make_welcome(session, options.geometry));
  }
  if (setup.welcome[Path::kRing]) {
    (void)sweep_stale_segments();
    RETURN_IF_ERROR(check_shm_room(options.geometry));
  }
  ASSIGN_OR_RETURN(setup.directory, make_directory());
  RETURN_IF_ERROR(pair->fork_peer());
  pair->watch_ = std::make_unique<LifeWatch>(pair->control_.get(), signal_fd);
  ASSIGN_OR_RETURN(pair->context_, ZmqContext::create());
  for (const Path session : kPaths) {
    if (!setup.welcome[session]) continue;
    if (const Status offered = pair->offer(session); !offered.ok()) return pair->explain(offered);
  }
  remove_files(setup);
  if (options.cpus) {
    ASSIGN_OR_RETURN(pair->unpinned_, pin_to_cpu((*options.cpus)[0]));
  }
  return pair;
}

Status Pair::fork_peer() {
  int fds[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0)
    return os_error("make the control socket", errno);
  control_.reset(fds[0]);
  UniqueFd peers_end(fds[1]);
  const pid_t parent = ::getpid();
  std::fflush(nullptr);  // or what is buffered would be written twice
  peer_ = ::fork();
  if (peer_ < 0) return os_error("fork the peer", errno);
  if (peer_ == 0) {
    control_.reset();
    ::_exit(run_peer(std::move(peers_end), setup_, parent));
  }
  return {};
}

Status Pair::offer(Path session) {
  Welcome welcome = *setup_.welcome[session];
  const std::string wanted = setup_.options.zmq == ZmqTransport::kTcp
                                 ? "tcp://127.0.0.1:*"
                                 : fmt::format("ipc://{}/{}", setup_.directory, name_of(session));
  const Deadline deadline = Deadline::after(setup_.options.timeout);
  ASSIGN_OR_RETURN(sessions_[session], SessionChannel::offer(*context_, welcome, wanted, *watch_));
  ControlPacket attach{.order = Order::kAttach, .session = session};
  if (welcome.data_endpoint.size() >= attach.endpoint.size()) {
    return {StatusCode::kInternal, "the data socket's name is too long: " + welcome.data_endpoint};
  }
  std::ranges::copy(welcome.data_endpoint, attach.endpoint.begin());
  RETURN_IF_ERROR(tell(attach));
  RETURN_IF_ERROR(sessions_[session]->accept(deadline));
  return answer(Order::kAttach, deadline).status();
}

Result<ControlPacket> Pair::answer(Order order, Deadline deadline) const {
  ASSIGN_OR_RETURN(const ControlPacket packet, receive_packet(control_.get(), deadline, *watch_));
  if (packet.order == order) return packet;
  return Status(StatusCode::kProtocolError, "an answer to order {}, expected to {}",
                static_cast<std::uint32_t>(packet.order), static_cast<std::uint32_t>(order));
}

bool Pair::reap(Deadline deadline) {
  while (!reaped_) {
    const pid_t got = ::waitpid(peer_, &wait_status_, WNOHANG);
    reaped_ = got == peer_;
    if (reaped_) break;
    // Any other error: it is not ours any more.
    if (deadline.expired() || (got < 0 && errno != EINTR)) return false;
    std::this_thread::sleep_for(kReapSlice);
  }
  return true;
}

Status Pair::explain(Status status) {
  const Status life_status = life().check();
  if (life_status.code() == StatusCode::kCancelled) return life_status;
  // No room by the deadline means that the peer took nothing for so long.
  const bool too_slow =
      status.code() == StatusCode::kDeadlineExceeded || status.code() == StatusCode::kBusy;
  if (too_slow && !reap(Deadline::now())) {
    stalled_ = true;
    return {StatusCode::kDeadlineExceeded,
            "the peer (pid {}) stalled: {}; --timeout-ms is the longest wait", peer_,
            status.message()};
  }
  if (status.code() != StatusCode::kUnavailable && !reap(Deadline::now())) return status;
  if (!reap(Deadline::after(kEndPatience))) return status;
  if (WIFSIGNALED(wait_status_)) {
    const int number = WTERMSIG(wait_status_);
    return {StatusCode::kUnavailable, "the peer (pid {}) was killed by signal {} ({})", peer_,
            number, ::strsignal(number)};
  }
  const int code = WEXITSTATUS(wait_status_);
  return {code == exit_code(StatusCode::kResourceExhausted) ? StatusCode::kResourceExhausted
                                                            : StatusCode::kUnavailable,
          "the peer (pid {}) ended with exit code {}: {}", peer_, code, status.message()};
}

Pair::~Pair() {
  if (peer_ > 0) {
    (void)tell({});  // kBye; it may be gone already
    for (auto& session : sessions_) session.reset();
    watch_.reset();  // their channels asked it
    control_.reset();
    if (stalled_ || !reap(Deadline::after(kEndPatience))) {
      if (!reaped_) ::kill(peer_, SIGKILL);
      (void)reap(Deadline::after(kEndPatience));
    }
  }
  if (!setup_.directory.empty()) remove_files(setup_);
  if (unpinned_) (void)::sched_setaffinity(0, sizeof(*unpinned_), &*unpinned_);
}

}  // namespace airlock::xfer
