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
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/log.h"
#include "base/mix.h"
#include "base/safe_text.h"
#include "proto/limits.h"

namespace airlock {
namespace {

bool consists_of(std::string_view text, std::string_view characters) {
  return !text.empty() && text.find_first_not_of(characters) == std::string_view::npos;
}

bool is_hex(std::string_view text) { return consists_of(text, "0123456789abcdef"); }

// A socket that a dead process left. A datagram socket asks, because no server of ours has one: a
// live socket of another type refuses it by type, and gets no connection of it; it does so from its
// bind on, before it listens.
bool is_dead_socket(const std::string& path) {
  const auto address = unix_address(path);
  const UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return address.ok() && fd.valid() &&
         ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof(*address)) != 0 &&
         errno == ECONNREFUSED;
}

bool is_our_socket(const struct stat& info) {
  return S_ISSOCK(info.st_mode) && info.st_uid == ::geteuid();
}

// The same file without "//" and "/./", which never mean anything. ".." stays: behind a link it is
// not what the text says.
std::string without_idle_parts(std::string_view path) {
  std::string simple;
  while (!path.empty()) {
    path.remove_prefix(1);  // the slash
    const std::string_view part = path.substr(0, path.find('/'));
    path.remove_prefix(part.size());
    if (!part.empty() && part != ".") simple.append("/").append(part);
  }
  return simple;
}

std::string_view name_in(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::string directory_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return std::string(path.substr(0, slash == 0 ? 1 : slash));
}

std::string path_in(const std::string& directory, std::string_view name) {
  return fmt::format("{}{}{}", directory, directory.ends_with('/') ? "" : "/", name);
}

// Names that session_socket_path() gives: the long one, without its last nine characters the
// control socket's, and the short one.
bool is_long_session_name(std::string_view name) {
  return name.size() > 9 && name[name.size() - 9] == '.' && is_hex(name.substr(name.size() - 8));
}
bool is_short_session_name(std::string_view name) {
  return name.starts_with('s') && name.size() <= 9 && is_hex(name.substr(1));
}

// Empty, or the value of XDG_RUNTIME_DIR where the default endpoint lies in it.
std::string runtime_directory() {
  const char* const value = std::getenv("XDG_RUNTIME_DIR");
  return value != nullptr && value[0] == '/' ? value : "";
}

std::string fault_of_owner(const struct stat& info) {
  if (info.st_uid == ::geteuid()) return {};
  return fmt::format("belongs to user {}, not to {}", info.st_uid, ::geteuid());
}

std::string fault_of(const struct stat& directory) {
  if (S_ISLNK(directory.st_mode)) return "is a link";
  if (!S_ISDIR(directory.st_mode)) return "is not a directory";
  if (std::string fault = fault_of_owner(directory); !fault.empty()) return fault;
  if ((directory.st_mode & 0777) == 0700) return {};
  return fmt::format("has mode {:04o}, not 0700", directory.st_mode & 07777);
}

// Of the default endpoint's directory: what is wrong with the variable that names its parent.
Status check_runtime_directory(IfMissing if_missing) {
  const std::string value = runtime_directory();
  if (value.empty()) return {};
  struct stat info {};
  StatusCode code = StatusCode::kInvalidInput;
  std::string fault;
  if (::stat(value.c_str(), &info) != 0) {
    // Nobody can have a server there, which to a client is no server.
    if (errno == ENOENT && if_missing == IfMissing::kRefuse) code = StatusCode::kUnavailable;
    fault = errno == ENOENT ? "does not exist" : "cannot be used: " + os_message(errno);
  } else if (!S_ISDIR(info.st_mode)) {
    fault = "is not a directory";
  } else {
    fault = fault_of_owner(info);
  }
  if (fault.empty()) return {};
  return {code,
          "XDG_RUNTIME_DIR is {}, which {}: the default endpoint lies in it. Unset the variable on "
          "both sides (the default is then /tmp/airlock-{}/ctl), set it to a directory of your "
          "own, or give an --endpoint elsewhere",
          value, fault, ::getuid()};
}

Status directory_refused(const std::string& directory, const std::string& fault) {
  return {StatusCode::kInvalidInput,
          "the endpoint's directory {} {}; others could pose as the server there. Use a directory "
          "of your own with mode 0700 (mkdir -m 700), or another --endpoint",
          directory, fault};
}

Status in_the_way(const std::string& path, std::string_view what) {
  return {StatusCode::kInvalidInput,
          "{} is in the way: it is {}; remove it, or give another --endpoint", path, what};
}

// One byte of the directory's file for each name of a socket; the same in every build.
struct flock lock_on(std::string_view name, short type) {
  std::uint64_t hash = 0;
  for (const char c : name) hash = mix(hash + 1 + static_cast<unsigned char>(c));
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(hash >> 2);  // no sign, and room for the length
  lock.l_len = 1;
  return lock;
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

std::string Endpoint::directory() const { return directory_of(path); }

void warn_of_exposure(const Endpoint& endpoint) {
  if (endpoint.is_loopback()) return;
  log_warning(fmt::format(
      "nothing that crosses to {} is encrypted or authenticated: give --server-key and --key "
      "(airlock_keygen), unless the network is yours alone",
      endpoint.text()));
}

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof(address.sun_path))
    return Status(StatusCode::kUsage, "endpoint ipc://{}: the path is too long", path);
  address.sun_family = AF_UNIX;
  std::copy(path.begin(), path.end(), address.sun_path);
  return address;
}

