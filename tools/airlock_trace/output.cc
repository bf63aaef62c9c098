#include "tools/airlock_trace/output.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "base/file.h"

namespace airlock::trace {

Result<std::unique_ptr<Output>> Output::create(const std::string& path) {
  struct stat info {};
  const bool is_stdout = path == "-";
  const bool in_place = is_stdout || (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode));
  std::string temporary = in_place ? "" : path + ".XXXXXX";
  UniqueFd fd(is_stdout  ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0)
              : in_place ? ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY)
                         : ::mkostemp(temporary.data(), O_CLOEXEC));  // mode 0600
  if (!fd.valid()) return os_error((in_place ? "open " : "create ") + path, errno);
  return std::unique_ptr<Output>(
      new Output(is_stdout ? "stdout" : path, std::move(temporary), std::move(fd)));
}

Output::~Output() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void Output::add(std::string_view text) {
  constexpr std::size_t kFlushBytes = std::size_t{256} << 10;
  buffer_ += text;
  if (buffer_.size() >= kFlushBytes) flush();
}

void Output::flush() {
  if (status_.ok()) status_ = write_all(fd_.get(), buffer_, path_);
  buffer_.clear();
}

Status Output::close() {
  flush();
  if (!status_.ok() || temporary_.empty()) return status_;
  // A full disk may be told of only here.
  if (::fsync(fd_.get()) != 0) return status_ = os_error("write " + path_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return status_ = os_error("replace " + path_, errno);
  }
  temporary_.clear();
  return status_;
}

}  // namespace airlock::trace
