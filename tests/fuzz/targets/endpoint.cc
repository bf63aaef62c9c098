#include "runtime/rpc/endpoint.h"

#include "base/check.h"
#include "base/safe_text.h"
#include "proto/limits.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::vector<Bytes> seeds() {
  return bytes_of({"ipc:///tmp/airlock-0/ctl", "tcp://127.0.0.1:5555", "tcp://[::1]:*", "tcp://*:0",
                   "tcp://gpu.example:65535"});
}

bool run(std::span<const std::byte> input) {
  const auto endpoint = parse_endpoint(text_of(input));
  if (!endpoint.ok()) {
    CHECK(endpoint.status().code() == StatusCode::kUsage);
    check_refusal(endpoint.status());
    return false;
  }
  const std::string text = endpoint->text();
  // Slashes that say nothing are left out of a path; besides that it is what was given.
  CHECK(text == text_of(input) || (text.size() < input.size() && text.starts_with("ipc://")));
  CHECK(parse_endpoint(text).value().text() == text);
  CHECK(!has_controls(text));
  if (endpoint->kind == Endpoint::Kind::kTcp) return true;
  CHECK(endpoint->path.size() <= limits::kMaxEndpointPathBytes && endpoint->is_loopback());
  CHECK(endpoint->path.starts_with(endpoint->directory()));
  CHECK(counters_path(*endpoint).starts_with(endpoint->path));
  const auto socket = session_socket_path(endpoint->path, 0x01234567);
  if (!socket.ok()) check_refusal(socket.status());
  CHECK(!socket.ok() || socket->size() <= limits::kMaxEndpointPathBytes);
  return true;
}

}  // namespace

constinit const Target kEndpoint = {"endpoint", seeds, run};

}  // namespace airlock::fuzz
