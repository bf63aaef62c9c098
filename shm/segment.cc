#include "shm/segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/log.h"

namespace airlock {
namespace {

constexpr std::string_view kDirectory = "/dev/shm/";
constexpr std::string_view kPrefix = "airlock-";
constexpr std::size_t kMaxSuffixBytes = 80;
constexpr int kCreateAttempts = 100;  // one a millisecond

std::string path_of(std::string_view name) { return std::string(kDirectory).append(name); }

std::string error_text(std::string_view what, const std::string& name, int error) {
  return std::string(what) + " /dev/shm/" + name + ": " + std::strerror(error);
}

std::string mib(std::uint64_t bytes) {
  return std::to_string((bytes + (1u << 20) - 1) >> 20) + " MiB (" + std::to_string(bytes) +
         " bytes)";
}

std::uint64_t free_bytes(int fd) {
  struct statvfs info = {};
  if (::fstatvfs(fd, &info) != 0) return 0;
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

Status no_room(int fd, std::size_t need_bytes) {
  return {
      StatusCode::kResourceExhausted,
      "/dev/shm has too little room for a ring segment: it needs " + mib(need_bytes) +
          ", free are " + mib(free_bytes(fd)) +
          "; use fewer --ring-slots, smaller --ring-slot-bytes or --ring off, or enlarge /dev/shm"};
}

/// Reserves every page, so that a full /dev/shm is an error here and never SIGBUS later.
Status reserve(int fd, const std::string& name, std::size_t bytes, const WaitCheck& check) {
  constexpr std::size_t kPieceBytes =
      std::size_t{16} << 20;  // between two looks at `check`: gigabytes take seconds
  struct statvfs info = {};
  // Looked at first: fallocate would take all that is there before it finds out that it is not
  // enough.
  if (::fstatvfs(fd, &info) == 0 && info.f_blocks != 0 && free_bytes(fd) < bytes)
    return no_room(fd, bytes);
  int error = 0;
  for (std::size_t at = 0; at < bytes && error == 0; at += kPieceBytes) {
    if (check) RETURN_IF_ERROR(check());
    do {
      error = ::posix_fallocate(fd, static_cast<off_t>(at),
                                static_cast<off_t>(std::min(kPieceBytes, bytes - at)));
    } while (error == EINTR);
  }
  if (error == ENOSPC || error == EFBIG || error == ENOMEM || error == EDQUOT)
    return no_room(fd, bytes);
  if (error != 0) return {StatusCode::kInternal, error_text("cannot reserve", name, error)};
  return {};
}

bool is_same_file(int fd, const std::string& path) {
  struct stat by_fd = {};
  struct stat by_path = {};
  return ::fstat(fd, &by_fd) == 0 && ::lstat(path.c_str(), &by_path) == 0 &&
         by_fd.st_ino == by_path.st_ino && by_fd.st_dev == by_path.st_dev;
}

/// A new, locked file. A sweeper may see it before it is locked, and removes it: then another
/// attempt is made.
Result<UniqueFd> create_locked(const std::string& name) {
  const std::string path = path_of(name);
  for (int attempt = 0; attempt < kCreateAttempts; ++attempt) {
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!fd.valid()) {
      if (errno == EEXIST && attempt == 0) {
        return Status(StatusCode::kInUse, error_text("cannot create", name, EEXIST));
      }
      if (errno == EEXIST) {
        ::usleep(1000);
        continue;
      }
      if (errno == ENOSPC)
        return Status(StatusCode::kResourceExhausted, error_text("cannot create", name, ENOSPC));
      return Status(StatusCode::kInternal, error_text("cannot create", name, errno));
    }
    if (::fchmod(fd.get(), 0600) != 0) {
      const int error = errno;
      ::unlink(path.c_str());
      return Status(StatusCode::kInternal, error_text("cannot set the mode of", name, error));
    }
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0 && is_same_file(fd.get(), path)) return fd;
    // The sweeper that holds the lock removes the file; if we did, it could remove the next one
    // instead.
  }
  return Status(StatusCode::kInUse,
                "/dev/shm/" + name + " is locked or removed by others again and again");
}

Status check_file(int fd, const std::string& name, std::size_t bytes) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0)
    return {StatusCode::kInternal, error_text("cannot stat", name, errno)};
  std::string wrong;
  if (!S_ISREG(info.st_mode)) {
    wrong = "is no regular file";
  } else if (info.st_uid != ::geteuid()) {
    wrong =
        "belongs to uid " + std::to_string(info.st_uid) + ", not " + std::to_string(::geteuid());
  } else if ((info.st_mode & 07777) != 0600) {
    char mode[16];
    std::snprintf(mode, sizeof mode, "%04o", static_cast<unsigned>(info.st_mode & 07777));
    wrong = std::string("has mode ") + mode + ", not 0600";
  } else if (info.st_size < 0 || static_cast<std::uint64_t>(info.st_size) != bytes) {
    wrong = "has " + std::to_string(info.st_size) + " bytes, not " + std::to_string(bytes);
  }
  if (wrong.empty()) return {};
  return {StatusCode::kProtocolError, "segment /dev/shm/" + name + " " + wrong};
}

}  // namespace

