#include "tools/airlock_xfer/pair.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "shm/ring_memory.h"
#include "shm/segment.h"
#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

constexpr std::chrono::seconds kEndPatience{2};     // for a peer that was told to end
constexpr std::chrono::milliseconds kReapSlice{1};  // between two looks at waitpid
constexpr std::size_t kMaxDirectoryBytes = limits::kMaxEndpointPathBytes - 8;  // leaves "/socket"

Status system_error(std::string_view doing) {
  return {StatusCode::kInternal, "{}: {}", doing, std::strerror(errno)};
}

/// A new 0700 directory below $TMPDIR, or /tmp where that is too long for a socket's path.
Result<std::string> make_directory() {
  const char* const wish = std::getenv("TMPDIR");
  std::string path = wish != nullptr && *wish == '/' ? wish : "/tmp";
  path += "/airlock-xfer-XXXXXX";
  if (path.size() > kMaxDirectoryBytes) path = "/tmp/airlock-xfer-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) {
    return Status(StatusCode::kInvalidInput,
                  "cannot make the directory {}: {}; set TMPDIR to a directory that you "
                  "may write to",
                  path, std::strerror(errno));
  }
  return path;
}

Result<std::uint64_t> random_number() {
  std::uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) return system_error("getrandom");
  return number;
}

Result<Welcome> make_welcome(ChannelKind kind, const RingGeometry& geometry) {
  Welcome welcome;
  ASSIGN_OR_RETURN(welcome.epoch, random_number());
  ASSIGN_OR_RETURN(const std::uint64_t high, random_number());
  ASSIGN_OR_RETURN(const std::uint64_t low, random_number());
  welcome.token = fmt::format("{:016x}{:016x}", high, low);
  welcome.has_ring = kind == ChannelKind::kRingAndSocket;
  welcome.geometry = geometry;
  return welcome;
}

/// Both rings at once: Segment::create() would find out at the second.
Status check_shm_room(const RingGeometry& geometry) {
  ASSIGN_OR_RETURN(const std::size_t bytes, ring_segment_bytes(geometry));
  struct statvfs info = {};
  if (::statvfs("/dev/shm", &info) != 0) {
    return {StatusCode::kResourceExhausted, "/dev/shm: {}; rings need it, --path zmq does not",
            std::strerror(errno)};
  }
  const std::uint64_t have = std::uint64_t{info.f_bavail} * info.f_frsize;
  const std::uint64_t need = std::uint64_t{bytes} * 2;
  if (info.f_blocks == 0 || have >= need) return {};  // no blocks: it has no limit
  return {StatusCode::kResourceExhausted,
          "/dev/shm has too little room for two rings: it needs {} ({} bytes), free are "
          "{} ({} bytes); use fewer --ring-slots, smaller --ring-slot-bytes or --path "
          "zmq, or enlarge /dev/shm",
          size_text(need),
          need,
          size_text(have),
          have};
}

Status killed_by(pid_t peer, int number) {
  return {StatusCode::kUnavailable, "the peer (pid {}) was killed by signal {} ({})", peer, number,
          ::strsignal(number)};
}

}  // namespace

Result<std::unique_ptr<Pair>> Pair::start(const Options& options, Hooks hooks, int signal_fd) {
  std::unique_ptr<Pair> pair(new Pair());
  PairSetup& setup = pair->setup_;
  setup.timeout = options.timeout;
  setup.cpus = options.cpus;
  setup.hooks = std::move(hooks);
  for (const PathAsked path : options.paths) {
    const ChannelKind kind = channel_of(path);
    const auto index = static_cast<std::size_t>(kind);
    if (std::exchange(setup.wanted[index], true)) continue;
    ASSIGN_OR_RETURN(setup.welcome[index], make_welcome(kind, options.geometry));
  }
  if (setup.wanted[static_cast<std::size_t>(ChannelKind::kRingAndSocket)]) {
    (void)sweep_stale_segments();
    RETURN_IF_ERROR(check_shm_room(options.geometry));
  }
  ASSIGN_OR_RETURN(setup.directory, make_directory());
  RETURN_IF_ERROR(pair->fork_peer());
  pair->watch_ = std::make_unique<LifeWatch>(pair->control_.fd(), signal_fd);
  ASSIGN_OR_RETURN(pair->context_, ZmqContext::create());
  for (const auto kind : {ChannelKind::kRingAndSocket, ChannelKind::kSocket}) {
    if (!setup.wanted[static_cast<std::size_t>(kind)]) continue;
    if (const Status offered = pair->offer(kind, options); !offered.ok()) {
      return pair->explain(offered);
    }
  }
  remove_files(setup);
  if (options.cpus.has_value()) {
    ASSIGN_OR_RETURN(CpuPin pinned, CpuPin::pin((*options.cpus)[0]));
    pair->pin_.emplace(std::move(pinned));
  }
  return pair;
}

