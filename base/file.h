#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/deadline.h"
#include "base/status.h"

namespace airlock {

/// What the system calls `error`, a value of errno.
std::string os_message(int error);
/// What the system refused, "cannot WHAT: REASON". kResourceExhausted where the disk, memory or
/// descriptors are used up; else kInvalidInput.
Status os_error(std::string_view what, int error);

/// All of `bytes` to a descriptor; `path` is for the message. One that does not block is waited
/// for, 30 s while it takes nothing, and never beyond `end`. Errors as os_error().
Status write_all(int fd, std::string_view bytes, const std::string& path,
                 std::optional<Deadline> end = std::nullopt);

/// Up to the last slash, which is kept; "./" without one.
std::string folder_of(const std::string& path);

/// Where a process finds its own descriptors by number, as links that lead to no name.
inline constexpr std::string_view kDescriptorFolder = "/proc/self/fd/";

/// The name at the end of the links that begin at `path`: of a file that is no link, of one that is
/// not there, or of a descriptor of this process. Links in its folders are left to the system.
/// Errors as os_error().
Result<std::string> follow_links(const std::string& path);

/// Whether two names mean the same file, which need not be there yet. Nothing is the same as a
/// character device: /dev/null can take everything.
bool is_same_file(const std::string& a, const std::string& b);

}  // namespace airlock
