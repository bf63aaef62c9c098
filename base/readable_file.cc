#include "base/readable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/file.h"

namespace airlock {

Result<ReadableFile> ReadableFile::open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat info {};
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) return os_error("open " + path, errno);
  if (!S_ISREG(info.st_mode))
    return Status(StatusCode::kInvalidInput, path + " is not a regular file");
  ReadableFile file;
  file.fd_ = std::move(fd);
  file.path_ = path;
  file.size_bytes_ = static_cast<std::uint64_t>(info.st_size);
  file.inode_ = info.st_ino;
  file.mtime_s_ = info.st_mtim.tv_sec;
  file.mtime_ns_ = info.st_mtim.tv_nsec;
  return file;
}

Result<std::size_t> ReadableFile::read_some(std::uint64_t offset, std::span<std::byte> out) const {
  // One read(2) moves at most 2 GiB.
  constexpr std::size_t kMostBytes = std::size_t{1} << 30;
  std::size_t done = 0;
  while (done < out.size()) {
    const auto got = ::pread(fd_.get(), out.data() + done, std::min(kMostBytes, out.size() - done),
                             static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error("read " + path_, errno);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  return done;
}

Status ReadableFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  ASSIGN_OR_RETURN(const std::size_t got, read_some(offset, out));
  if (got == out.size()) return {};
  return Status(StatusCode::kInvalidInput,
                "{} ends at byte {}, wanted {} bytes from {}; it became shorter", path_,
                offset + got, out.size(), offset);
}

bool ReadableFile::same_size() const {
  struct stat info {};
  return ::fstat(fd_.get(), &info) == 0 && static_cast<std::uint64_t>(info.st_size) == size_bytes_;
}

std::string ReadableFile::identity() const {
  return fmt::format("{} {}.{:09} {}", size_bytes_, mtime_s_, mtime_ns_, inode_);
}

namespace {

Result<std::string> text_of(const ReadableFile& file, std::uint64_t limit_bytes) {
  if (file.size_bytes() > limit_bytes)
    return Status(StatusCode::kInvalidInput, "{} has {} bytes, at most {} are taken", file.path(),
                  file.size_bytes(), limit_bytes);
  std::string text(file.size_bytes(), '\0');
  RETURN_IF_ERROR(file.read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace

Result<std::string> read_text_file(const std::string& path, std::uint64_t limit_bytes) {
  ASSIGN_OR_RETURN(const ReadableFile file, ReadableFile::open(path));
  return text_of(file, limit_bytes);
}

Result<std::string> read_private_file(const std::string& path, std::uint64_t limit_bytes) {
  ASSIGN_OR_RETURN(const ReadableFile file, ReadableFile::open(path));
  struct stat info {};
  if (::fstat(file.fd(), &info) != 0) return os_error("read " + path, errno);
  if ((info.st_mode & (S_IRWXG | S_IRWXO)) != 0)
    return Status(StatusCode::kInvalidInput, "others may read or write {}: chmod 600 it", path);
  if (info.st_uid != ::geteuid() && info.st_uid != 0)
    return Status(StatusCode::kInvalidInput, "{} is another user's", path);
  return text_of(file, limit_bytes);
}

}  // namespace airlock
