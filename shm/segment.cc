#include "shm/segment.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/available_memory.h"
#include "base/file.h"
#include "base/log.h"
#include "proto/ring.h"
#include "shm/sealed_memory.h"

namespace airlock {
namespace {

constexpr const char* kDirectory = "/dev/shm/";
/// One a millisecond.
constexpr int kCreateAttempts = 100;
constexpr int kOpenFlags = O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;

Status no_room(const std::string& where, std::size_t need_bytes, std::uint64_t free_bytes) {
  const auto mib = [](std::uint64_t bytes) { return (bytes + (1u << 20) - 1) >> 20; };
  return Status(StatusCode::kResourceExhausted,
                "{} has too little room for a ring segment: it needs {} MiB ({} bytes), free are "
                "{} MiB ({} bytes); use fewer --ring-slots, smaller --ring-slot-bytes or --ring "
                "off, or make room",
                where, mib(need_bytes), need_bytes, mib(free_bytes), free_bytes);
}

/// What /dev/shm lets a named file take; nullopt: it has no limit.
std::optional<std::uint64_t> free_bytes_of(int fd) {
  struct statvfs info = {};
  if (::fstatvfs(fd, &info) != 0 || info.f_blocks == 0) return std::nullopt;
  return std::uint64_t{info.f_bavail} * info.f_frsize;
}

bool is_same_file(int fd, const std::string& path) {
  struct stat by_fd = {};
  struct stat by_path = {};
  return ::fstat(fd, &by_fd) == 0 && ::lstat(path.c_str(), &by_path) == 0 &&
         by_fd.st_ino == by_path.st_ino && by_fd.st_dev == by_path.st_dev;
}

/// A new, locked file. A sweeper may see it before it is locked, and removes it: then another
/// attempt is made.
Result<UniqueFd> create_locked(const std::string& path) {
  for (int attempt = 0; attempt < kCreateAttempts; ++attempt) {
    UniqueFd fd(::open(path.c_str(), kOpenFlags | O_CREAT | O_EXCL, 0600));
    if (!fd.valid() && errno != EEXIST) return os_error("create " + path, errno);
    if (!fd.valid() && attempt == 0)
      return Status(StatusCode::kInUse, "cannot create {}: {}", path, os_message(EEXIST));
    if (!fd.valid()) {
      ::usleep(1000);
      continue;
    }
    if (::fchmod(fd.get(), 0600) != 0) {
      const Status status = os_error("set the mode of " + path, errno);
      ::unlink(path.c_str());
      return status;
    }
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0 && is_same_file(fd.get(), path)) return fd;
    // The sweeper that holds the lock removes the file; if we did, it could remove the next one
    // instead.
  }
  return Status(StatusCode::kInUse, "{} is locked or removed by others again and again", path);
}

Status check_file(int fd, const std::string& path, std::size_t bytes) {
  const auto wrong = [&path](const std::string& what) {
    return Status(StatusCode::kProtocolError, "segment {} {}", path, what);
  };
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return os_error("stat " + path, errno);
  if (!S_ISREG(info.st_mode)) return wrong("is no regular file");
  if (info.st_uid != ::geteuid())
    return wrong(fmt::format("belongs to uid {}, not {}", info.st_uid, ::geteuid()));
  if (const unsigned mode = info.st_mode & 07777; mode != 0600)
    return wrong(fmt::format("has mode {:04o}, not 0600", mode));
  if (info.st_size < 0 || static_cast<std::uint64_t>(info.st_size) != bytes)
    return wrong(fmt::format("has {} bytes, not {}", info.st_size, bytes));
  return {};
}

}  // namespace

std::string make_segment_name(uid_t uid, std::uint64_t epoch, SegmentDirection direction) {
  return fmt::format("airlock-{}-{:016x}-{}", uid, epoch,
                     direction == SegmentDirection::kRequest ? "req" : "rep");
}

Segment::Segment(const std::string& name, UniqueFd owned_fd)
    : name_(name), owned_fd_(std::move(owned_fd)) {}

Result<std::unique_ptr<Segment>> Segment::create(const std::string& name, std::size_t bytes) {
  if (!is_segment_name(name) || bytes == 0)
    return Status(StatusCode::kInternal, "bad segment name or size: {}", name);
  const std::string path = kDirectory + name;
  ASSIGN_OR_RETURN(UniqueFd fd, create_locked(path));
  // From here on its destructor unlinks.
  std::unique_ptr<Segment> segment(new Segment(name, std::move(fd)));
  segment->path_ = path;
  if (::ftruncate(segment->descriptor(), static_cast<off_t>(bytes)) != 0)
    return os_error("size " + path, errno);
  RETURN_IF_ERROR(segment->map(segment->descriptor(), bytes));
  return segment;
}

Result<std::unique_ptr<Segment>> Segment::create_sealed(const std::string& name,
                                                        std::size_t bytes) {
  ASSIGN_OR_RETURN(UniqueFd fd, make_sealed_memory(name, bytes));
  std::unique_ptr<Segment> segment(new Segment(name, std::move(fd)));
  RETURN_IF_ERROR(segment->map(segment->descriptor(), bytes));
  return segment;
}

