#include "runtime/rpc/endpoint.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <vector>

#include "base/file.h"
#include "proto/limits.h"

namespace airlock {
namespace {

bool consists_of(std::string_view text, std::string_view characters) {
  return !text.empty() && text.find_first_not_of(characters) == std::string_view::npos;
}

bool is_hex(std::string_view text) { return consists_of(text, "0123456789abcdef"); }

// A socket that a dead process left: nobody listens.
bool is_dead_socket(const std::string& path) {
  struct stat info {};
  sockaddr_un address{};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode) ||
      path.size() >= sizeof(address.sun_path))
    return false;
  address.sun_family = AF_UNIX;
  std::copy(path.begin(), path.end(), address.sun_path);
  const UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return fd.valid() &&
         ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 &&
         errno == ECONNREFUSED;
}

}  // namespace

bool Endpoint::is_loopback() const {
  if (kind == Kind::kIpc) return true;
  // Numbers only: a name that starts like an address may be anybody's.
  return host == "localhost" || host == "[::1]" ||
         (host.starts_with("127.") && consists_of(host, "0123456789."));
}

std::string Endpoint::text() const {
  return kind == Kind::kIpc ? "ipc://" + path : "tcp://" + host + ":" + port;
}

std::string Endpoint::directory() const {
  const std::size_t slash = path.rfind('/');
  return slash == 0 ? "/" : path.substr(0, slash);
}

Result<Endpoint> parse_endpoint(std::string_view text) {
  Endpoint endpoint;
  auto refuse = [&](std::string_view why) {
    return Status(StatusCode::kUsage, "endpoint '{}': {}", text, why);
  };
  if (text.starts_with("ipc://")) {
    endpoint.path = text.substr(6);
    if (!endpoint.path.starts_with('/') || endpoint.path.ends_with('/')) {
      return refuse(
          "an ipc endpoint is ipc:// and an absolute path of a file, as in "
          "ipc:///tmp/airlock-0/ctl");
    }
    if (endpoint.path.size() > limits::kMaxEndpointPathBytes) {
      return refuse(fmt::format("the path has {} bytes, a Unix socket takes at most {}",
                                endpoint.path.size(), limits::kMaxEndpointPathBytes));
    }
    return endpoint;
  }
  if (!text.starts_with("tcp://")) return refuse("it is neither ipc:///path nor tcp://host:port");
  endpoint.kind = Endpoint::Kind::kTcp;
  const std::string_view rest = text.substr(6);
  const std::size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos || colon == 0)
    return refuse("a tcp endpoint is tcp://host:port");
  endpoint.host = rest.substr(0, colon);
  endpoint.port = rest.substr(colon + 1);
  const bool is_number = endpoint.port.size() <= 5 && consists_of(endpoint.port, "0123456789");
  if (endpoint.port != "*" && (!is_number || std::atoi(endpoint.port.c_str()) > 65535)) {
    return refuse("the port is not a number from 0 to 65535");
  }
  return endpoint;
}

Endpoint default_endpoint() {
  Endpoint endpoint;
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  endpoint.path = runtime != nullptr && runtime[0] == '/'
                      ? fmt::format("{}/airlock/ctl", runtime)
                      : fmt::format("/tmp/airlock-{}/ctl", ::getuid());
  return endpoint;
}

