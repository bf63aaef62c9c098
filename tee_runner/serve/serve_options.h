#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "runtime/program/command_line.h"
#include "tee_runner/serve/http_settings.h"

namespace airlock {

/// What `tee_runner serve` is told of its clients; which model answers is told elsewhere.
struct ServeOptions {
  std::string listen = "127.0.0.1:8000";
  std::string model_name;  // empty: the name of the model's folder
  std::string tls_cert;
  std::string tls_key;
  bool tls_self_signed = false;
  std::string api_keys;
  std::size_t max_connections = HttpSettings().max_connections;
  // After the end was asked for: until answers under way are cancelled; of these, in which new
  // requests are answered still.
  double drain_seconds = 30;
  double notice_seconds = 0;
};

void declare_serve(const CommandOptions& command, ServeOptions& options);

/// kUsage: an address that is none, or beyond loopback without TLS. Reads no file.
Status check(const ServeOptions& options);

/// Reads and makes what the options name: keys, certificate. Errors as check(), and those of the
/// files.
Result<HttpSettings> http_settings(const ServeOptions& options);

}  // namespace airlock
