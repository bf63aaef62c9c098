#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <random>
#include <system_error>

#include "base/unique_fd.h"

namespace airlock {
namespace {

bool is_used_up(int error) {
  constexpr int kUsedUp[] = {ENOSPC, EDQUOT, EFBIG, ENOMEM, EMFILE, ENFILE};
  return std::ranges::find(kUsedUp, error) != std::end(kUsedUp);
}

Status write_parts(int fd, std::initializer_list<std::string_view> parts, const std::string& path) {
  for (const std::string_view part : parts) RETURN_IF_ERROR(write_all(fd, part, path));
  return {};
}

}  // namespace

std::string os_message(int error) { return std::generic_category().message(error); }

Status os_error(std::string_view what, int error) {
  return {is_used_up(error) ? StatusCode::kResourceExhausted : StatusCode::kInvalidInput,
          "cannot {}: {}", what, os_message(error)};
}

Status write_all(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return os_error("write " + path, errno);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

Status write_file_atomically(const std::string& path, std::initializer_list<std::string_view> parts,
                             unsigned mode) {
  struct stat existing {};
  if (::stat(path.c_str(), &existing) == 0 && !S_ISREG(existing.st_mode)) {
    const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (!fd.valid()) return os_error("open " + path, errno);
    return write_parts(fd.get(), parts, path);
  }
  // By chance: no other process, thread or container writes to the same temporary file, and none
  // that was left behind is in the way.
  const std::string temporary = fmt::format("{}.{:08x}.tmp", path, std::random_device{}());
  UniqueFd fd(
      ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!fd.valid()) return os_error("create " + temporary, errno);
  Status status = write_parts(fd.get(), parts, temporary);
  fd.reset();
  if (status.ok() && ::rename(temporary.c_str(), path.c_str()) != 0) {
    status = os_error("replace " + path, errno);
  }
  if (!status.ok()) ::unlink(temporary.c_str());
  return status;
}

bool is_same_file(const std::string& a, const std::string& b) {
  struct stat a_info {};
  struct stat b_info {};
  if (::stat(a.c_str(), &a_info) == 0 && ::stat(b.c_str(), &b_info) == 0) {
    return a_info.st_dev == b_info.st_dev && a_info.st_ino == b_info.st_ino &&
           !S_ISCHR(a_info.st_mode);
  }
  std::error_code a_error;
  std::error_code b_error;
  const auto a_path = std::filesystem::weakly_canonical(a, a_error);
  const auto b_path = std::filesystem::weakly_canonical(b, b_error);
  return a_error || b_error ? a == b : a_path == b_path;
}

}  // namespace airlock
