#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "proto/pool.h"
#include "runtime/stats/op_stats.h"
#include "runtime/stats/transport_stats.h"

/// The bytes of a server's counters file, and nothing else; drawn in docs/STATS.md. Little endian.
/// A change here, also of a type that it holds, bumps kVersion and the document in the same commit.
namespace airlock::counters_layout {

inline constexpr std::uint64_t kMagic = 0x544154534B4C5241;  // "ARLKSTAT"
inline constexpr std::uint32_t kVersion = 6;

/// What the server is. Written once, before the magic is.
struct alignas(128) Identity {
  std::atomic<std::uint64_t> magic;  // released last: until then the file is being made
  std::uint32_t version;
  std::uint32_t header_bytes;  // sizeof(Header)
  std::uint32_t block_bytes;   // sizeof(SessionBlock)
  std::uint32_t block_count;   // SessionBlocks behind the header
  std::uint32_t op_count;
  std::uint32_t path_count;
  std::uint32_t bucket_count;  // of each histogram
  std::uint32_t reserved0;     // zero
  std::uint64_t total_bytes;   // of the file
  std::uint64_t pid;
  std::uint64_t start_ns;       // monotonic clock
  std::uint64_t start_unix_ns;  // since 1970
  std::uint64_t host_cores;
  std::uint64_t threads;
  std::uint64_t slot_count;
  std::uint64_t slot_bytes;
  std::uint64_t max_clients;
  std::uint64_t ring_on;  // 0 or 1
  std::uint64_t reserved1;
  char endpoint[264];  // texts end with a zero byte; what is longer was cut
  char model[1024];
  char digest[72];
  char dtype[8];
  char device[264];
  char host_name[72];
  char host_cpu[136];
  std::uint64_t pool_slot_bytes;  // 0: there is no pool
  // In, out, scratch, spare.
  std::uint64_t pool_slots[kCountOf<PoolUse> + 1];
  std::uint64_t pool_commit;  // a PoolCommit
};

/// How the pool is used, as PoolFigures has it. Written while the generation is odd: with the
/// leases in the blocks it is one picture.
struct Pool {
  std::uint64_t leased_bytes[kCountOf<PoolUse>];
  std::uint64_t high_water_bytes[kCountOf<PoolUse>];
  std::uint64_t high_water_all_bytes;
  std::uint64_t granted;
  std::uint64_t cut_short;
  std::uint64_t refused;
  // In, out, scratch, spare.
  std::uint64_t free_slots[kCountOf<PoolUse> + 1];
  std::uint64_t longest_runs[kCountOf<PoolUse> + 1];
};

/// What a session has of the pool; zeros: it asked for nothing, or gave it back.
struct Lease {
  struct Extent {
    std::uint64_t use;  // a PoolUse
    std::uint64_t offset;
    std::uint64_t bytes;
  };
  std::uint64_t since_ns;  // monotonic clock
  std::uint64_t asked_bytes[kCountOf<PoolUse>];
  std::uint64_t extent_count;
  Extent extents[limits::kMaxPoolExtents];
};

/// What changes by itself, each word on its own.
struct alignas(128) Live {
  std::atomic<std::uint64_t> heartbeat_ns;  // monotonic clock, by the control thread
  /// Odd while a session is added to the blocks, or taken out of them and into `ended`, and while
  /// leases change: a reader that finds the same even number before and after saw each session
  /// once.
  std::atomic<std::uint64_t> generation;
  std::atomic<std::uint64_t> sessions_started;
  std::atomic<std::uint64_t> sessions_refused;
  Pool pool;
  std::uint64_t reserved[10];
  OpHistograms service_ns;  // all sessions: receipt of the whole request to the reply's send
};

enum class BlockState : std::uint64_t { kFree = 0, kActive = 1 };

/// One session, or the sum of those that ended. The counters are the ones that the session itself
/// adds to: relaxed atomics, which only grow while the block is its.
struct alignas(128) SessionBlock {
  std::atomic<std::uint64_t> state;  // a BlockState
  std::uint64_t epoch;               // in `ended`: of the last one
  std::uint64_t start_ns;
  std::uint64_t sessions;  // 1; in `ended` their number
  char client[72];
  Lease lease;  // in `ended`: zeros
  // As AgreedLimits has them, 0 until the session has agreed; in `ended`: of the last one.
  std::atomic<std::uint64_t> path_limit;
  std::atomic<std::uint64_t> inline_bytes;
  std::byte reserved[24];
  TransportStats transport;
  OpStatsTable ops;
};

/// nullopt where both are 0.
inline std::optional<AgreedLimits> agreed_limits(const SessionBlock& block) {
  const AgreedLimits limits{block.path_limit.load(std::memory_order_relaxed),
                            block.inline_bytes.load(std::memory_order_relaxed)};
  if (limits == AgreedLimits()) return std::nullopt;
  return limits;
}

struct Header {
  Identity identity;
  Live live;
  SessionBlock ended;
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<std::uint64_t>) == 8);
static_assert(kCountOf<Op> == 9 && kCountOf<Path> == 3 && kHistogramBucketCount == 496);
static_assert(sizeof(Histogram) == 3976 && sizeof(PathStats) == 4064 && sizeof(OpStats) == 72);
static_assert(offsetof(PathStats, received) == 24 && offsetof(PathStats, errors) == 48);
static_assert(offsetof(PathStats, parks) == 80 && offsetof(PathStats, latency_ns) == 88);
static_assert(offsetof(OpStats, times) == 8 && offsetof(AtomicOpTimes, wire_ns) == 16);
static_assert(offsetof(AtomicOpTimes, server_ns) == 32 && offsetof(AtomicOpTimes, device) == 40);
static_assert(sizeof(DeviceTimesOf<Counter>) == 24);
static_assert(offsetof(Identity, total_bytes) == 40 && offsetof(Identity, endpoint) == 128);
static_assert(offsetof(Identity, model) == 392 && offsetof(Identity, digest) == 1416);
static_assert(offsetof(Identity, host_cpu) == 1832 && offsetof(Identity, pool_slot_bytes) == 1968);
static_assert(offsetof(Identity, pool_commit) == 2008 && sizeof(Identity) == 2048);
static_assert(kCountOf<PoolUse> == 3 && sizeof(Pool) == 144 && sizeof(Lease) == 112);
static_assert(offsetof(Pool, free_slots) == 80 && offsetof(Lease, extents) == 40);
static_assert(offsetof(Live, pool) == 32 && offsetof(Live, service_ns) == 256);
static_assert(sizeof(Live) == 36096);
static_assert(offsetof(SessionBlock, client) == 32 && offsetof(SessionBlock, lease) == 104);
static_assert(offsetof(SessionBlock, path_limit) == 216 &&
              offsetof(SessionBlock, transport) == 256);
static_assert(offsetof(SessionBlock, ops) == 12448 && sizeof(SessionBlock) == 13184);
static_assert(offsetof(Header, live) == 2048 && offsetof(Header, ended) == 38144);
static_assert(sizeof(Header) == 51328);
static_assert(std::is_standard_layout_v<Header> && std::is_standard_layout_v<SessionBlock>);

/// SessionBlocks that a file has at most.
inline constexpr std::size_t kMaxBlocks = 3 * limits::kMaxClients;

constexpr std::size_t file_bytes(std::size_t block_count) {
  return sizeof(Header) + block_count * sizeof(SessionBlock);
}

}  // namespace airlock::counters_layout
