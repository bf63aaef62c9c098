#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "proto/ring.h"

namespace CLI {
class App;
}

namespace airlock {

/// How a subcommand reaches its server; docs/INTERFACE.md says what each option means.
struct ConnectionOptions {
  std::string endpoint;  // empty: the default
  std::chrono::milliseconds timeout{5000};
  std::chrono::milliseconds op_timeout{300000};
  RingWish ring;
};

/// The words of these options that stand for something else, as they were given.
struct ConnectionWords {
  std::string ring = "auto";
  std::int64_t timeout_ms = 5000;
  std::int64_t op_timeout_ms = 300000;
};

/// Adds the options to a subcommand; all three must live until it has parsed.
void declare_connection(CLI::App& app, ConnectionOptions& options, ConnectionWords& words);
void apply_connection(const ConnectionWords& words, ConnectionOptions& options);
}  // namespace airlock
