#pragma once

#include <cstddef>
#include <string>

#include "pool/shape.h"
#include "proto/pool.h"
#include "proto/ring.h"
#include "runtime/program/command_line.h"

namespace airlock {

/// Options that several programs have, each declared once; docs/INTERFACE.md says what they mean.
/// The values must live until the command line was parsed.

CommandOption declare_endpoint(const CommandOptions& command, std::string& endpoint);
/// --key and --server-key of a client over tcp: files.
void declare_keys(const CommandOptions& command, std::string& own, std::string& server);
/// `threads` becomes the number of this machine's processors.
CommandOption declare_threads(const CommandOptions& command, std::size_t& threads);

/// Whether the geometry is offered, or demanded of the other side.
enum class RingSide { kServer, kRunner };
/// --ring, --ring-slots and --ring-slot-bytes.
void declare_ring(const CommandOptions& command, RingWish& ring, RingSide side);
/// The two that give a ring's geometry. Sizes may have suffixes K, M and G.
CommandOption declare_ring_slots(const CommandOptions& command, std::uint32_t& slot_count,
                                 const std::string& help);
CommandOption declare_ring_slot_bytes(const CommandOptions& command, std::uint32_t& slot_bytes,
                                      const std::string& help);

/// The name of a profile or a size, as gpu_server's --pool has it. kUsage, kInvalidInput.
Result<PoolShape> parse_pool_shape(const std::string& text);

/// --data-sockets; auto is 0.
void declare_data_sockets(const CommandOptions& command, std::size_t& count);

/// --inline-bytes of a runner.
void declare_inline_bytes(const CommandOptions& command, std::uint32_t& inline_bytes);

/// --pool of a runner: what it asks for, or nothing.
CommandOption declare_pool(const CommandOptions& command, PoolWish& wish);

inline constexpr double kMostDrainSeconds = 3600;
/// --drain-seconds: how long what is under way may still take once a signal asks for the end.
CommandOption declare_drain(const CommandOptions& command, double& seconds,
                            const std::string& help);

/// ", protocol 1.0": what --version says after the version.
std::string protocol_suffix();

}  // namespace airlock
