#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/unique_fd.h"
#include "pool/figures.h"
#include "pool/shape.h"
#include "runtime/stats/counters_layout.h"
#include "runtime/stats/report.h"
#include "shm/segment_guard.h"

namespace airlock {

/// What a server says of itself in its statistics: the same in its own report and in the file.
struct ServerInfo {
  std::string model;  // directory or config
  std::string endpoint;
  std::string digest;
  std::string dtype;
  HostReport host;
  std::uint64_t threads = 0;
  std::uint64_t slot_count = 0;
  std::uint64_t slot_bytes = 0;
  std::uint64_t max_clients = 0;
  bool ring_on = false;
  PoolShape pool;  // of no slots where there is none
  PoolCommit pool_commit = PoolCommit::kLazy;
  std::uint64_t start_ns = 0;       // steady clock
  std::uint64_t start_unix_ns = 0;  // since 1970
};
/// What a session has of a server's pool.
struct SessionLease {
  std::uint64_t since_ns = 0;  // steady clock
  PoolWish asked{};
  std::vector<PoolExtent> extents;
};
/// each(name, identity.field, info.field) for all that a counters file says of its server, apart
/// from its process and its pool.
void visit_server(auto&& each, auto& identity, auto& info) {
  each("endpoint", identity.endpoint, info.endpoint);
  each("model", identity.model, info.model);
  each("digest", identity.digest, info.digest);
  each("dtype", identity.dtype, info.dtype);
  each("device", identity.device, info.host.device);
  each("host's name", identity.host_name, info.host.name);
  each("host's CPU", identity.host_cpu, info.host.cpu);
  each("host's cores", identity.host_cores, info.host.cores);
  each("threads", identity.threads, info.threads);
  each("slot_count", identity.slot_count, info.slot_count);
  each("slot_bytes", identity.slot_bytes, info.slot_bytes);
  each("max_clients", identity.max_clients, info.max_clients);
  each("ring_on", identity.ring_on, info.ring_on);
  each("start_ns", identity.start_ns, info.start_ns);
  each("start_unix_ns", identity.start_unix_ns, info.start_unix_ns);
}

/// A report of this server without any counters; wall_ns is left 0.
SideReport describe_server(const ServerInfo& info);

/// The memory in which a server counts: a mapped file that others read while it runs
/// (runtime/stats/counters_reader.h), or private memory where there can be no file. The file is
/// locked (an open file description lock) while its server lives, removed at the end, and left
/// behind by one that is killed. One that somebody cuts short meanwhile costs the counts so far and
/// no more. Calls are serialised by the owner; the counters themselves are atomics.
class CountersFile {
 public:
  using SessionBlock = counters_layout::SessionBlock;

  /// Makes the file at `path`, mode 0600, all of it reserved on the disk, in place of what a dead
  /// server left. kInUse: a live server's lies there. kResourceExhausted: the disk is full.
  /// kInvalidInput: anything else that is wrong with the path.
  static Result<std::unique_ptr<CountersFile>> create(const std::string& path,
                                                      const ServerInfo& info,
                                                      std::size_t block_count);
  /// The same in memory that nobody else sees. kResourceExhausted where there is none.
  static Result<std::unique_ptr<CountersFile>> in_memory(const ServerInfo& info,
                                                         std::size_t block_count);
  ~CountersFile();  // removes the file
  CountersFile(const CountersFile&) = delete;
  CountersFile& operator=(const CountersFile&) = delete;

  counters_layout::Live& live() { return header_->live; }
  /// A zeroed block for a session; nullptr where none is free.
  SessionBlock* open_session(std::uint64_t epoch, std::string_view client, std::uint64_t now);
  /// The session is over: its counters go into `ended`, its block is free.
  void close_session(SessionBlock& block);
  /// There was no session after all: its block is free.
  void drop_session(SessionBlock& block);
  /// What the session has of the pool now (none of it: a default one), and how the pool is used,
  /// in one step. Shown before it may be used, and gone before the slots are: no two sessions are
  /// ever seen with the same ones.
  void set_lease(SessionBlock& block, const SessionLease& lease, const PoolFigures& figures);
  /// What all sessions counted, those that ended and those under way.
  CounterSums sums() const;
  /// The file was cut short: what was counted before may be lost, and nobody sees what is counted
  /// now. Any thread.
  bool damaged() const { return guard_ && guard_->faulted(); }
  /// Unlinks the file if it is still ours; the memory stays. Again: nothing happens.
  void remove();

 private:
  class Change;
  CountersFile(UniqueFd fd, std::string path, void* memory, std::optional<SegmentGuard> guard,
               std::size_t block_count);
  static Result<std::unique_ptr<CountersFile>> map(UniqueFd fd, const std::string& path,
                                                   const ServerInfo& info, std::size_t block_count);
  void free_block(SessionBlock& block);

  UniqueFd fd_;  // invalid: private memory
  std::string path_;
  std::optional<SegmentGuard> guard_;  // of the mapped file
  counters_layout::Header* header_;
  std::span<SessionBlock> blocks_;
  std::vector<bool> used_;  // blocks_[i] is a session's; the file may be written by others
};

/// Whether a live process holds the lock of the counters file open at `fd`.
bool counters_file_is_locked(int fd);

/// Ok: there is nothing at `path` any more. What goes is a counters file of a server that is dead,
/// finished or not; never another's file. kInUse: a live server's lies there. kInvalidInput:
/// something that is no counters file of ours.
Status remove_dead_counters_file(const std::string& path);

/// Removes what dead servers left on tcp ports, which the next server there need not find: finished
/// counters files of ours called "tcp-*.stats" in `directory` that nobody holds. Of a directory
/// with more than 65536 entries it looks at so many.
void sweep_tcp_counters_files(const std::string& directory);

}  // namespace airlock
