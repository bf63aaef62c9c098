#pragma once

#include "runtime/stats/counters_file.h"

namespace airlock {

/// What a server without a pool says of itself.
inline ServerInfo sample_server_info() {
  ServerInfo info;
  info.model = "tiny.json";
  info.endpoint = "ipc:///tmp/x/ctl";
  info.digest = "abc";
  info.dtype = "fp32";
  info.host = {"machine", "a CPU", 2, "cpu"};
  info.threads = 3;
  info.slot_count = 8;
  info.slot_bytes = 4096;
  info.max_clients = 2;
  return info;
}

}  // namespace airlock
