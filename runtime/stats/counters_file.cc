#include "runtime/stats/counters_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/deadline.h"
#include "base/file.h"

namespace airlock {

using counters_layout::BlockState;
using counters_layout::file_bytes;
using counters_layout::Header;
using counters_layout::Identity;

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Cut where it is too long; the rest stays zero.
template <std::size_t kSize>
void set_text(char (&field)[kSize], std::string_view text) {
  text = text.substr(0, std::min(kSize - 1, text.find('\0')));
  std::fill(std::begin(field), std::end(field), '\0');
  std::copy(text.begin(), text.end(), field);
}

// Of a field in the file to one of the same kind: what lies there others may have changed, and it
// may have no end.
template <std::size_t kSize>
void copy_text(char (&to)[kSize], const char (&from)[kSize]) {
  std::copy(std::begin(from), std::end(from) - 1, to);
  to[kSize - 1] = '\0';
}

struct flock whole_file_lock() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

Status in_the_way(const std::string& path, std::string_view why) {
  return {StatusCode::kInvalidInput, "{} is in the way: {}; remove it", path, why};
}

enum class Content : std::uint8_t { kFinished, kBeingMade, kForeign };

// By its first bytes: the magic is written last, and a file without it is empty or zeroed.
Content content_of(int fd) {
  std::uint64_t magic = 0;
  const ssize_t got = ::pread(fd, &magic, sizeof(magic), 0);
  if (got == sizeof(magic) && magic == counters_layout::kMagic) return Content::kFinished;
  return magic == 0 && (got == 0 || got == sizeof(magic)) ? Content::kBeingMade : Content::kForeign;
}

UniqueFd open_to_look(const std::string& path) {
  return UniqueFd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
}

bool is_our_file(const struct stat& info) {
  return S_ISREG(info.st_mode) && info.st_uid == ::geteuid();
}

// Every page on the disk now: a full disk is an error here and never SIGBUS later.
Status reserve(int fd, const std::string& path, std::size_t bytes) {
  if (::fchmod(fd, 0600) != 0) return os_error("set the mode of " + path, errno);
  struct flock lock = whole_file_lock();
  if (::fcntl(fd, F_OFD_SETLK, &lock) != 0) return os_error("lock " + path, errno);
  int error = 0;
  do {
    error = ::posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  } while (error == EINTR);
  return error == 0 ? Status() : os_error("reserve room for " + path, error);
}

}  // namespace

bool counters_file_is_locked(int fd) {
  struct flock lock = whole_file_lock();
  return ::fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

Status remove_dead_counters_file(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? Status() : os_error("look at " + path, errno);
  }
  if (!is_our_file(info)) return in_the_way(path, "it is not a file of ours");
  const UniqueFd fd = open_to_look(path);
  if (!fd.valid()) return in_the_way(path, os_message(errno));
  if (counters_file_is_locked(fd.get())) {
    return {StatusCode::kInUse, "{} belongs to another live server", path};
  }
  if (content_of(fd.get()) == Content::kForeign) return in_the_way(path, "it is no counters file");
  return ::unlink(path.c_str()) == 0 || errno == ENOENT ? Status()
                                                        : os_error("remove " + path, errno);
}

void sweep_tcp_counters_files(const std::string& directory) {
  std::error_code error;
  const std::filesystem::directory_iterator end;
  int entries_left = 65536;
  for (std::filesystem::directory_iterator entry(directory, error);
       !error && entry != end && entries_left > 0; entry.increment(error), --entries_left) {
    const std::string name = entry->path().filename();
    if (!name.starts_with("tcp-") || !name.ends_with(".stats")) continue;
    const UniqueFd fd = open_to_look(entry->path());
    struct stat info {};
    // Finished only: one that is being made is not locked yet.
    if (fd.valid() && ::fstat(fd.get(), &info) == 0 && is_our_file(info) &&
        content_of(fd.get()) == Content::kFinished && !counters_file_is_locked(fd.get())) {
      ::unlink(entry->path().c_str());
    }
  }
}

SideReport describe_server(const ServerInfo& info) {
  SideReport report;
  report.side = "gpu_server";
  report.host = info.host;
  report.config = {{"model", info.model},
                   {"endpoint", info.endpoint},
                   {"ring", info.ring_on ? "on" : "off"},
                   {"ring_slots", std::to_string(info.slot_count)},
                   {"ring_slot_bytes", std::to_string(info.slot_bytes)},
                   {"threads", std::to_string(info.threads)},
                   {"digest", info.digest}};
  return report;
}

