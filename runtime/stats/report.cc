#include "runtime/stats/report.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <system_error>
#include <thread>

#include "base/unique_fd.h"

namespace airlock {
namespace {

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

Status file_error(std::string_view what, const std::string& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  return {full ? StatusCode::kResourceExhausted : StatusCode::kInvalidInput,
          fmt::format("cannot {} {}: {}", what, path, std::generic_category().message(error))};
}

Status write_all(int fd, const std::string& path, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return file_error("write", path, errno);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace

HostReport describe_host(std::string_view device) {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) name[0] = '\0';
  return {name.data(), cpu_model(), std::thread::hardware_concurrency(), std::string(device)};
}

void SessionReport::merge_older(const SessionReport& older) {
  sessions += older.sessions;
  transport.merge(older.transport);
  ops.merge(older.ops);
}

void SideReport::merge(const SessionReport& session) {
  transport.merge(session.transport);
  ops.merge(session.ops);
}

Status write_file_atomically(const std::string& path, std::string_view text, unsigned mode) {
  struct stat existing {};
  if (::stat(path.c_str(), &existing) == 0 && !S_ISREG(existing.st_mode)) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (!fd.valid()) return file_error("open", path, errno);
    return write_all(fd.get(), path, text);
  }
  // Process id and count: neither another process nor another thread writes to the same temporary
  // file.
  static std::atomic<unsigned> next{0};
  const std::string temporary = fmt::format("{}.{}.{}.tmp", path, ::getpid(), next.fetch_add(1));
  UniqueFd fd(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!fd.valid()) return file_error("create", temporary, errno);
  Status status = write_all(fd.get(), temporary, text);
  fd.reset();
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0)
    status = file_error("replace", path, errno);
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

}  // namespace airlock
