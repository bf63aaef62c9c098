#include "base/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>

#include "base/file.h"
#include "base/random.h"

namespace airlock {
namespace {

constexpr std::size_t kFlushBytes = std::size_t{256} << 10;
constexpr std::chrono::milliseconds kReaderSlice{10};  // between two looks for a pipe's reader
constexpr unsigned kMode = 0600;

std::string descriptor_path(int fd) { return fmt::format("{}{}", kDescriptorFolder, fd); }

/// The descriptor of this process that `path`, links followed, names.
std::optional<int> descriptor_of(std::string_view path) {
  if (!path.starts_with(kDescriptorFolder)) return std::nullopt;
  int fd = -1;
  const char* const end = path.data() + path.size();
  const auto [stop, error] = std::from_chars(path.data() + kDescriptorFolder.size(), end, fd);
  return error == std::errc() && stop == end && fd >= 0 ? std::optional(fd) : std::nullopt;
}

/// Whether something is mounted on the file itself, as containers do; the kernel may not tell.
bool is_mount_point(const std::string& path) {
  struct statx info {};
  return ::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT, STATX_TYPE, &info) == 0 &&
         (info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

/// In such a folder only a file's owner, or the folder's, gives its name to another file.
bool is_kept_by_its_folder(const std::string& target, const struct stat& file) {
  struct stat folder {};
  const uid_t user = ::geteuid();
  return ::stat(folder_of(target).c_str(), &folder) == 0 && (folder.st_mode & S_ISVTX) != 0 &&
         user != 0 && file.st_uid != user && folder.st_uid != user;
}

Status refused(const std::string& path, std::string_view why) {
  return {StatusCode::kInvalidInput, "cannot write {}: {}", path, why};
}

/// `error` of making a file in the folder of `target`.
Status no_file_in_folder(const std::string& path, const std::string& target, int error) {
  const std::string folder = folder_of(target);
  if (error == ENOENT) return refused(path, fmt::format("there is no folder {}", folder));
  return os_error(fmt::format("write {} (a new file in {})", path, folder), error);
}

Result<UniqueFd> duplicate(const std::string& path, int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!copy.valid()) return os_error("write " + path, errno);
  const int flags = ::fcntl(copy.get(), F_GETFL);
  if ((flags & O_ACCMODE) == O_RDONLY || (flags & O_PATH) != 0)
    return os_error("write " + path, EBADF);
  return copy;
}

/// A pipe or a device. It is never waited on while it is opened: not for a carrier, nor, beyond
/// `reader_wait`, for a pipe's reader.
Result<UniqueFd> open_through(const std::string& path, bool is_pipe,
                              std::chrono::milliseconds reader_wait) {
  const Deadline deadline = Deadline::after(reader_wait);
  for (;;) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
    if (fd.valid()) return fd;
    if (!is_pipe || errno != ENXIO) return os_error("write " + path, errno);
    if (deadline.expired()) {
      return refused(path, fmt::format("it is a pipe, and nobody has opened it for reading "
                                       "within {} s",
                                       std::chrono::duration<double>(reader_wait).count()));
    }
    std::this_thread::sleep_for(kReaderSlice);
  }
}

/// A descriptor of this process. A file is written where it stands: to open it anew would begin at
/// its start, and to replace it would leave the descriptor with the old one. A pipe or a device has
/// no place, and its new descriptor can be one that does not block without a change to the old one.
Result<UniqueFd> open_own(const std::string& path, int own) {
  ASSIGN_OR_RETURN(UniqueFd copy, duplicate(path, own));
  struct stat info {};
  if (::fstat(own, &info) != 0 || !(S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode))) return copy;
  auto anew = open_through(descriptor_path(own), false, {});
  return anew.ok() ? std::move(anew) : std::move(copy);
}

}  // namespace

Result<std::unique_ptr<OutputDraft>> OutputDraft::beside(const std::string& path,
                                                         std::string target) {
  // A file without a name is gone with this process, however that ends. Not every file system has
  // such files, and to name one takes /proc.
  UniqueFd fd(::open(folder_of(target).c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, kMode));
  if (fd.valid() && ::access(descriptor_path(fd.get()).c_str(), F_OK) != 0) fd.reset();
  std::unique_ptr<OutputDraft> draft(new OutputDraft(path, std::move(fd)));
  draft->target_ = std::move(target);
  if (!draft->fd_.valid()) RETURN_IF_ERROR(draft->take_temporary_name());
  // Whatever the umask is.
  if (::fchmod(draft->fd(), kMode) != 0) return os_error("write " + path, errno);
  return draft;
}

OutputDraft::~OutputDraft() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

/// By chance: no other process, thread or container takes the same, and nothing that was left
/// behind is in the way. Short, as the target's own name may be as long as a name can be.
Status OutputDraft::take_temporary_name() {
  std::uint64_t number = 0;
  RETURN_IF_ERROR(fill_random({&number, 1}));
  const std::string name = fmt::format("{}.airlock-{:016x}.tmp", folder_of(target_), number);
  if (fd_.valid()) {
    if (::linkat(AT_FDCWD, descriptor_path(fd_.get()).c_str(), AT_FDCWD, name.c_str(),
                 AT_SYMLINK_FOLLOW) != 0)
      return no_file_in_folder(path_, target_, errno);
  } else {
    fd_.reset(::open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kMode));
    if (!fd_.valid()) return no_file_in_folder(path_, target_, errno);
  }
  temporary_ = name;
  return {};
}

