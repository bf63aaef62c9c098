#include "runtime/model/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace airlock {

namespace {

Status file_error(const std::string& path, std::string_view what, int error) {
  return {StatusCode::kInvalidInput,
          fmt::format("{}: {}: {}", path, what, std::generic_category().message(error))};
}

}  // namespace

Result<ReadableFile> ReadableFile::open(const std::string& path) {
  // Not blocking: a pipe in the place of a model must not hang us.
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) return file_error(path, "cannot open", errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return file_error(path, "cannot stat", errno);
  if (!S_ISREG(info.st_mode)) {
    return Status(StatusCode::kInvalidInput, fmt::format("{}: not a regular file", path));
  }
  ReadableFile file;
  file.fd_ = std::move(fd);
  file.path_ = path;
  file.size_bytes_ = static_cast<std::uint64_t>(info.st_size);
  file.inode_ = info.st_ino;
  file.mtime_s_ = info.st_mtim.tv_sec;
  file.mtime_ns_ = info.st_mtim.tv_nsec;
  return file;
}

Status ReadableFile::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  // One read(2) moves at most 2 GiB.
  constexpr std::size_t kMostBytes = std::size_t{1} << 30;
  for (std::size_t done = 0; done < out.size();) {
    const auto got = ::pread(fd_.get(), out.data() + done, std::min(kMostBytes, out.size() - done),
                             static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return file_error(path_, "cannot read", errno);
    if (got == 0) {
      return {StatusCode::kInvalidInput,
              fmt::format("{}: ends at byte {}, wanted {} bytes from {}; it became shorter", path_,
                          offset + done, out.size(), offset)};
    }
    done += static_cast<std::size_t>(got);
  }
  return {};
}

bool ReadableFile::same_size() const {
  struct stat info {};
  return ::fstat(fd_.get(), &info) == 0 && static_cast<std::uint64_t>(info.st_size) == size_bytes_;
}

std::string ReadableFile::identity() const {
  return fmt::format("{} {}.{:09} {}", size_bytes_, mtime_s_, mtime_ns_, inode_);
}

Result<std::string> read_text_file(const std::string& path, std::uint64_t limit_bytes) {
  ASSIGN_OR_RETURN(const ReadableFile file, ReadableFile::open(path));
  if (file.size_bytes() > limit_bytes) {
    return Status(StatusCode::kInvalidInput, fmt::format("{}: has {} bytes, at most {} are taken",
                                                         path, file.size_bytes(), limit_bytes));
  }
  std::string text(file.size_bytes(), '\0');
  RETURN_IF_ERROR(file.read_at(0, std::as_writable_bytes(std::span(text))));
  return text;
}

}  // namespace airlock
