#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "tee_runner/serve/api_keys.h"
#include "tee_runner/serve/tls_material.h"

namespace airlock {

/// Where and for whom a server answers, and what it holds for its clients at most
/// (docs/interface/serve.md has each limit).
struct HttpSettings {
  // A numeric address, IPv6 without brackets. Port 0: any.
  std::string host = "127.0.0.1";
  std::uint16_t port = 8000;
  // Of `host`.
  bool is_loopback = true;
  std::optional<TlsMaterial> tls;
  // nullopt: whoever reaches the socket may ask.
  std::optional<ApiKeys> keys;

  std::size_t max_connections = 256;
  std::uint32_t max_header_bytes = std::uint32_t{16} << 10;
  std::size_t max_body_bytes = std::size_t{2} << 20;
  // Of all bodies that are on their way.
  std::size_t max_bodies_bytes = std::size_t{64} << 20;
  // Of a stream that its client does not read, beyond what the kernel holds.
  std::size_t max_unread_bytes = std::size_t{256} << 10;
  int send_buffer_bytes = 64 << 10;

  // From a connection, or its next request's first byte, to the end of a request's head.
  std::chrono::milliseconds head_timeout{10'000};
  std::chrono::milliseconds body_timeout{30'000};
  // Between two requests.
  std::chrono::milliseconds idle_timeout{60'000};
  // Without one byte of an answer being taken.
  std::chrono::milliseconds read_timeout{30'000};
};

}  // namespace airlock
