#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock::trace {

/// Where a program's result goes, in order and buffered. A regular file is made beside its name,
/// mode 0600, and takes the name in close(): a reader sees the old file or the whole new one. "-"
/// is stdout; a pipe or a device is written to as it is. One thread.
class Output {
 public:
  /// kInvalidInput, naming the path, where it cannot be made.
  static Result<std::unique_ptr<Output>> create(const std::string& path);
  /// What was not closed is removed.
  ~Output();
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  /// Failures are kept for close(); what is added after one is lost.
  void add(std::string_view text);
  bool failed() const { return !status_.ok(); }
  /// The first failure: kResourceExhausted where the disk is full, else kInvalidInput.
  Status close();

 private:
  Output(std::string path, std::string temporary, UniqueFd fd)
      : path_(std::move(path)), temporary_(std::move(temporary)), fd_(std::move(fd)) {}
  void flush();

  std::string path_;
  // Empty: it is written in place.
  std::string temporary_;
  UniqueFd fd_;
  std::string buffer_;
  Status status_;
};

}  // namespace airlock::trace
