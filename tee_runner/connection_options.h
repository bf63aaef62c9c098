#pragma once

#include <chrono>
#include <string>

#include "proto/ring.h"
#include "runtime/program/command_line.h"

namespace airlock {

/// How a subcommand reaches its server; docs/INTERFACE.md says what each option means.
struct ConnectionOptions {
  std::string endpoint;  // empty: the default
  std::chrono::milliseconds timeout{5000};
  std::chrono::milliseconds op_timeout{300000};
  RingWish ring;
};

void declare_connection(const CommandOptions& command, ConnectionOptions& options);

}  // namespace airlock
