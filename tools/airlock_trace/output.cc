#include "tools/airlock_trace/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/file.h"

namespace airlock::trace {
namespace {

constexpr std::size_t kFlushBytes = std::size_t{256} << 10;

}  // namespace

Result<std::unique_ptr<Output>> Output::create(const std::string& path) {
  if (path == "-") return std::unique_ptr<Output>(new Output("stdout", STDOUT_FILENO));
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
    if (!fd.valid()) return os_error("open " + path, errno);
    std::unique_ptr<Output> output(new Output(path, fd.get()));
    output->own_ = std::move(fd);
    return output;
  }
  std::string temporary = path + ".XXXXXX";
  UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));  // mode 0600
  if (!fd.valid()) return os_error("create " + path, errno);
  std::unique_ptr<Output> output(new Output(path, fd.get()));
  output->temporary_ = std::move(temporary);
  output->own_ = std::move(fd);
  return output;
}

Output::~Output() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void Output::add(std::string_view text) {
  buffer_ += text;
  if (buffer_.size() >= kFlushBytes) flush();
}

void Output::flush() {
  if (status_.ok()) status_ = write_all(fd_, buffer_, path_);
  buffer_.clear();
}

Status Output::close() {
  flush();
  if (!status_.ok() || temporary_.empty()) return status_;
  // A full disk may be told of only here.
  if (::fsync(fd_) != 0) return status_ = os_error("write " + path_, errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    return status_ = os_error("replace " + path_, errno);
  }
  temporary_.clear();
  return status_;
}

}  // namespace airlock::trace