void OutputDraft::add(std::string_view text) {
  if (text.size() < kFlushBytes) {
    buffer_ += text;
    if (buffer_.size() >= kFlushBytes) flush();
    return;
  }
  flush();
  if (status_.ok()) status_ = write_all(fd_.get(), text, path_, end_);
}

void OutputDraft::flush() {
  if (status_.ok()) status_ = write_all(fd_.get(), buffer_, path_, end_);
  buffer_.clear();
}

Status OutputDraft::commit() {
  flush();
  if (!status_.ok() || target_.empty()) return status_;
  // A full disk may be told of only by fsync(), and a name must never outlive its text.
  if (::fsync(fd_.get()) != 0) return status_ = os_error("write " + path_, errno);
  return status_ = take_place();
}

Status OutputDraft::take_place() {
  if (target_.empty()) return {};
  if (temporary_.empty()) RETURN_IF_ERROR(take_temporary_name());
  if (::rename(temporary_.c_str(), target_.c_str()) != 0)
    return os_error("replace " + path_, errno);
  temporary_.clear();
  return {};
}

Result<OutputFile> OutputFile::open(const std::string& path,
                                    std::chrono::milliseconds reader_wait) {
  const auto last = follow_links(path);
  if (!last.ok()) return last.status();
  if (const auto own = descriptor_of(*last)) {
    ASSIGN_OR_RETURN(UniqueFd fd, open_own(path, *own));
    return OutputFile(path, std::move(fd));
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) {
    ASSIGN_OR_RETURN(UniqueFd fd, open_through(path, S_ISFIFO(info.st_mode), reader_wait));
    return OutputFile(path, std::move(fd));
  }
  OutputFile file(path, UniqueFd());
  // All that commit() will do but the last step.
  ASSIGN_OR_RETURN(std::string target, file.target());
  ASSIGN_OR_RETURN(const auto draft, OutputDraft::beside(path, std::move(target)));
  if (draft->temporary_.empty()) RETURN_IF_ERROR(draft->take_temporary_name());
  return file;
}

Result<OutputFile> OutputFile::open_stdout() {
  ASSIGN_OR_RETURN(UniqueFd fd, duplicate("stdout", STDOUT_FILENO));
  return OutputFile("stdout", std::move(fd));
}

Result<std::string> OutputFile::target() const {
  ASSIGN_OR_RETURN(std::string target, follow_links(path_));
  struct stat named {};
  struct stat info {};
  if (::stat(path_.c_str(), &info) != 0) {
    if (errno != ENOENT) return os_error("write " + path_, errno);
    if (target.empty() || target.back() == '/') return os_error("write " + path_, EISDIR);
    return target;
  }
  if (S_ISDIR(info.st_mode)) return os_error("write " + path_, EISDIR);
  if (!S_ISREG(info.st_mode)) return refused(path_, "it is no regular file any more");
  // Some links of /proc lead to files that have no name.
  if (::lstat(target.c_str(), &named) != 0 || named.st_dev != info.st_dev ||
      named.st_ino != info.st_ino)
    return refused(path_, "the file that it leads to has no name of its own");
  if (::faccessat(AT_FDCWD, target.c_str(), W_OK, AT_EACCESS) != 0)
    return os_error("write " + path_, errno);
  if (is_mount_point(target)) {
    return refused(path_,
                   "something is mounted on it, so it cannot be replaced: mount the folder "
                   "in which it lies");
  }
  if (is_kept_by_its_folder(target, info)) {
    return refused(path_,
                   "it is another user's, in a folder (as /tmp is) where only its owner "
                   "can replace it");
  }
  return target;
}

Result<std::unique_ptr<OutputDraft>> OutputFile::begin(std::optional<Deadline> end) const {
  if (!through_.valid()) {
    ASSIGN_OR_RETURN(std::string target, this->target());
    return OutputDraft::beside(path_, std::move(target));
  }
  ASSIGN_OR_RETURN(UniqueFd fd, duplicate(path_, through_.get()));
  return std::unique_ptr<OutputDraft>(new OutputDraft(path_, std::move(fd), end));
}

Status OutputFile::write(std::initializer_list<std::string_view> parts,
                         std::optional<Deadline> end) const {
  ASSIGN_OR_RETURN(const auto draft, begin(end));
  for (const std::string_view part : parts) draft->add(part);
  return draft->commit();
}

Status check_apart(std::span<const NamedFile> outputs, std::span<const NamedFile> inputs) {
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const NamedFile& output = outputs[i];
    if (output.path.empty()) continue;
    for (const auto& others : {outputs.first(i), inputs}) {
      for (const NamedFile& other : others) {
        if (other.path.empty() || !is_same_file(output.path, other.path)) continue;
        return {StatusCode::kUsage, "{} would write to {}, the file of {}: choose another",
                output.option, output.path, other.option};
      }
    }
  }
  return {};
}

}  // namespace airlock