/// The generation is odd while one lives.
class CountersFile::Change {
 public:
  explicit Change(counters_layout::Live& live) : generation_(live.generation) {
    generation_.store(generation_.load(kRelaxed) + 1, kRelaxed);
#ifndef __SANITIZE_THREAD__  // which knows no fences; no thread of this process reads the number
    std::atomic_thread_fence(std::memory_order_seq_cst);  // before any change
#endif
  }
  ~Change() { generation_.store(generation_.load(kRelaxed) + 1, std::memory_order_release); }
  Change(const Change&) = delete;
  Change& operator=(const Change&) = delete;

 private:
  std::atomic<std::uint64_t>& generation_;
};

Result<std::unique_ptr<CountersFile>> CountersFile::create(const std::string& path,
                                                           const ServerInfo& info,
                                                           std::size_t block_count) {
  RETURN_IF_ERROR(remove_dead_counters_file(path));
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd.valid()) return os_error("create " + path, errno);
  const Status reserved = reserve(fd.get(), path, file_bytes(block_count));
  auto made = reserved.ok() ? map(std::move(fd), path, info, block_count) : reserved;
  if (!made.ok()) ::unlink(path.c_str());
  return made;
}

Result<std::unique_ptr<CountersFile>> CountersFile::in_memory(const ServerInfo& info,
                                                              std::size_t block_count) {
  return map(UniqueFd(), "private memory", info, block_count);
}

Result<std::unique_ptr<CountersFile>> CountersFile::map(UniqueFd fd, const std::string& path,
                                                        const ServerInfo& info,
                                                        std::size_t block_count) {
  const int flags = fd.valid() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
  void* memory =
      ::mmap(nullptr, file_bytes(block_count), PROT_READ | PROT_WRITE, flags, fd.get(), 0);
  if (memory == MAP_FAILED) return os_error("map " + path, errno);
  std::optional<SegmentGuard> guard;
  if (fd.valid()) {  // somebody may cut the file short
    auto guarded = SegmentGuard::create(memory, file_bytes(block_count));
    if (!guarded.ok()) {
      ::munmap(memory, file_bytes(block_count));
      return guarded.status();
    }
    guard.emplace(std::move(guarded).value());
  }
  std::unique_ptr<CountersFile> made(
      new CountersFile(std::move(fd), path, memory, std::move(guard), block_count));
  Identity& to = made->header_->identity;
  to.version = counters_layout::kVersion;
  to.header_bytes = sizeof(Header);
  to.block_bytes = sizeof(SessionBlock);
  to.block_count = static_cast<std::uint32_t>(block_count);
  to.op_count = kCountOf<Op>;
  to.path_count = kCountOf<Path>;
  to.bucket_count = kHistogramBucketCount;
  to.total_bytes = file_bytes(block_count);
  to.pid = static_cast<std::uint64_t>(::getpid());
  visit_server(
      [](std::string_view, auto& field, const auto& value) {
        if constexpr (std::is_array_v<std::remove_reference_t<decltype(field)>>) {
          set_text(field, value);
        } else {
          field = value;
        }
      },
      to, info);
  to.pool_slot_bytes = info.pool.slot_bytes;
  for (const PoolUse use : kValuesOf<PoolUse>) to.pool_slots[index_of(use)] = info.pool.slots[use];
  to.pool_slots[kCountOf<PoolUse>] = info.pool.spare_slots;
  to.pool_commit = static_cast<std::uint64_t>(info.pool_commit);
  // Nothing is leased yet.
  std::ranges::copy(to.pool_slots, made->header_->live.pool.free_slots);
  std::ranges::copy(to.pool_slots, made->header_->live.pool.longest_runs);
  made->header_->live.heartbeat_ns.store(now_ns(), kRelaxed);
  to.magic.store(counters_layout::kMagic, std::memory_order_release);  // the rest is complete
  return made;
}

