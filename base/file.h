#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/status.h"

namespace airlock {

/// What the system calls `error`, a value of errno.
std::string os_message(int error);
/// What the system refused, "cannot WHAT: REASON". kResourceExhausted where the disk, memory or
/// descriptors are used up; else kInvalidInput.
Status os_error(std::string_view what, int error);

/// All of `bytes` to a descriptor that blocks; `path` is for the message.
Status write_all(int fd, std::string_view bytes, const std::string& path);

/// Replaces `path` by a new file of `mode` that holds `parts`, so that a reader sees the old or the
/// new text, never half of one. What is no regular file (/dev/stdout, a pipe) is written to
/// instead. Errors as os_error(), with the path.
Status write_file_atomically(const std::string& path, std::initializer_list<std::string_view> parts,
                             unsigned mode = 0600);
inline Status write_file_atomically(const std::string& path, std::string_view text,
                                    unsigned mode = 0600) {
  return write_file_atomically(path, {text}, mode);
}

/// Whether two names mean the same file, which need not be there yet. Nothing is the same as a
/// character device: /dev/null can take everything.
bool is_same_file(const std::string& a, const std::string& b);

}  // namespace airlock