Status Pair::fork_peer() {
  ASSIGN_OR_RETURN(auto ends, ControlSocket::make_pair());
  const pid_t parent = ::getpid();
  std::fflush(nullptr);  // or what is buffered would be written twice
  peer_ = ::fork();
  if (peer_ < 0) return system_error("cannot fork the peer");
  if (peer_ == 0) {
    ends.first.close();
    ::_exit(run_peer(std::move(ends.second), setup_, parent));
  }
  control_ = std::move(ends.first);
  return {};
}

Status Pair::offer(ChannelKind kind, const Options& options) {
  const auto index = static_cast<std::size_t>(kind);
  Welcome welcome = setup_.welcome[index];
  const std::string wanted =
      options.zmq == ZmqTransport::kTcp
          ? "tcp://127.0.0.1:*"
          : fmt::format("ipc://{}/{}", setup_.directory, welcome.has_ring ? "ring" : "socket");
  const Deadline deadline = Deadline::after(options.timeout);
  ASSIGN_OR_RETURN(sessions_[index], SessionChannel::offer(*context_, welcome, wanted, life()));
  ControlPacket where;
  where.kind = ControlKind::kAttach;
  if (welcome.data_endpoint.size() >= where.endpoint.size()) {
    return {StatusCode::kInternal, "the data socket's name is too long: " + welcome.data_endpoint};
  }
  std::ranges::copy(welcome.data_endpoint, where.endpoint.begin());
  RETURN_IF_ERROR(control_.send(where));
  RETURN_IF_ERROR(sessions_[index]->accept(deadline));
  auto attached = control_.receive(ControlKind::kAttached, deadline, life());
  return attached.status();
}

bool Pair::reap(Deadline deadline) {
  while (!reaped_) {
    const pid_t got = ::waitpid(peer_, &wait_status_, WNOHANG);
    if (got == peer_) {
      reaped_ = true;
    } else if (got < 0 && errno != EINTR) {
      return false;  // not ours any more
    } else if (deadline.expired()) {
      return false;
    } else {
      ::usleep(static_cast<useconds_t>(std::chrono::microseconds(kReapSlice).count()));
    }
  }
  return true;
}

Status Pair::explain(Status status) {
  const Status life_status = life().check();
  if (life_status.code() == StatusCode::kCancelled) return life_status;
  if (status.code() == StatusCode::kDeadlineExceeded && !reap(Deadline::now())) {
    stalled_ = true;
    return {StatusCode::kDeadlineExceeded,
            "the peer (pid {}) stalled: {}; --timeout-ms is the longest wait", peer_,
            status.message()};
  }
  if (status.code() != StatusCode::kUnavailable && !reap(Deadline::now())) return status;
  if (!reap(Deadline::after(kEndPatience))) return status;
  if (WIFSIGNALED(wait_status_)) return killed_by(peer_, WTERMSIG(wait_status_));
  const int code = WEXITSTATUS(wait_status_);
  return {code == exit_code(StatusCode::kResourceExhausted) ? StatusCode::kResourceExhausted
                                                            : StatusCode::kUnavailable,
          "the peer (pid {}) ended with exit code {}: {}", peer_, code, status.message()};
}

Pair::~Pair() {
  if (peer_ > 0) {
    (void)control_.send({});  // kBye; it may be gone already
    for (auto& session : sessions_) session.reset();
    watch_.reset();  // whose life their channels ask
    control_.close();
    if (stalled_ || !reap(Deadline::after(kEndPatience))) {
      if (!reaped_) ::kill(peer_, SIGKILL);
      (void)reap(Deadline::after(kEndPatience));
    }
  }
  if (!setup_.directory.empty()) remove_files(setup_);
}

}  // namespace airlock::xfer
