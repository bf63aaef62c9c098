#include "base/file.h"

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <filesystem>
#include <system_error>

namespace airlock {
namespace {

bool is_used_up(int error) {
  constexpr int kUsedUp[] = {ENOSPC, EDQUOT, EFBIG, ENOMEM, EMFILE, ENFILE};
  return std::ranges::find(kUsedUp, error) != std::end(kUsedUp);
}

/// Until a descriptor that does not block takes something again.
Status wait_for_room(int fd, const std::string& path, std::optional<Deadline> end) {
  std::chrono::milliseconds patience(30'000);
  if (end)
    patience = std::min(patience, std::chrono::ceil<std::chrono::milliseconds>(end->remaining()));
  pollfd room{fd, POLLOUT, 0};
  const int ready = ::poll(&room, 1, static_cast<int>(patience.count()));
  if (ready > 0 || (ready < 0 && errno == EINTR)) return {};
  return os_error("write " + path, ready == 0 ? ETIMEDOUT : errno);
}

}  // namespace

std::string os_message(int error) { return std::generic_category().message(error); }

Status os_error(std::string_view what, int error) {
  return {is_used_up(error) ? StatusCode::kResourceExhausted : StatusCode::kInvalidInput,
          "cannot {}: {}", what, os_message(error)};
}

Status write_all(int fd, std::string_view bytes, const std::string& path,
                 std::optional<Deadline> end) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {
      RETURN_IF_ERROR(wait_for_room(fd, path, end));
      continue;
    }
    if (written < 0) return os_error("write " + path, errno);
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "./" : path.substr(0, slash + 1);
}

Result<std::string> follow_links(const std::string& path) {
  constexpr int kMostLinks = 40;  // as the kernel follows
  std::string name = path;
  for (int links = 0; links <= kMostLinks; ++links) {
    // On Linux a link to the other one, which nobody has to have mounted.
    if (constexpr std::string_view kShort = "/dev/fd/"; name.starts_with(kShort))
      name.replace(0, kShort.size(), kDescriptorFolder);
    if (name.starts_with(kDescriptorFolder)) return name;
    std::array<char, PATH_MAX> text{};
    const ssize_t length = ::readlink(name.c_str(), text.data(), text.size());
    // EINVAL: it is no link.
    if (length < 0 && (errno == EINVAL || errno == ENOENT)) return name;
    if (length < 0) return os_error("look at " + path, errno);
    const std::string_view next(text.data(), static_cast<std::size_t>(length));
    name = next.starts_with('/') ? std::string(next) : folder_of(name).append(next);
  }
  return os_error("look at " + path, ELOOP);
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
  // A link to nothing means what will be made there.
  const auto last_name = [](const std::string& path) {
    auto name = follow_links(path);
    return name.ok() ? *name : path;
  };
  const auto a_path = std::filesystem::weakly_canonical(last_name(a), a_error);
  const auto b_path = std::filesystem::weakly_canonical(last_name(b), b_error);
  return a_error || b_error ? a == b : a_path == b_path;
}

}  // namespace airlock