Result<Endpoint> parse_endpoint(std::string_view text) {
  Endpoint endpoint;
  auto refuse = [&](std::string_view why) {
    return Status(StatusCode::kUsage, "endpoint '{}': {}", without_controls(text, "?"), why);
  };
  // It is printed, sent to peers as a text and handed on as a C string.
  if (has_controls(text)) return refuse("it holds control characters or is not UTF-8");
  if (text.starts_with("ipc://")) {
    const std::string_view path = text.substr(6);
    const std::string_view name = name_in(path);
    if (!path.starts_with('/') || name.empty() || name == "." || name == ".." ||
        path.find('\0') != std::string_view::npos) {
      return refuse(
          "an ipc endpoint is ipc:// and an absolute path of a file, as in "
          "ipc:///tmp/airlock-0/ctl");
    }
    endpoint.path = without_idle_parts(path);
    if (endpoint.path.size() > limits::kMaxEndpointPathBytes) {
      const bool by_default = endpoint.path == default_endpoint().path;
      return refuse(fmt::format("the path has {} bytes, a Unix socket takes at most {}{}",
                                endpoint.path.size(), limits::kMaxEndpointPathBytes,
                                by_default ? "; it comes from XDG_RUNTIME_DIR: set that to a "
                                             "shorter one, or give an --endpoint"
                                           : ""));
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
  const std::string runtime = runtime_directory();
  Endpoint endpoint;
  endpoint.path = runtime.empty() ? fmt::format("/tmp/airlock-{}/ctl", ::getuid())
                                  : without_idle_parts(runtime + "/airlock/ctl");
  return endpoint;
}

Status check_endpoint_directory(const std::string& directory, IfMissing if_missing) {
  if (directory == default_endpoint().directory())
    RETURN_IF_ERROR(check_runtime_directory(if_missing));
  if (if_missing == IfMissing::kCreate) {
    const bool made = ::mkdir(directory.c_str(), 0700) == 0;
    if (!made && errno != EEXIST) return os_error("make the directory " + directory, errno);
    // A umask may have taken bits of it. Where this cannot be done the mode tells below.
    if (made) (void)::fchmodat(AT_FDCWD, directory.c_str(), 0700, AT_SYMLINK_NOFOLLOW);
  }
  struct stat info {};
  if (::lstat(directory.c_str(), &info) != 0) {
    const bool missing = errno == ENOENT;
    return {missing ? StatusCode::kUnavailable : StatusCode::kInvalidInput, "{}{}: {}",
            missing ? "no server: " : "", directory, os_message(errno)};
  }
  const std::string fault = fault_of(info);
  return fault.empty() ? Status() : directory_refused(directory, fault);
}

EndpointLock& EndpointLock::operator=(EndpointLock&& other) noexcept {
  std::swap(directory_, other.directory_);
  std::swap(socket_name_, other.socket_name_);
  std::swap(directory_fd_, other.directory_fd_);
  std::swap(file_fd_, other.file_fd_);
  std::swap(file_id_, other.file_id_);
  std::swap(socket_id_, other.socket_id_);
  std::swap(warned_, other.warned_);
  return *this;
}

EndpointLock::~EndpointLock() { remove_files(); }

std::optional<EndpointLock::FileId> EndpointLock::find(const std::string& name) const {
  struct stat info {};
  if (::fstatat(directory_fd_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
    return std::nullopt;
  return FileId{info.st_dev, info.st_ino};
}

void EndpointLock::remove_if_same(const std::string& name, const std::optional<FileId>& id) const {
  if (id && find(name) == id) ::unlinkat(directory_fd_.get(), name.c_str(), 0);
}

void EndpointLock::remove_files() {
  if (!directory_fd_.valid()) return;
  remove_if_same(socket_name_, std::exchange(socket_id_, {}));
  remove_if_same(socket_name_ + ".lock", std::exchange(file_id_, {}));
}

// Nothing that anybody removes takes this lock away. A file system that has no such locks leaves
// the lock file and the socket to tell.
Status EndpointLock::lock_directory() {
  struct flock held = lock_on(socket_name_, F_RDLCK);
  if (::fcntl(directory_fd_.get(), F_OFD_SETLK, &held) != 0) return {};
  // A lock for writing would need a directory that is open for writing, which there is not; to ask
  // for another's needs none.
  struct flock others = lock_on(socket_name_, F_WRLCK);
  if (::fcntl(directory_fd_.get(), F_OFD_GETLK, &others) != 0 || others.l_type == F_UNLCK)
    return {};
  return {StatusCode::kInUse,
          "endpoint in use: ipc://{} belongs to a live server whose lock file is gone (somebody "
          "removed it, or the server is ending); stop it or give another --endpoint",
          path_in(directory_, socket_name_)};
}

Status EndpointLock::lock_file() {
  const std::string name = socket_name_ + ".lock";
  const std::string path = path_in(directory_, name);
  // A holder removes the file at its end, so the file that we locked may be gone from the path:
  // then try again.
  for (int attempt = 0; attempt < 16; ++attempt) {
    UniqueFd fd(::openat(directory_fd_.get(), name.c_str(),
                         O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600));
    if (!fd.valid()) return os_error("open " + path, errno);
    struct stat info {};
    if (::fstat(fd.get(), &info) != 0) return os_error("look at " + path, errno);
    if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid())
      return in_the_way(path, "no file of ours");
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      char pid[24] = {};
      [[maybe_unused]] const ssize_t got = ::pread(fd.get(), pid, sizeof(pid) - 1, 0);
      return {StatusCode::kInUse,
              "endpoint in use: ipc://{} belongs to a live server (pid {}); stop it or give "
              "another --endpoint",
              path_in(directory_, socket_name_), std::strtol(pid, nullptr, 10)};
    }
    const FileId id{info.st_dev, info.st_ino};
    if (find(name) != id) continue;
    const std::string pid = fmt::format("{}\n", ::getpid());
    if (::fchmod(fd.get(), 0600) != 0 || ::ftruncate(fd.get(), 0) != 0 ||
        ::pwrite(fd.get(), pid.data(), pid.size(), 0) < 0)
      return os_error("write " + path, errno);
    file_fd_ = std::move(fd);
    file_id_ = id;
    return {};
  }
  return {StatusCode::kInUse, "{} changes hands all the time", path};
}

Result<EndpointLock> EndpointLock::acquire(const std::string& socket_path) {
  EndpointLock lock;
  lock.directory_ = directory_of(socket_path);
  lock.socket_name_ = name_in(socket_path);
  lock.directory_fd_ =
      UniqueFd(::open(lock.directory_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info {};
  if (!lock.directory_fd_.valid() || ::fstat(lock.directory_fd_.get(), &info) != 0)
    return os_error("open " + lock.directory_, errno);
  if (const std::string fault = fault_of(info); !fault.empty())
    return directory_refused(lock.directory_, fault);
  // The file first: of two that start at once it lets one go on.
  RETURN_IF_ERROR(lock.lock_file());
  RETURN_IF_ERROR(lock.lock_directory());
  // Cleaners of temporary files (systemd-tmpfiles) leave a directory alone that somebody holds so.
  (void)::flock(lock.directory_fd_.get(), LOCK_SH | LOCK_NB);
  if (::fstatat(lock.directory_fd_.get(), lock.socket_name_.c_str(), &info, AT_SYMLINK_NOFOLLOW) !=
      0) {
    if (errno == ENOENT) return lock;
    return os_error("look at " + socket_path, errno);
  }
  if (!is_our_socket(info)) return in_the_way(socket_path, "no socket of ours");
  if (!is_dead_socket(socket_path)) {
    return Status(StatusCode::kInUse,
                  "endpoint in use: a live process has the socket {}, though no lock; stop it or "
                  "give another --endpoint",
                  socket_path);
  }
  lock.remove_if_same(lock.socket_name_, FileId{info.st_dev, info.st_ino});
  return lock;
}

Status EndpointLock::own_socket() {
  socket_id_ = find(socket_name_);
  if (socket_id_) return {};
  return {StatusCode::kUnavailable, "the socket {} is gone", path_in(directory_, socket_name_)};
}

Status EndpointLock::still_ours() {
  if (!directory_fd_.valid()) return {};
  struct stat held {};
  struct stat named {};
  if (::fstat(directory_fd_.get(), &held) != 0 || ::lstat(directory_.c_str(), &named) != 0 ||
      held.st_dev != named.st_dev || held.st_ino != named.st_ino) {
    return {
        StatusCode::kUnavailable,
        "the endpoint's directory {} was removed or replaced: sessions go on, but no new client "
        "finds this server",
        directory_};
  }
  if (socket_id_ && find(socket_name_) != socket_id_) {
    return {StatusCode::kUnavailable,
            "the socket {} was removed or replaced: sessions go on, but no new client finds this "
            "server",
            path_in(directory_, socket_name_)};
  }
  if (find(socket_name_ + ".lock") == file_id_) return {};
  const Status made = lock_file();
  if (!std::exchange(warned_, true)) {
    log_warning(fmt::format("somebody removed {}.lock: {}", path_in(directory_, socket_name_),
                            made.ok() ? "it was made anew" : made.message()));
  }
  return {};
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

Result<std::string> session_endpoint(const Endpoint& control, const std::string& claimed) {
  auto parsed = parse_endpoint(claimed);
  if (!parsed.ok())
    return Status(StatusCode::kProtocolError, "the session's " + parsed.status().message());
  const bool ipc = control.kind == Endpoint::Kind::kIpc;
  const std::string_view name = name_in(parsed->path);
  const bool is_session_name = is_long_session_name(name) || is_short_session_name(name);
  if (parsed->kind != control.kind || (ipc && !is_session_name)) {
    return Status(StatusCode::kProtocolError, "the session's endpoint {} does not belong to {}",
                  claimed, control.text());
  }
  if (!ipc) {
    parsed->host = control.host;
    return parsed->text();
  }
  parsed->path = path_in(control.directory(), name);
  if (parsed->path.size() <= limits::kMaxEndpointPathBytes) return parsed->text();
  return Status(StatusCode::kUsage,
                "the session's socket is {}, {} bytes, and a Unix socket takes at most {}: give "
                "--endpoint in a shorter spelling of its directory",
                parsed->path, parsed->path.size(), limits::kMaxEndpointPathBytes);
}

std::string counters_path(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kIpc) return endpoint.path + ".stats";
  return fmt::format("{}/tcp-{}.stats", default_endpoint().directory(), endpoint.port);
}

void sweep_session_sockets(const std::string& socket_path) {
  constexpr int kMaxEntries = 65536;
  const std::string directory = directory_of(socket_path);
  const std::string_view own_name = name_in(socket_path);
  const auto chosen = session_socket_path(socket_path, 0);
  const std::size_t short_bytes =
      chosen.ok() && is_short_session_name(name_in(*chosen)) ? name_in(*chosen).size() : 0;
  DIR* entries = ::opendir(directory.c_str());
  if (entries == nullptr) return;
  std::vector<std::string> stale;
  for (int i = 0; i < kMaxEntries; ++i) {
    const dirent* const entry = ::readdir(entries);
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    // A short name may be another server's in the same directory.
    const bool may_be =
        (is_long_session_name(name) && name.substr(0, name.size() - 9) == own_name) ||
        (name.size() == short_bytes && is_short_session_name(name) && name != own_name);
    struct stat info {};
    if (may_be && ::fstatat(::dirfd(entries), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
        is_our_socket(info) && is_dead_socket(path_in(directory, name)))
      stale.emplace_back(name);
  }
  for (const std::string& name : stale) ::unlinkat(::dirfd(entries), name.c_str(), 0);
  ::closedir(entries);
}

}  // namespace airlock
