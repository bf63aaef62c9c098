#include "runtime/program/connection_options.h"

#include <fmt/format.h>

#include "base/cpu_count.h"
#include "proto/handshake.h"
#include "proto/limits.h"

namespace airlock {
namespace {

/// What a runner asks for at most, each of operands and results.
constexpr std::uint64_t kMostOfPool = std::uint64_t{1} << 30;

}  // namespace

CommandOption declare_endpoint(const CommandOptions& command, std::string& endpoint) {
  return command.text("--endpoint", endpoint,
                      "ipc:///path or tcp://host:port (default $XDG_RUNTIME_DIR/airlock/ctl, else "
                      "/tmp/airlock-UID/ctl)");
}

void declare_keys(const CommandOptions& command, std::string& own, std::string& server) {
  command.file("--key", own, "this side's own key (NAME.key), with --server-key");
  command.file("--server-key", server,
               "the public key of a tcp server (NAME.pub of airlock_keygen): encrypts, and no "
               "other server will do");
}

CommandOption declare_threads(const CommandOptions& command, std::size_t& threads) {
  threads = usable_cpu_count();
  return command.number("--threads", threads, std::size_t{1}, limits::kMaxThreads,
                        "compute threads in all");
}

void declare_ring(const CommandOptions& command, RingWish& ring, RingSide side) {
  const bool demands = side == RingSide::kRunner;
  command.choice("--ring", ring.choice, "shared-memory ring: auto (on for ipc), on, off");
  declare_ring_slots(command, ring.slot_count,
                     demands ? "demand a ring of so many slots" : "slots of each ring");
  declare_ring_slot_bytes(command, ring.slot_bytes,
                          demands ? "demand slots of so many payload bytes"
                                  : "payload bytes of a slot; also the path limit");
}

CommandOption declare_ring_slots(const CommandOptions& command, std::uint32_t& slot_count,
                                 const std::string& help) {
  return command.number("--ring-slots", slot_count, limits::kMinSlotCount, limits::kMaxSlotCount,
                        help);
}

CommandOption declare_ring_slot_bytes(const CommandOptions& command, std::uint32_t& slot_bytes,
                                      const std::string& help) {
  return command.parsed(
      "--ring-slot-bytes", "BYTES", help, [&slot_bytes](const std::string& text) -> Status {
        const auto bytes = parse_size(text);
        if (!bytes || *bytes < limits::kMinSlotBytes || *bytes > limits::kMaxSlotBytes ||
            *bytes % 4096 != 0) {
          return {StatusCode::kUsage, "'{}' is not a multiple of 4096 from {} to {}", text,
                  limits::kMinSlotBytes, limits::kMaxSlotBytes};
        }
        slot_bytes = static_cast<std::uint32_t>(*bytes);
        return {};
      });
}

Result<PoolShape> parse_pool_shape(const std::string& text) {
  if (const auto profile = from_name<PoolProfile>(text)) return shape_of(*profile);
  if (const auto bytes = parse_size(text)) return shape_of_bytes(*bytes);
  return Status(StatusCode::kUsage, "'{}' is neither a size nor one of {}", text,
                names_of<PoolProfile>());
}

void declare_data_sockets(const CommandOptions& command, std::size_t& count) {
  command.parsed("--data-sockets", "N|auto",
                 "over tcp, connections of a session that share its large tensors, with a thread "
                 "each (1; 8 at most; the smaller of both sides' counts)",
                 [&count](const std::string& text) -> Status {
                   const std::uint64_t number = parse_size(text).value_or(0);
                   if (text != "auto" && (number < 1 || number > limits::kMaxDataSockets)) {
                     return {StatusCode::kUsage, "'{}' is neither auto nor a number from 1 to {}",
                             text, limits::kMaxDataSockets};
                   }
                   count = number;
                   return {};
                 });
}

void declare_inline_bytes(const CommandOptions& command, std::uint32_t& inline_bytes) {
  command.parsed("--inline-bytes", "BYTES",
                 "tensors of fewer bytes ride behind their message's header (0: none)",
                 [&inline_bytes](const std::string& text) -> Status {
                   const auto bytes = parse_size(text);
                   if (!bytes || *bytes > limits::kMaxInlineBytes) {
                     return {StatusCode::kUsage, "'{}' is not a size from 0 to {}", text,
                             limits::kMaxInlineBytes};
                   }
                   inline_bytes = static_cast<std::uint32_t>(*bytes);
                   return {};
                 });
}

CommandOption declare_pool(const CommandOptions& command, PoolWish& wish) {
  // Addresses; memory is taken as it is touched.
  wish[PoolUse::kInput] = wish[PoolUse::kOutput] = kMostOfPool;
  return command.parsed("--pool", "auto|off",
                        "share memory with the server for large tensors (auto, over ipc), or not",
                        [&wish](const std::string& text) -> Status {
                          if (text == "off") wish = PoolWish();
                          if (text == "off" || text == "auto") return {};
                          return {StatusCode::kUsage, "'{}' is neither auto nor off", text};
                        });
}

CommandOption declare_drain(const CommandOptions& command, double& seconds,
                            const std::string& help) {
  return command.real("--drain-seconds", seconds, 0, kMostDrainSeconds, help);
}

std::string protocol_suffix() {
  return fmt::format(", protocol {}.{}", kProtocolMajor, kProtocolMinor);
}

}  // namespace airlock
