#include "runtime/stats/counters_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <memory>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/file.h"
#include "base/safe_text.h"
#include "base/unique_fd.h"
#include "proto/limits.h"
#include "runtime/stats/pool_reader.h"

namespace airlock {

using counters_layout::BlockState;
using counters_layout::file_bytes;
using counters_layout::Header;
using counters_layout::Identity;
using counters_layout::kMaxBlocks;
using counters_layout::SessionBlock;

namespace {

constexpr std::chrono::milliseconds kSettleTime{200};  // a change takes microseconds
constexpr std::chrono::milliseconds kSettlePause{1};
// No server counts so far; sums of all blocks then stay below 2^64.
constexpr std::uint64_t kMaxEvents = kMaxCountedEvents;
constexpr std::uint64_t kMaxAmount = std::uint64_t{1} << 56;       // bytes, nanoseconds
constexpr std::uint64_t kMaxEndedAmount = std::uint64_t{1} << 61;  // any number of sessions
static_assert(kMaxBlocks * kMaxAmount <= ~std::uint64_t{0} - kMaxEndedAmount);

bool is_sane(const HistogramSnapshot& histogram) {
  return histogram.max <= kMaxAmount &&
         std::ranges::all_of(histogram.counts, [](auto count) { return count <= kMaxEvents; });
}

/// Whether each bucket and each number of events is at most kMaxEvents, and each number of bytes or
/// nanoseconds `max_amount`.
bool is_sane(const auto& stats, std::uint64_t max_amount) {
  bool sane = true;
  stats.visit(
      [&](std::string_view key, const auto& member) {
        using Member = std::remove_cvref_t<decltype(member)>;
        if constexpr (std::is_same_v<Member, std::uint64_t>) {
          const bool is_amount = key == "bytes" || key.ends_with("_ns");
          sane &= member <= (is_amount ? max_amount : kMaxEvents);
        } else if constexpr (std::is_same_v<Member, HistogramSnapshot>) {
          sane &= is_sane(member);
        } else {
          sane &= is_sane(member, max_amount);
        }
      },
      stats);
  return sane;
}

class Reader {
 public:
  explicit Reader(std::string path) : path_(std::move(path)) {}

  Result<CountersSnapshot> read() {
    RETURN_IF_ERROR(open());
    RETURN_IF_ERROR(check_identity());
    CountersSnapshot snapshot;
    ASSIGN_OR_RETURN(snapshot.settled, read_settled());
    // Last: a server that ended meanwhile had written all that was read.
    snapshot.alive = counters_file_is_locked(fd_.get());
    struct stat info {};
    if (!snapshot.alive && ::fstat(fd_.get(), &info) == 0 && info.st_nlink == 0) {
      return Status(StatusCode::kUnavailable, "the server has ended");  // and removed its file
    }
    RETURN_IF_ERROR(fill(snapshot));
    return snapshot;
  }

 private:
  template <typename... Args>
  Status bad(fmt::format_string<Args...> why, Args&&... args) const {
    return {StatusCode::kInvalidInput, "counters file {}: {}", path_,
            fmt::format(why, std::forward<Args>(args)...)};
  }