std::string make_segment_name(uid_t uid, std::uint64_t epoch, SegmentDirection direction) {
  char name[64];
  std::snprintf(name, sizeof name, "airlock-%lu-%016llx-%s", static_cast<unsigned long>(uid),
                static_cast<unsigned long long>(epoch),
                direction == SegmentDirection::kRequest ? "req" : "rep");
  return name;
}

bool is_segment_name(std::string_view name) {
  if (!name.starts_with(kPrefix)) return false;
  name.remove_prefix(kPrefix.size());
  return !name.empty() && name.size() <= kMaxSuffixBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || c == '-';
         });
}

Result<std::unique_ptr<Segment>> Segment::create(const std::string& name, std::size_t bytes,
                                                 const WaitCheck& check) {
  if (!is_segment_name(name) || bytes == 0) {
    return Status(StatusCode::kInternal, "bad segment name or size: " + name);
  }
  ASSIGN_OR_RETURN(UniqueFd fd, create_locked(name));
  const int raw_fd = fd.get();
  std::unique_ptr<Segment> segment(
      new Segment(name, std::move(fd)));  // from here on its destructor unlinks
  RETURN_IF_ERROR(reserve(raw_fd, name, bytes, check));
  RETURN_IF_ERROR(segment->map(raw_fd, bytes));
  return segment;
}

Result<std::unique_ptr<Segment>> Segment::open(const std::string& name, std::size_t bytes) {
  if (!is_segment_name(name) || bytes == 0) {
    return Status(StatusCode::kProtocolError, "the peer sent a malformed segment name or size");
  }
  UniqueFd fd(::open(path_of(name).c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    const int error = errno;
    if (error == ENOENT) {
      return Status(StatusCode::kUnavailable, error_text("cannot open", name, error) +
                                                  "; if the server runs elsewhere, use --ring off");
    }
    return Status(StatusCode::kProtocolError, error_text("cannot open", name, error));
  }
  RETURN_IF_ERROR(check_file(fd.get(), name, bytes));
  std::unique_ptr<Segment> segment(new Segment(name, UniqueFd()));
  RETURN_IF_ERROR(segment->map(fd.get(), bytes));
  return segment;
}

Status Segment::map(int fd, std::size_t bytes) {
  // Populated: the pages are there already, and the first messages need not fault them in one by
  // one.
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (data == MAP_FAILED)
    return {StatusCode::kResourceExhausted, error_text("cannot map", name_, errno)};
  data_ = static_cast<std::byte*>(data);
  bytes_ = bytes;
  ASSIGN_OR_RETURN(SegmentGuard guard, SegmentGuard::create(data_, bytes_));
  guard_.emplace(std::move(guard));
  return {};
}

Segment::~Segment() {
  unlink();
  guard_.reset();
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

void Segment::unlink() {
  if (!owned_fd_.valid()) return;
  if (::unlink(path_of(name_).c_str()) != 0 && errno != ENOENT) {
    log_warning(error_text("cannot remove", name_, errno));
  }
  owned_fd_.reset();
}

std::size_t sweep_stale_segments() {
  DIR* directory = ::opendir(std::string(kDirectory).c_str());
  if (directory == nullptr) return 0;
  const std::string own_prefix = std::string(kPrefix) + std::to_string(::geteuid()) + "-";
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (name.starts_with(own_prefix) && is_segment_name(name)) names.emplace_back(name);
  }
  ::closedir(directory);
  std::size_t removed = 0;
  for (const std::string& name : names) {
    const std::string path = path_of(name);
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
    struct stat info = {};
    if (!fd.valid() || ::fstat(fd.get(), &info) != 0) continue;
    if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) continue;
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;  // its owner lives
    if (is_same_file(fd.get(), path) && ::unlink(path.c_str()) == 0) ++removed;
  }
  return removed;
}

}  // namespace airlock
