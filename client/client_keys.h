#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "runtime/channel/socket_stream.h"

namespace airlock {

/// The files of a client's keys over tcp; either both or none.
struct KeyFiles {
  std::string own;     // this side's own (NAME.key)
  std::string server;  // the server's public one (NAME.pub)
};

/// What encrypts a connection to `endpoint`, for ConnectOptions; null where no file is named.
/// kUsage: one of the two alone, no tcp endpoint, or a library that was built without keys;
/// kInvalidInput: a file that is no such key; else as a file's errors.
Result<std::shared_ptr<const StreamSecurity>> open_keys(const KeyFiles& files,
                                                        const std::string& endpoint);

}  // namespace airlock
