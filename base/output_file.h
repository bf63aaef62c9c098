#pragma once

#include <chrono>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/deadline.h"
#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock {

/// A result on its way into an OutputFile, in order and buffered. One thread.
class OutputDraft {
 public:
  /// What was not committed is dropped: a regular file stays as it was.
  ~OutputDraft();
  OutputDraft(const OutputDraft&) = delete;
  OutputDraft& operator=(const OutputDraft&) = delete;

  /// Failures are kept for commit(); what is added after one is lost.
  void add(std::string_view text);
  bool failed() const { return !status_.ok(); }
  /// A regular file's text is on the disk, then it takes, mode 0600, the place of what was there: a
  /// reader sees the old text or the whole new one. The folder is not synced: after a power cut
  /// that may still be the old one. Once; errors as os_error(), the first failure.
  Status commit();

  /// For a writer of its own kind, which writes to fd() instead: a new file that can take the place
  /// of `target`; `path` is for messages. Errors as OutputFile::open().
  static Result<std::unique_ptr<OutputDraft>> beside(const std::string& path, std::string target);
  int fd() const { return fd_.get(); }
  /// Not: a pipe, a device or a descriptor of this process.
  bool is_new_file() const { return !target_.empty(); }
  /// A new file takes the place of what was there with what is in it so far, and stays; more may be
  /// written. Once; errors as os_error().
  Status take_place();

 private:
  friend class OutputFile;
  OutputDraft(std::string path, UniqueFd fd, std::optional<Deadline> end = std::nullopt)
      : path_(std::move(path)), fd_(std::move(fd)), end_(end) {}
  void flush();
  Status take_temporary_name();

  const std::string path_;  // as the user named it
  UniqueFd fd_;
  const std::optional<Deadline> end_;  // of waiting for what is written through
  std::string target_;     // the regular file that is replaced; empty: it is written through
  std::string temporary_;  // the name that `fd_` has until then; empty: none
  std::string buffer_;
  Status status_;
};

/// Where a program's result goes: a place that is looked at before the run that makes the result. A
/// regular file is replaced by a new one, atomically, and so is the one that a link leads to: the
/// link stays. A pipe or a device is open from the start and written through, and so is a
/// descriptor of this process, whatever it is: "/dev/stdout", "/dev/fd/N". A run that fails leaves
/// no part of a file, and the older file as it was. Calls are serialised by the owner.
class OutputFile {
 public:
  /// How long a pipe's reader is waited for.
  static constexpr std::chrono::milliseconds kReaderWait{5000};
  /// How long a thread that also looks at the signals waits for a pipe that stands still: while the
  /// program goes on, and at its end.
  static constexpr std::chrono::milliseconds kPassingWait{100};
  static constexpr std::chrono::milliseconds kLastWait{1000};

  /// kInvalidInput, naming the path: a folder that is missing or in which no file can be made, a
  /// directory, a file that one may not write or that cannot be replaced, a pipe without a reader.
  /// kResourceExhausted: the disk has no room for a file.
  static Result<OutputFile> open(const std::string& path,
                                 std::chrono::milliseconds reader_wait = kReaderWait);
  /// "-" of a program that takes it for stdout.
  static Result<OutputFile> open_stdout();

  const std::string& path() const { return path_; }
  /// May be done again: a regular file is replaced again, anything else gets more, and is waited
  /// for as write_all() does, up to `end`.
  Result<std::unique_ptr<OutputDraft>> begin(std::optional<Deadline> end = std::nullopt) const;
  Status write(std::initializer_list<std::string_view> parts,
               std::optional<Deadline> end = std::nullopt) const;
  Status write(std::string_view text, std::optional<Deadline> end = std::nullopt) const {
    return write({text}, end);
  }

 private:
  OutputFile(std::string path, UniqueFd through)
      : path_(std::move(path)), through_(std::move(through)) {}
  /// The regular file, links followed; it need not be there.
  Result<std::string> target() const;

  std::string path_;
  UniqueFd through_;
};

/// A file that an option of the command line names; one without a path was not asked for.
struct NamedFile {
  std::string option;
  std::string path;
};
/// kUsage where an output is an input or another output, whatever their names: is_same_file().
Status check_apart(std::span<const NamedFile> outputs, std::span<const NamedFile> inputs);

}  // namespace airlock