  Status open() {
    fd_ =
        UniqueFd(::open(path_.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (!fd_.valid() && errno == ENOENT) {
      return {StatusCode::kUnavailable, "there is no counters file {}", path_};
    }
    if (!fd_.valid() && errno == ELOOP) return bad("it is a link");
    if (!fd_.valid()) return bad("{}", os_message(errno));
    struct stat info {};
    if (::fstat(fd_.get(), &info) != 0) return bad("{}", os_message(errno));
    if (!S_ISREG(info.st_mode)) return bad("it is not a regular file");
    if (info.st_uid != ::geteuid())
      return bad("it belongs to user {}, not to {}", info.st_uid, ::geteuid());
    if ((info.st_mode & 0777) != 0600)
      return bad("it has mode {:04o}, not 0600", info.st_mode & 07777);
    file_bytes_ = static_cast<std::uint64_t>(std::max<off_t>(info.st_size, 0));
    return {};
  }

  // Into an object of fixed-width fields, for which every pattern of bits is a value.
  Status read_at(void* into, std::size_t bytes, std::size_t offset) const {
    auto* to = static_cast<std::byte*>(into);
    while (bytes > 0) {
      const ssize_t got = ::pread(fd_.get(), to, bytes, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return bad("{}", os_message(errno));
      if (got == 0) return bad("it is cut off");
      to += got;
      offset += static_cast<std::size_t>(got);
      bytes -= static_cast<std::size_t>(got);
    }
    return {};
  }

  Status check_identity() {
    if (file_bytes_ < sizeof(Header)) {
      if (file_bytes_ > 0 && !counters_file_is_locked(fd_.get())) return bad("it is cut off");
      return {StatusCode::kUnavailable,
              "counters file {} is cut off, or its server is just starting", path_};
    }
    Identity& identity = header_->identity;
    RETURN_IF_ERROR(read_at(&identity, sizeof(Identity), 0));
    const std::uint64_t magic = identity.magic.load(std::memory_order_acquire);
    if (magic == 0) {
      return {StatusCode::kUnavailable, "counters file {} is being made", path_};
    }
    if (magic != counters_layout::kMagic) return bad("it is no counters file of Airlock");
    if (identity.version != counters_layout::kVersion) {
      return {StatusCode::kVersionMismatch,
              "counters file {} has version {}, this program reads version {}: use the programs "
              "that came with the server",
              path_, identity.version, counters_layout::kVersion};
    }
    if (identity.header_bytes != sizeof(Header) || identity.block_bytes != sizeof(SessionBlock) ||
        identity.op_count != kCountOf<Op> || identity.path_count != kCountOf<Path> ||
        identity.bucket_count != kHistogramBucketCount) {
      return bad("its sizes are not those of its version");
    }
    if (identity.block_count == 0 || identity.block_count > kMaxBlocks)
      return bad("it names {} sessions", identity.block_count);
    if (identity.total_bytes != file_bytes(identity.block_count) ||
        identity.total_bytes != file_bytes_) {
      return bad("it has {} bytes and should have {}", file_bytes_,
                 file_bytes(identity.block_count));
    }
    if (identity.pid == 0 || identity.pid > std::numeric_limits<int>::max())
      return bad("it names process {}", identity.pid);
    blocks_ = std::vector<SessionBlock>(identity.block_count);
    return {};
  }

  Result<std::uint64_t> generation() const {
    std::uint64_t generation = 0;
    constexpr std::size_t kOffset =
        offsetof(Header, live) + offsetof(counters_layout::Live, generation);
    RETURN_IF_ERROR(read_at(&generation, sizeof(generation), kOffset));
    return generation;
  }

  /// Whether no session came or went while all was read.
  Result<bool> read_settled() {
    const Deadline deadline = Deadline::after(kSettleTime);
    for (;;) {
      ASSIGN_OR_RETURN(const std::uint64_t before, generation());
      RETURN_IF_ERROR(
          read_at(&header_->live, sizeof(Header) - sizeof(Identity), offsetof(Header, live)));
      RETURN_IF_ERROR(
          read_at(blocks_.data(), blocks_.size() * sizeof(SessionBlock), sizeof(Header)));
      ASSIGN_OR_RETURN(const std::uint64_t after, generation());
      if (before == after && before % 2 == 0) return true;
      if (deadline.expired()) return false;
      std::this_thread::sleep_for(kSettlePause);
    }
  }

  template <std::size_t kSize>
  Result<std::string> text(const char (&field)[kSize], std::string_view name) const {
    const auto* end = std::find(std::begin(field), std::end(field), '\0');
    if (end == std::end(field)) return bad("its {} has no end", name);
    // Printed on terminals.
    return without_controls({std::begin(field), end}, "?");
  }

  static bool is_used(const SessionBlock& block) {
    return block.state.load(std::memory_order_relaxed) ==
           static_cast<std::uint64_t>(BlockState::kActive);
  }

  Result<SessionReport> session(const SessionBlock& block) const {
    SessionReport session;
    session.id = fmt::format("{:016x}", block.epoch);
    ASSIGN_OR_RETURN(session.client, text(block.client, "client's name"));
    session.sessions = block.sessions;
    session.agreed = agreed_limits(block);
    session.transport = snapshot_of(block.transport);
    session.ops = snapshot_of(block.ops);
    const std::uint64_t max_amount = &block == &header_->ended ? kMaxEndedAmount : kMaxAmount;
    if (session.sessions > kMaxEvents || !is_sane(session.transport, max_amount) ||
        !is_sane(session.ops, max_amount)) {
      return bad("session {} holds an absurd count", session.id);
    }
    return session;
  }

  /// What a part of the file said, with the file's name.
  template <typename T>
  Result<T> named(Result<T> read) const {
    return read.ok() ? std::move(read) : bad("{}", read.status().message());
  }

  Status fill_pool(CountersSnapshot& snapshot) const {
    const Identity& identity = header_->identity;
    PoolShape& shape = snapshot.server.pool;
    ASSIGN_OR_RETURN(shape, named(read_pool_shape(identity)));
    if (identity.pool_commit >= kCountOf<PoolCommit>)
      return bad("its pool is committed in way {}", identity.pool_commit);
    snapshot.server.pool_commit = static_cast<PoolCommit>(identity.pool_commit);
    ASSIGN_OR_RETURN(snapshot.pool,
                     named(read_pool_figures(header_->live.pool, shape, snapshot.settled)));
    const std::uint64_t now = now_ns();
    std::vector<PoolExtent> extents;
    for (const SessionBlock& block : blocks_) {
      if (!is_used(block)) continue;
      CountersSnapshot::Holder holder;
      auto lease = read_lease(block.lease, shape);
      // Half written, where the server died or stands still over it.
      if (!lease.ok() && !snapshot.settled) continue;
      ASSIGN_OR_RETURN(holder.lease, named(std::move(lease)));
      if (!wants_pool(holder.lease.asked)) continue;
      holder.session = fmt::format("{:016x}", block.epoch);
      ASSIGN_OR_RETURN(holder.client, text(block.client, "client's name"));
      holder.age_ns = now > holder.lease.since_ns ? now - holder.lease.since_ns : 0;
      extents.insert(extents.end(), holder.lease.extents.begin(), holder.lease.extents.end());
      snapshot.holders.push_back(std::move(holder));
    }
    if (!snapshot.settled) return {};
    const Status together = check_leases(extents, snapshot.pool);
    return together.ok() ? Status() : bad("{}", together.message());
  }

  Status fill(CountersSnapshot& snapshot) const {
    RETURN_IF_ERROR(fill_server(snapshot));
    const auto add = [&](const SessionBlock& block) -> Status {
      ASSIGN_OR_RETURN(SessionReport made, session(block));
      snapshot.report.merge(made);
      snapshot.report.sessions.push_back(std::move(made));
      return {};
    };
    if (header_->ended.sessions > 0) RETURN_IF_ERROR(add(header_->ended));
    for (const SessionBlock& block : blocks_) {
      const std::uint64_t state = block.state.load(std::memory_order_relaxed);
      if (state > static_cast<std::uint64_t>(BlockState::kActive))
        return bad("a session has state {}", state);
      if (!is_used(block)) continue;
      RETURN_IF_ERROR(add(block));
      snapshot.sessions_active += 1;
    }
    return fill_pool(snapshot);
  }

  Status fill_server(CountersSnapshot& snapshot) const {
    const Identity& identity = header_->identity;
    Status status;
    visit_server(
        [&](std::string_view name, const auto& field, auto& value) {
          if constexpr (std::is_array_v<std::remove_reference_t<decltype(field)>>) {
            auto read = text(field, name);
            if (!read.ok()) status = read.status();
            if (read.ok()) value = *read;
          } else {
            value = static_cast<std::remove_reference_t<decltype(value)>>(field);
          }
        },
        identity, snapshot.server);
    RETURN_IF_ERROR(status);
    snapshot.report = describe_server(snapshot.server);
    snapshot.pid = identity.pid;
    take_live(header_->live, snapshot);
    if (snapshot.server.max_clients > limits::kMaxClients ||
        snapshot.sessions_started > kMaxEvents || snapshot.sessions_refused > kMaxEvents) {
      return bad("it holds an absurd count of sessions");
    }
    if (!is_sane(snapshot.service_ns, kMaxAmount)) return bad("a histogram holds an absurd count");
    const std::uint64_t last =
        snapshot.alive ? now_ns() : header_->live.heartbeat_ns.load(std::memory_order_relaxed);
    snapshot.report.wall_ns = last > identity.start_ns ? last - identity.start_ns : 0;
    return {};
  }

  const std::string path_;
  UniqueFd fd_;
  std::uint64_t file_bytes_ = 0;
  std::unique_ptr<Header> header_ = std::make_unique<Header>();
  std::vector<SessionBlock> blocks_;
};

}  // namespace

void take_live(const counters_layout::Live& live, CountersSnapshot& snapshot) {
  snapshot.sessions_started = live.sessions_started.load(std::memory_order_relaxed);
  snapshot.sessions_refused = live.sessions_refused.load(std::memory_order_relaxed);
  snapshot.service_ns = snapshot_of(live.service_ns);
  const std::uint64_t sign_ns = live.heartbeat_ns.load(std::memory_order_relaxed);
  const std::uint64_t now = now_ns();
  snapshot.heartbeat_age_ns = now > sign_ns ? now - sign_ns : 0;
}

Result<CountersSnapshot> read_counters_file(const std::string& path) { return Reader(path).read(); }

}  // namespace airlock
