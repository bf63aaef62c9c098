#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"
#include "base/unique_fd.h"

namespace airlock {

/// A regular file that is open for reading, with what identified it when it was opened. Reads are
/// checked: a file that shrank gives an error, never a fault. Thread-safe.
class ReadableFile {
 public:
  /// kInvalidInput, naming the path, where it is missing, unreadable or not a regular file. Does
  /// not wait for the writer of a pipe.
  static Result<ReadableFile> open(const std::string& path);

  const std::string& path() const { return path_; }
  std::uint64_t size_bytes() const { return size_bytes_; }
  int fd() const { return fd_.get(); }
  /// Reads from `offset` until `out` is full or the file ends; the number of bytes.
  Result<std::size_t> read_some(std::uint64_t offset, std::span<std::byte> out) const;
  /// Fills `out` from `offset`; kInvalidInput where the file ends before.
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const;
  /// Whether the file on disk still has the size that it had.
  bool same_size() const;
  /// "size mtime_ns inode": changes when the file does.
  std::string identity() const;
  std::int64_t mtime_s() const { return mtime_s_; }

 private:
  UniqueFd fd_;
  std::string path_;
  std::uint64_t size_bytes_ = 0;
  std::uint64_t inode_ = 0;
  std::int64_t mtime_s_ = 0;
  std::int64_t mtime_ns_ = 0;
};

/// The whole file as text; kInvalidInput where it is longer than `limit_bytes`.
Result<std::string> read_text_file(const std::string& path, std::uint64_t limit_bytes);
/// The same of a file that holds what others must not know; kInvalidInput also where others may read
/// or write it, or where it is another user's but root's.
Result<std::string> read_private_file(const std::string& path, std::uint64_t limit_bytes);

}  // namespace airlock
