#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "gpu_server/group/link.h"
#include "gpu_server/group/port.h"
#include "proto/op.h"
#include "runtime/op_times.h"

namespace airlock {

/// One rank's part of an op, over its caller's memory, which the link reads and writes from
/// submit() until is_over(). What its caller sets it sets before submit().
class RemoteOp {
 public:
  std::size_t rank = 0;
  OpSpec spec;
  std::vector<ByteRows> inputs;
  // Types and shapes of the part's results, and where their rows belong.
  std::vector<TensorDesc> result_descs;
  std::vector<ByteRows> results;
  Deadline deadline = Deadline::now();
  // Set while its caller does something else on the CPU, which nobody can have its answer before:
  // the link looks for it seldom then. May be null.
  std::shared_ptr<const std::atomic<bool>> is_put_off;

  bool is_over() const { return over_.load(std::memory_order_acquire); }
  /// Until it is over or `until` has passed: whether it is.
  bool wait(Deadline until) const;
  /// Until its inputs have gone, it is over or `until` has passed: whether one of the first two.
  bool wait_sent(Deadline until) const;
  /// After is_over(). Not ok: nothing is promised of the results.
  const Status& status() const { return status_; }
  /// Of the rank: queue_ns, server_ns, device.
  const OpTimes& times() const { return times_; }

 private:
  friend class GroupLeader;
  void end(Status status);
  void tell_sent();

  std::atomic<bool> over_{false};
  // Written before over_ is set.
  Status status_;
  OpTimes times_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool sent_ = false;  // guarded by mutex_
  // The link thread's.
  std::uint64_t number_ = 0;
  std::size_t to_move_ = 0;
  bool answered_ = false;
};

/// What rank 0 knows of another one.
struct RankState {
  std::optional<RankHello> hello;
  std::optional<RankLoaded> loaded;
  std::string digest_lines;
  bool has_lines = false;
};

/// Rank 0's end of the group: a thread of its own has the link; the rest is for any thread.
class GroupLeader {
 public:
  using OpenLink = std::function<Result<std::unique_ptr<GroupLink>>()>;
  struct Ground {
    OpenLink open;
    GroupTiming timing{};
    // A worker was asked to end, or the launcher is gone: the whole group should end. Once. May be
    // empty; the link's thread.
    std::function<void()> leave{};
    // The group is lost, and why; every op is over. Where it gives an exit code all ranks end at
    // once. May be empty; the link's thread.
    std::function<std::optional<int>(const Status&)> lost{};
  };

  /// Opens the link on the thread. kDevice: it does not open, or not before `deadline`; then its
  /// thread may still be stuck there, and the process should end.
  static Result<std::unique_ptr<GroupLeader>> start(Ground ground, Deadline deadline);
  /// Without stop() the others are left to their silence.
  ~GroupLeader();
  GroupLeader(const GroupLeader&) = delete;
  GroupLeader& operator=(const GroupLeader&) = delete;

  std::size_t ranks() const { return ranks_; }
  const std::string& host() const { return host_; }
  const std::string& what() const { return what_; }
  /// Of every other rank, in order. kDevice: one is lost, or has not come by then.
  Result<std::vector<RankHello>> await_hellos(Deadline deadline);
  /// Says to load; and waits for all, as long as they give signs of life, saying now and then who
  /// is not through. What a rank fails with names it.
  Status begin_loading();
  Status await_loaded();
  /// Of every other rank, after await_loaded(): what it has, and its lines of the digest.
  std::vector<RankState> states() const;

  /// Sends a rank so many bytes (at most kMaxGroupTextBytes) and gets them back: how long that
  /// took. One at a time, before there are ops.
  Result<std::chrono::nanoseconds> echo(std::size_t rank, std::size_t bytes);

  /// Queues an op, which is over some time later, whatever happens.
  void submit(std::shared_ptr<RemoteOp> op);
  /// The link looks at once: an op is no longer put off.
  void look();
  /// Nobody wants its results any more: it is over soon.
  void cancel(std::shared_ptr<RemoteOp> op);
  /// Has every other rank make int8 weights: their lines, in order of ranks. One at a time.
  Result<std::vector<std::string>> make_int8(Int8Weights weights);

  /// Not ok (kDevice, or what a rank failed with): the group is lost, and no op will ever work.
  Status health() const;
  /// Ok, then lost for this reason.
  void lose(Status reason);
  /// Ends the others in order and gives up the link. false: they did not follow within `patience`,
  /// or the group is lost; then only abort() or the end of this process ends them.
  bool stop(std::chrono::nanoseconds patience);
  /// Ends all ranks at once, this process with `exit_code`.
  [[noreturn]] void abort(int exit_code);

 private:
  struct Command {
    enum class Kind { kLoad, kEcho, kSubmit, kCancel, kInt8, kStop } kind;
    std::shared_ptr<RemoteOp> op{};
    std::uint64_t value = 0;
    std::size_t rank = 0;  // kEcho
  };
  /// Int8 weights being made. (No initializers: clang 14 does not take them in an optional of the
  /// class around it.)
  struct Making {
    std::vector<std::string> lines;
    std::vector<bool> has;
    Status status;
    std::size_t missing;
  };

  GroupLeader() = default;
  void command(Command command);
  /// Waits on changed_ until `done` holds or the group is lost.
  template <typename Done>
  Status await(const Done& done, Deadline deadline,
               StatusCode late = StatusCode::kDeadlineExceeded);

  // The link thread's.
  void work(const std::shared_ptr<std::promise<Status>>& opened);
  Status serve();
  Pace pace() const;
  Status handle(std::size_t from, const Frame& frame);
  std::optional<Command> next_command();
  Status obey(const Command& command);
  void leave();
  Status begin(const std::shared_ptr<RemoteOp>& op);
  Status take_answer(std::size_t from, const Frame& frame);
  Status moved(const std::shared_ptr<RemoteOp>& op);
  Status take_loaded(std::size_t from, const Frame& frame);
  Status take_int8(std::size_t from, const Frame& frame);
  Status send_echo(std::size_t rank, std::size_t bytes);
  std::string name(std::size_t rank) const;
  void end_all();

  Ground ground_;
  std::size_t ranks_ = 0;
  std::string host_;
  std::string what_;
  std::unique_ptr<GroupLink> link_;
  std::unique_ptr<GroupPort> port_;
  std::unique_ptr<GroupRest> rest_;
  std::map<std::uint64_t, std::shared_ptr<RemoteOp>> ops_;
  std::uint64_t next_number_ = 1;
  bool stopping_ = false;
  bool has_left_ = false;
  std::size_t stopped_ranks_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_, up to the thread.
  std::deque<Command> commands_;
  std::vector<RankState> states_;  // [ranks]
  std::optional<Making> making_;
  std::size_t echo_bytes_ = 0;  // under way
  Status health_;
  // Nobody obeys any more.
  bool finished_ = false;
  // The link is given up.
  bool parted_ = false;
  bool released_ = false;
  std::optional<int> abort_code_;
  std::mutex making_mutex_;  // held by who has int8 weights made
  std::thread thread_;
};

}  // namespace airlock
