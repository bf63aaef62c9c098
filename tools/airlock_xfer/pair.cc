#include "tools/airlock_xfer/pair.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <thread>
#include <utility>

#include "base/file.h"
#include "shm/ring_memory.h"
#include "shm/segment_room.h"
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
  const Status status = os_error("make the directory " + path, errno);
  return Status(status.code(), "{}; set TMPDIR to a directory that you may write to",
                status.message());
}

/// All that a session's Welcome says but its endpoint.
Result<Welcome> make_welcome(Path session, const Options& options) {
  Welcome welcome;
  RETURN_IF_ERROR(name_session(welcome));
  welcome.has_ring = session != Path::kZmq;
  welcome.geometry = options.geometry;
  // Where the pool is measured no tensor that it carries takes the ring.
  if (session == Path::kPool) welcome.geometry.slot_bytes = limits::kMinPoolTensorBytes;
  welcome.path_limit = welcome.geometry.slot_bytes;
  const bool has_auto =
      std::ranges::any_of(options.paths, [](const auto& path) { return !path.has_value(); });
  welcome.has_pool = session == Path::kPool || (session == Path::kRing && has_auto);
  return welcome;
}

/// What a session's pool holds at once: the tensors of all messages under way, and of their
/// replies.
std::uint64_t pool_bytes(const Options& options) {
  const std::uint64_t count = options.mode == Mode::kEcho ? 2 : options.inflight;
  return std::clamp<std::uint64_t>(count * whole_pages(options.sizes.back()),
                                   limits::kMinPoolSlotBytes, limits::kMaxPoolSlotBytes);
}

}  // namespace

Result<std::unique_ptr<Pair>> Pair::start(const Options& options, const Hooks& hooks,
                                          int signal_fd) {
  std::unique_ptr<Pair> pair(new Pair(options, hooks));
  PairSetup& setup = pair->setup_;
  for (const auto path : options.paths) {
    const Path session = session_of(path);
    if (setup.welcome[session]) continue;
    ASSIGN_OR_RETURN(setup.welcome[session], make_welcome(session, options));
  }
  if (setup.welcome[Path::kRing] || setup.welcome[Path::kPool]) {
    ASSIGN_OR_RETURN(const std::size_t segment_bytes, ring_segment_bytes(options.geometry));
    RETURN_IF_ERROR(check_sealed_room(segment_bytes, 2, "--path zmq"));
  }
  ASSIGN_OR_RETURN(setup.directory, make_directory());
  RETURN_IF_ERROR(pair->fork_peer());
  pair->watch_ = std::make_unique<LifeWatch>(pair->control_.get(), signal_fd);
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
  peer_ = ::fork();
  if (peer_ < 0) {
    return {StatusCode::kResourceExhausted,
            "cannot fork the peer: {}; raise the limit of processes (ulimit -u, the cgroup's "
            "pids.max) or of memory",
            os_message(errno)};
  }
  if (peer_ == 0) {
    control_.reset();
    ::_exit(run_peer(std::move(peers_end), setup_, parent));
  }
  return {};
}

// Beside which the session's data socket lies.
Endpoint Pair::data_endpoint(Path session) const {
  if (setup_.options.zmq == ZmqTransport::kTcp) return {Endpoint::Kind::kTcp, {}, "127.0.0.1", "0"};
  return {Endpoint::Kind::kIpc, fmt::format("{}/{}", setup_.directory, name_of(session)), {}, {}};
}

Status Pair::make_pool(Path session) {
  const PoolShape shape{pool_bytes(setup_.options), {{1, 0, 0}}, 0};
  ASSIGN_OR_RETURN(pools_[session], PoolRegion::create(shape, PoolCommit::kLazy));
  return {};
}

Status Pair::offer(Path session) {
  Welcome welcome = *setup_.welcome[session];
  const Deadline deadline = Deadline::after(setup_.options.timeout);
  ASSIGN_OR_RETURN(sessions_[session],
                   SessionChannel::offer(welcome, SegmentKind::kSealed, *watch_));
  ASSIGN_OR_RETURN(std::vector<UniqueFd> descriptors, sessions_[session]->descriptors());
  Attached attached;
  if (welcome.has_pool) {
    RETURN_IF_ERROR(make_pool(session));
    const PoolWish wish{{pools_[session]->shape().bytes(), 0, 0}};
    Status lacking;
    ASSIGN_OR_RETURN(auto leased,
                     sessions_[session]->lease(*pools_[session], wish, attached, lacking));
    std::ranges::move(leased, std::back_inserter(descriptors));
    // For auto there is ZeroMQ.
    if (!lacking.ok() && session == Path::kPool)
      return lacking.with_context("use a smaller -e, or --path ring,zmq");
  }
  if (!attached.pool.empty()) {
    room_[session].emplace(limits::kPoolPageBytes);
    room_[session]->add(attached.pool[0].offset, attached.pool[0].bytes);
  }
  // The directory is private and the port loopback's: that a stranger is there first, and another
  // socket announced, is for the peer to stumble over.
  Status told;
  const auto announce = [&](const std::string& endpoint) {
    ControlPacket attach{.order = Order::kAttach, .session = session};
    if (!attached.pool.empty()) attach.leased = attached.pool[0];
    std::ranges::copy(endpoint, attach.endpoint.begin());
    told = send_order(control_.get(), attach, descriptors);
  };
  const Status accepted = sessions_[session]->accept(data_endpoint(session), announce, deadline);
  RETURN_IF_ERROR(told);
  RETURN_IF_ERROR(accepted);
  RETURN_IF_ERROR(sessions_[session]->open());
  return answer(Order::kAttach, deadline).status();
}

Result<ControlPacket> Pair::answer(Order order, Deadline deadline) const {
  ASSIGN_OR_RETURN(const ReceivedOrder came, receive_order(control_.get(), deadline, *watch_));
  const ControlPacket& packet = came.packet;
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
