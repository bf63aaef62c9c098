#include "tee_runner/connection_options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "proto/limits.h"

namespace airlock {
namespace {

constexpr std::int64_t kMaxTimeoutMs = 24LL * 3600 * 1000;

std::string check_slot_bytes(const std::string& text) {
  char* end = nullptr;
  const unsigned long long bytes = std::strtoull(text.c_str(), &end, 10);
  if (end == text.c_str() || *end != '\0' || bytes < limits::kMinSlotBytes ||
      bytes > limits::kMaxSlotBytes || bytes % 4096 != 0) {
    return fmt::format("'{}' is not a multiple of 4096 from {} to {}", text, limits::kMinSlotBytes,
                       limits::kMaxSlotBytes);
  }
  return {};
}

}  // namespace

void declare_connection(CLI::App& app, ConnectionOptions& options, ConnectionWords& words) {
  app.add_option("--endpoint", options.endpoint,
                 "ipc:///path or tcp://host:port (default $XDG_RUNTIME_DIR/airlock/ctl, else "
                 "/tmp/airlock-UID/ctl)");
  app.add_option("--timeout-ms", words.timeout_ms,
                 "longest time without a connection or a sign of life (5000)")
      ->check(CLI::Range(std::int64_t{1}, kMaxTimeoutMs));
  app.add_option("--op-timeout-ms", words.op_timeout_ms, "longest time of one op (300000)")
      ->check(CLI::Range(std::int64_t{1}, kMaxTimeoutMs));
  app.add_option("--ring", words.ring, "shared-memory ring: auto (on for ipc), on, off")
      ->check(CLI::IsMember({"auto", "on", "off"}));
  app.add_option("--ring-slots", options.ring.slot_count, "demand a ring of so many slots")
      ->check(CLI::Range(limits::kMinSlotCount, limits::kMaxSlotCount));
  app.add_option("--ring-slot-bytes", options.ring.slot_bytes,
                 "demand slots of so many payload bytes")
      ->check(check_slot_bytes);
}

void apply_connection(const ConnectionWords& words, ConnectionOptions& options) {
  options.ring.choice = *from_name<RingChoice>(words.ring);
  options.timeout = std::chrono::milliseconds(words.timeout_ms);
  options.op_timeout = std::chrono::milliseconds(words.op_timeout_ms);
}

}  // namespace airlock