Status check_endpoint_directory(const std::string& directory, IfMissing if_missing) {
  if (if_missing == IfMissing::kCreate && ::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return os_error("make the directory " + directory, errno);
  struct stat info {};
  if (::lstat(directory.c_str(), &info) != 0) {
    const bool missing = errno == ENOENT;
    return {missing ? StatusCode::kUnavailable : StatusCode::kInvalidInput, "{}{}: {}",
            missing ? "no server: " : "", directory, os_message(errno)};
  }
  std::string wrong;
  if (S_ISLNK(info.st_mode))
    wrong = "is a link";
  else if (!S_ISDIR(info.st_mode))
    wrong = "is not a directory";
  else if (info.st_uid != ::geteuid())
    wrong = fmt::format("belongs to user {}, not to {}", info.st_uid, ::geteuid());
  else if ((info.st_mode & 0777) != 0700)
    wrong = fmt::format("has mode {:04o}, not 0700", info.st_mode & 07777);
  if (wrong.empty()) return {};
  return {StatusCode::kInvalidInput,
          "the endpoint's directory {} {}; others could pose as the server there. Use a directory "
          "of your own with mode 0700 (mkdir -m 700), or another --endpoint",
          directory, wrong};
}

EndpointLock::~EndpointLock() {
  if (fd_.valid()) ::unlink(path_.c_str());
}

Result<EndpointLock> EndpointLock::acquire(const std::string& socket_path) {
  EndpointLock lock;
  lock.path_ = socket_path + ".lock";
  // A holder unlinks the file at its end, so the file that we locked may be gone from the path:
  // then try again.
  for (int attempt = 0; attempt < 16; ++attempt) {
    UniqueFd fd(::open(lock.path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd.valid()) return os_error("open " + lock.path_, errno);
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      char pid[24] = {};
      [[maybe_unused]] const ssize_t got = ::pread(fd.get(), pid, sizeof(pid) - 1, 0);
      return Status(StatusCode::kInUse,
                    "endpoint in use: ipc://{} belongs to a live server (pid {}); stop it or give "
                    "another --endpoint",
                    socket_path, std::strtol(pid, nullptr, 10));
    }
    struct stat held {};
    struct stat named {};
    if (::fstat(fd.get(), &held) == 0 && ::stat(lock.path_.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino) {
      const std::string pid = fmt::format("{}\n", ::getpid());
      if (::ftruncate(fd.get(), 0) != 0 || ::pwrite(fd.get(), pid.data(), pid.size(), 0) < 0)
        return os_error("write " + lock.path_, errno);
      lock.fd_ = std::move(fd);
      return lock;
    }
  }
  return Status(StatusCode::kInUse, "{} changes hands all the time", lock.path_);
}

Result<std::string> session_socket_path(const std::string& socket_path, std::uint32_t random) {
  std::string path = fmt::format("{}.{:08x}", socket_path, random);
  if (path.size() <= limits::kMaxEndpointPathBytes) return path;
  path = socket_path.substr(0, socket_path.rfind('/') + 1) + "s";
  if (path.size() + 1 > limits::kMaxEndpointPathBytes) {
    return Status(StatusCode::kUsage,
                  "endpoint 'ipc://{}': its directory leaves no room for the sockets of "
                  "sessions; give a shorter path",
                  socket_path);
  }
  const std::size_t digits = std::min<std::size_t>(8, limits::kMaxEndpointPathBytes - path.size());
  return path + fmt::format("{:08x}", random).substr(0, digits);
}

std::string counters_path(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kIpc) return endpoint.path + ".stats";
  return fmt::format("{}/tcp-{}.stats", default_endpoint().directory(), endpoint.port);
}

void sweep_session_sockets(const std::string& socket_path) {
  const std::size_t slash = socket_path.rfind('/');
  const std::string directory = socket_path.substr(0, slash + 1);
  const std::string prefix = socket_path.substr(slash + 1) + ".";
  const auto chosen = session_socket_path(socket_path, 0);
  const bool has_short = chosen.ok() && !chosen->starts_with(socket_path + ".");
  const std::size_t short_bytes = has_short ? chosen->size() - directory.size() : 0;
  DIR* entries = ::opendir(directory.c_str());
  if (entries == nullptr) return;
  std::vector<std::string> stale;
  while (const dirent* entry = ::readdir(entries)) {
    const std::string_view name = entry->d_name;
    const std::string path = directory + std::string(name);
    const bool is_ours = name.size() == prefix.size() + 8 && name.starts_with(prefix) &&
                         is_hex(name.substr(prefix.size()));
    const bool is_short = path != socket_path && name.size() == short_bytes &&
                          name.starts_with('s') && is_hex(name.substr(1));
    if (is_ours || (is_short && is_dead_socket(path))) stale.push_back(path);
  }
  ::closedir(entries);
  for (const std::string& path : stale) ::unlink(path.c_str());
}

}  // namespace airlock