CountersFile::CountersFile(UniqueFd fd, std::string path, void* memory,
                           std::optional<SegmentGuard> guard, std::size_t block_count)
    : fd_(std::move(fd)),
      path_(std::move(path)),
      guard_(std::move(guard)),
      header_(new (memory) Header{}),
      used_(block_count) {
  auto* first = reinterpret_cast<SessionBlock*>(static_cast<std::byte*>(memory) + sizeof(Header));
  std::uninitialized_value_construct_n(first, block_count);
  blocks_ = {first, block_count};
}

CountersFile::~CountersFile() {
  remove();
  guard_.reset();
  ::munmap(header_, file_bytes(blocks_.size()));
}

CountersFile::SessionBlock* CountersFile::open_session(std::uint64_t epoch, std::string_view client,
                                                       std::uint64_t now) {
  const auto found = std::ranges::find(used_, false);
  if (found == used_.end()) return nullptr;
  *found = true;
  const Change change(header_->live);
  SessionBlock& block =
      *new (&blocks_[static_cast<std::size_t>(found - used_.begin())]) SessionBlock{};
  block.epoch = epoch;
  block.start_ns = now;
  block.sessions = 1;
  set_text(block.client, client);
  block.state.store(static_cast<std::uint64_t>(BlockState::kActive), kRelaxed);
  return &block;
}

void CountersFile::close_session(SessionBlock& block) {
  const Change change(header_->live);
  SessionBlock& ended = header_->ended;
  ended.epoch = block.epoch;
  ended.start_ns = block.start_ns;
  ended.sessions += 1;
  copy_text(ended.client, block.client);
  ended.path_limit.store(block.path_limit.load(kRelaxed), kRelaxed);
  ended.inline_bytes.store(block.inline_bytes.load(kRelaxed), kRelaxed);
  merge(ended.transport, block.transport);
  merge(ended.ops, block.ops);
  ended.state.store(static_cast<std::uint64_t>(BlockState::kActive), kRelaxed);
  free_block(block);
}

void CountersFile::drop_session(SessionBlock& block) {
  const Change change(header_->live);
  free_block(block);
}

void CountersFile::free_block(SessionBlock& block) {
  block.state.store(static_cast<std::uint64_t>(BlockState::kFree), kRelaxed);
  used_[static_cast<std::size_t>(&block - blocks_.data())] = false;
}

void CountersFile::set_lease(SessionBlock& block, const SessionLease& lease,
                             const PoolFigures& figures) {
  CHECK(lease.extents.size() <= limits::kMaxPoolExtents);
  const Change change(header_->live);
  counters_layout::Lease& to = block.lease;
  to = {};
  to.since_ns = lease.since_ns;
  std::ranges::copy(lease.asked, to.asked_bytes);
  to.extent_count = lease.extents.size();
  for (std::size_t i = 0; i < lease.extents.size(); ++i) {
    const PoolExtent& extent = lease.extents[i];
    to.extents[i] = {static_cast<std::uint64_t>(extent.use), extent.offset, extent.bytes};
  }
  counters_layout::Pool& pool = header_->live.pool;
  std::ranges::copy(figures.leased_bytes, pool.leased_bytes);
  std::ranges::copy(figures.high_water_bytes, pool.high_water_bytes);
  pool.high_water_all_bytes = figures.high_water_all_bytes;
  pool.granted = figures.granted;
  pool.cut_short = figures.cut_short;
  pool.refused = figures.refused;
  const auto set_free = [&pool](std::size_t at, const PoolFigures::Free& free) {
    pool.free_slots[at] = free.slots;
    pool.longest_runs[at] = free.longest_run;
  };
  for (const PoolUse use : kValuesOf<PoolUse>) set_free(index_of(use), figures.own[use]);
  set_free(kCountOf<PoolUse>, figures.spare);
}

CounterSums CountersFile::sums() const {
  CounterSums sums{snapshot_of(header_->ended.transport), snapshot_of(header_->ended.ops)};
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    if (!used_[i]) continue;
    merge(sums.transport, blocks_[i].transport);
    merge(sums.ops, blocks_[i].ops);
  }
  return sums;
}

void CountersFile::remove() {
  if (!fd_.valid()) return;
  struct stat held {};
  struct stat named {};
  if (::fstat(fd_.get(), &held) == 0 && ::lstat(path_.c_str(), &named) == 0 &&
      held.st_ino == named.st_ino && held.st_dev == named.st_dev) {
    ::unlink(path_.c_str());
  }
  fd_.reset();
}

}  // namespace airlock