Result<std::unique_ptr<Segment>> Segment::open(const std::string& name, std::size_t bytes) {
  if (!is_segment_name(name) || bytes == 0)
    return Status(StatusCode::kProtocolError, "the peer sent a malformed segment name or size");
  std::unique_ptr<Segment> segment(new Segment(name, UniqueFd()));
  const std::string path = kDirectory + name;
  const UniqueFd fd(::open(path.c_str(), kOpenFlags));
  if (!fd.valid()) {
    const bool absent = errno == ENOENT;
    return Status(absent ? StatusCode::kUnavailable : StatusCode::kProtocolError,
                  "cannot open {}: {}{}", path, os_message(errno),
                  absent ? "; if the server runs elsewhere, use --ring off" : "");
  }
  RETURN_IF_ERROR(check_file(fd.get(), path, bytes));
  RETURN_IF_ERROR(segment->map(fd.get(), bytes));
  return segment;
}

Result<std::unique_ptr<Segment>> Segment::open_sealed(const UniqueFd& descriptor,
                                                      std::size_t bytes) {
  RETURN_IF_ERROR(check_sealed_memory(descriptor, bytes));
  std::unique_ptr<Segment> segment(new Segment("the peer's", UniqueFd()));
  RETURN_IF_ERROR(segment->map(descriptor.get(), bytes));
  return segment;
}

Status Segment::map(int fd, std::size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) {
    return {StatusCode::kResourceExhausted, "cannot map the segment {}: {}", name_,
            os_message(errno)};
  }
  data_ = static_cast<std::byte*>(data);
  bytes_ = bytes;
  ASSIGN_OR_RETURN(SegmentGuard guard, SegmentGuard::create(data_, bytes_));
  guard_.emplace(std::move(guard));
  return {};
}

Status Segment::reserve(const WaitCheck& check) {
  CHECK(owned_fd_.valid());
  // Between two looks at `check`: gigabytes take seconds.
  constexpr std::size_t kPieceBytes = std::size_t{16} << 20;
  const std::string where = path_.empty() ? "memory" : "/dev/shm";
  const auto free_bytes = [this] {
    const auto memory = memory_available_bytes();
    const auto files = path_.empty() ? std::nullopt : free_bytes_of(owned_fd_.get());
    return memory && files ? std::min(*memory, *files) : memory ? memory : files;
  };
  // What is there of it already: the peer may have begun to write.
  struct stat info = {};
  const std::uint64_t held =
      ::fstat(owned_fd_.get(), &info) == 0 ? static_cast<std::uint64_t>(info.st_blocks) * 512 : 0;
  // Looked at first: fallocate would take all that is there before it finds out that it is not
  // enough, and where memory is short the kernel kills instead.
  if (const auto free = free_bytes(); free && held < bytes_ && *free < bytes_ - held)
    return no_room(where, bytes_, *free);
  int error = 0;
  for (std::size_t at = 0; at < bytes_ && error == 0; at += kPieceBytes) {
    if (check) RETURN_IF_ERROR(check());
    do {
      error = ::posix_fallocate(owned_fd_.get(), static_cast<off_t>(at),
                                static_cast<off_t>(std::min(kPieceBytes, bytes_ - at)));
    } while (error == EINTR);
  }
  if (error != 0) {
    const Status refused = os_error("reserve " + name_, error);
    return refused.code() == StatusCode::kResourceExhausted
               ? no_room(where, bytes_, free_bytes().value_or(0))
               : refused;
  }
  return {};
}

void Segment::populate() const {
  // A kernel that cannot (before 5.14) faults them in one by one.
  (void)::madvise(data_, bytes_, MADV_POPULATE_WRITE);
}

Segment::~Segment() {
  unlink();
  guard_.reset();
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

void Segment::discard() const { empty_memory(owned_fd_, bytes_); }

void Segment::unlink() {
  if (path_.empty()) return;
  if (::unlink(path_.c_str()) != 0 && errno != ENOENT)
    log_warning(os_error("remove " + path_, errno).message());
  path_.clear();
  ::flock(owned_fd_.get(), LOCK_UN);
}

std::size_t sweep_stale_segments() {
  DIR* directory = ::opendir(kDirectory);
  if (directory == nullptr) return 0;
  const std::string own_prefix = fmt::format("airlock-{}-", ::geteuid());
  // Whoever may write there could fill the folder.
  constexpr int kMaxEntries = 65536;
  std::vector<std::string> paths;
  for (int i = 0; i < kMaxEntries; ++i) {
    const dirent* const entry = ::readdir(directory);
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name.starts_with(own_prefix) && is_segment_name(name)) paths.push_back(kDirectory + name);
  }
  ::closedir(directory);
  std::size_t removed = 0;
  for (const std::string& path : paths) {
    const UniqueFd fd(::open(path.c_str(), kOpenFlags));
    struct stat info = {};
    if (!fd.valid() || ::fstat(fd.get(), &info) != 0) continue;
    if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) continue;
    if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) continue;  // its owner lives
    if (is_same_file(fd.get(), path) && ::unlink(path.c_str()) == 0) ++removed;
  }
  return removed;
}

}  // namespace airlock
