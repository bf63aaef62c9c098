#include "gpu_server/group/leader.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/sink.h"
#include "base/thread.h"
#include "proto/message.h"

namespace airlock {

namespace {
constexpr std::chrono::seconds kAbortPatience{2};
constexpr std::chrono::seconds kEchoPatience{30};
constexpr std::chrono::seconds kTellLoading{30};
constexpr std::chrono::milliseconds kPartingRest{200};
}  // namespace

bool RemoteOp::wait(Deadline until) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, until.remaining(), [this] { return is_over(); });
}

bool RemoteOp::wait_sent(Deadline until) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, until.remaining(), [this] { return sent_ || is_over(); });
}

void RemoteOp::tell_sent() {
  const std::lock_guard lock(mutex_);
  sent_ = true;
  changed_.notify_all();
}

void RemoteOp::end(Status status) {
  const std::lock_guard lock(mutex_);
  status_ = std::move(status);
  over_.store(true, std::memory_order_release);
  changed_.notify_all();
}

Result<std::unique_ptr<GroupLeader>> GroupLeader::start(Ground ground, Deadline deadline) {
  std::unique_ptr<GroupLeader> leader(new GroupLeader);
  leader->ground_ = std::move(ground);
  const auto opened = std::make_shared<std::promise<Status>>();
  auto is_open = opened->get_future();
  ASSIGN_OR_RETURN(
      leader->thread_,
      start_thread("the group of ranks", [self = leader.get(), opened] { self->work(opened); }));
  if (is_open.wait_for(deadline.remaining()) != std::future_status::ready) {
    // It cannot be waited for.
    leader->thread_.detach();
    (void)leader.release();
    return Status(StatusCode::kDevice, "the other ranks were not met in time");
  }
  RETURN_IF_ERROR(is_open.get());
  return leader;
}

GroupLeader::~GroupLeader() {
  {
    const std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  lose({StatusCode::kCancelled, "the group is over"});
  if (thread_.joinable()) thread_.join();
}

void GroupLeader::work(const std::shared_ptr<std::promise<Status>>& opened) {
  const Status opening = without_exceptions([&]() -> Status {
    ASSIGN_OR_RETURN(link_, ground_.open());
    ranks_ = link_->ranks();
    host_ = link_->host();
    what_ = link_->what();
    states_.resize(ranks_);
    port_ = std::make_unique<GroupPort>(*link_, ground_.timing);
    rest_ = std::make_unique<GroupRest>();
    for (std::size_t rank = 1; rank < ranks_; ++rank)
      RETURN_IF_ERROR(port_->listen(rank, ground_.timing.meeting));
    return {};
  });
  opened->set_value(opening);
  if (!opening.ok()) return;
  const Status status = without_exceptions([this] { return serve(); });
  if (!status.ok()) lose(status);
  end_all();
  const bool in_order = health().ok();
  if (in_order) link_->finish();
  std::unique_lock lock(mutex_);
  parted_ = in_order;
  changed_.notify_all();
  if (in_order) return;
  const Status lost = health_;
  if (ground_.lost && !abort_code_ && !released_) {
    lock.unlock();
    if (const auto exit_code = ground_.lost(lost)) link_->abort(*exit_code);
    lock.lock();
  }
  // A link that is not finished waits for its end.
  changed_.wait(lock, [&] { return released_ || abort_code_; });
  if (abort_code_) link_->abort(*abort_code_);
}

Status GroupLeader::serve() {
  const GroupPort::Take take = [this](std::size_t from, const Frame& frame) {
    return handle(from, frame);
  };
  LauncherWatch launcher;
  Deadline parting = Deadline::now();
  // What a rank that has ended was sent last may never arrive.
  while (!stopping_ || stopped_ranks_ + 1 < ranks_ || !(port_->idle() || parting.expired())) {
    if (stopped_ranks_ + 1 < ranks_) parting = Deadline::after(kPartingRest);
    ASSIGN_OR_RETURN(const bool came, port_->turn(take));
    bool obeyed = false;
    while (const auto command = next_command()) {
      obeyed = true;
      RETURN_IF_ERROR(obey(*command));
    }
    RETURN_IF_ERROR(health());
    if (came || obeyed) rest_->reset();
    if (launcher.is_gone()) return {StatusCode::kDevice, "the launcher is gone"};
    rest_->rest(pace());
  }
  return {};
}

Pace GroupLeader::pace() const {
  if (port_->moving()) return Pace::kMoving;
  if (ops_.empty()) return Pace::kIdle;
  const bool is_awaited = std::ranges::any_of(ops_, [](const auto& op) {
    const auto& is_put_off = op.second->is_put_off;
    return !is_put_off || !is_put_off->load(std::memory_order_relaxed);
  });
  return is_awaited ? Pace::kAwaited : Pace::kBusy;
}

// One at a time: what is not taken yet end_all() finds.
std::optional<GroupLeader::Command> GroupLeader::next_command() {
  const std::lock_guard lock(mutex_);
  if (!health_.ok() || commands_.empty()) return std::nullopt;
  Command first = std::move(commands_.front());
  commands_.pop_front();
  return first;
}

std::string GroupLeader::name(std::size_t rank) const {
  const std::lock_guard lock(mutex_);
  const auto& hello = states_[rank].hello;
  return hello ? fmt::format("rank {} ({}, process {})", rank, hello->host, hello->pid)
               : fmt::format("rank {}", rank);
}

Status GroupLeader::handle(std::size_t from, const Frame& frame) {
  switch (frame.kind) {
    case FrameKind::kHello: {
      ASSIGN_OR_RETURN(RankHello hello, decode_hello(frame.body));
      const std::lock_guard lock(mutex_);
      states_[from].hello = std::move(hello);
      changed_.notify_all();
      return {};
    }
    case FrameKind::kLoaded:
      return take_loaded(from, frame);
    case FrameKind::kAnswer:
      return take_answer(from, frame);
    case FrameKind::kInt8Made:
      return take_int8(from, frame);
    case FrameKind::kEchoed: {
      std::size_t bytes = 0;
      {
        const std::lock_guard lock(mutex_);
        bytes = echo_bytes_;
      }
      return port_->receive_text(from, bytes, [this](const std::string&) -> Status {
        const std::lock_guard lock(mutex_);
        echo_bytes_ = 0;
        changed_.notify_all();
        return {};
      });
    }
    case FrameKind::kLeave:
      log_info(name(from) + " was asked to end: all do");
      leave();
      return {};
    case FrameKind::kFailed:
      return {frame.code(), "{}: {}", name(from), frame.text()};
    case FrameKind::kStopped:
      if (!stopping_) return {StatusCode::kDevice, "{} has ended", name(from)};
      ++stopped_ranks_;
      port_->stop_listening(from);
      return {};
    default:
      return {StatusCode::kProtocolError, "{} has sent a frame of kind {}", name(from),
              static_cast<std::uint32_t>(frame.kind)};
  }
}

Status GroupLeader::obey(const Command& command) {
  switch (command.kind) {
    case Command::Kind::kSubmit:
      return begin(command.op);
    case Command::Kind::kCancel:
      if (!ops_.contains(command.op->number_)) return {};
      return port_->send(command.op->rank,
                         {.kind = FrameKind::kCancel, .number = command.op->number_});
    case Command::Kind::kEcho:
      return send_echo(command.rank, command.value);
    case Command::Kind::kLoad:
    case Command::Kind::kInt8:
    case Command::Kind::kStop:
      break;
  }
  Frame frame{.kind = FrameKind::kLoad};
  if (command.kind == Command::Kind::kInt8) frame.kind = FrameKind::kInt8;
  if (command.kind == Command::Kind::kStop) frame.kind = FrameKind::kStop;
  stopping_ |= command.kind == Command::Kind::kStop;
  frame.values[0] = command.value;
  for (std::size_t rank = 1; rank < ranks_; ++rank) RETURN_IF_ERROR(port_->send(rank, frame));
  return {};
}

Status GroupLeader::begin(const std::shared_ptr<RemoteOp>& op) {
  op->number_ = next_number_++;
  op->to_move_ = op->inputs.size();
  ops_.emplace(op->number_, op);
  Frame frame{.kind = FrameKind::kOp, .number = op->number_};
  frame.values[0] = static_cast<std::uint64_t>(op->deadline.remaining().count());
  frame.body = encode(RequestHeader{.request_id = op->number_, .spec = op->spec});
  RETURN_IF_ERROR(port_->send(op->rank, frame));
  for (const ByteRows& rows : op->inputs) {
    RETURN_IF_ERROR(
        port_->send_rows(op->rank, op_tag(op->number_), rows, [this, op] { return moved(op); }));
  }
  return {};
}

Status GroupLeader::take_answer(std::size_t from, const Frame& frame) {
  ASSIGN_OR_RETURN(ResponseHeader response, decode_response(frame.body));
  const auto found = ops_.find(frame.number);
  if (found == ops_.end() || found->second->rank != from || found->second->answered_ ||
      (response.code == StatusCode::kOk && response.results != found->second->result_descs)) {
    return {StatusCode::kProtocolError, "{} has answered what it was not asked", name(from)};
  }
  const std::shared_ptr<RemoteOp> op = found->second;
  op->answered_ = true;
  ++op->to_move_;  // until moved() at the end
  op->times_.queue_ns = response.queue_ns;
  op->times_.server_ns = response.server_ns;
  op->times_.device = {frame.values[0], frame.values[1], frame.values[2]};
  if (response.code == StatusCode::kOk) {
    for (const ByteRows& rows : op->results) {
      ++op->to_move_;
      RETURN_IF_ERROR(
          port_->receive_rows(from, op_tag(op->number_), rows, [this, op] { return moved(op); }));
    }
  } else {
    op->status_ = {response.code, "{}", response.message};
  }
  return moved(op);
}

// Another of the op's tensors has gone or come, or the answer has been taken.
Status GroupLeader::moved(const std::shared_ptr<RemoteOp>& op) {
  --op->to_move_;
  if (!op->answered_ && op->to_move_ == 0) op->tell_sent();
  if (!op->answered_ || op->to_move_ > 0) return {};
  ops_.erase(op->number_);
  op->end(std::move(op->status_));
  return {};
}

Status GroupLeader::take_loaded(std::size_t from, const Frame& frame) {
  ASSIGN_OR_RETURN(RankLoaded loaded, decode_loaded(frame.body));
  const std::size_t bytes = loaded.lines_bytes;
  log_info(fmt::format("{}: {:.0f} MB on {}, {} threads", name(from),
                       static_cast<double>(loaded.bytes) / 1e6, loaded.device, loaded.threads));
  {
    const std::lock_guard lock(mutex_);
    states_[from].loaded = std::move(loaded);
  }
  return port_->receive_text(from, bytes, [this, from](std::string text) -> Status {
    const std::lock_guard lock(mutex_);
    states_[from].digest_lines = std::move(text);
    states_[from].has_lines = true;
    changed_.notify_all();
    return {};
  });
}

Status GroupLeader::take_int8(std::size_t from, const Frame& frame) {
  const auto done = [this, from](Status status, std::string lines) -> Status {
    const std::lock_guard lock(mutex_);
    if (!making_ || making_->has[from])
      return {StatusCode::kProtocolError, "rank {} has made int8 weights unasked", from};
    making_->has[from] = true;
    --making_->missing;
    making_->lines[from] = std::move(lines);
    if (making_->status.ok()) making_->status = std::move(status);
    changed_.notify_all();
    return {};
  };
  if (frame.values[0] != 0) {
    return done({frame.code(), "{}: {}", name(from), frame.text()}, {});
  }
  if (frame.values[1] > kMaxGroupTextBytes)
    return {StatusCode::kProtocolError, "{} has {} bytes of lines", name(from), frame.values[1]};
  return port_->receive_text(from, frame.values[1], [done](std::string text) -> Status {
    return done({}, std::move(text));
  });
}

Status GroupLeader::send_echo(std::size_t rank, std::size_t bytes) {
  Frame frame{.kind = FrameKind::kEcho};
  frame.values[0] = bytes;
  RETURN_IF_ERROR(port_->send(rank, frame));
  return port_->send_text(rank, std::string(bytes, 'e'));
}

// A launcher asks all ranks at once.
void GroupLeader::leave() {
  if (ground_.leave && !std::exchange(has_left_, true)) ground_.leave();
}

void GroupLeader::end_all() {
  std::deque<Command> commands;
  Status why;
  {
    const std::lock_guard lock(mutex_);
    commands.swap(commands_);
    finished_ = true;
    why = health_.ok() ? Status(StatusCode::kCancelled, "the group is over") : health_;
    changed_.notify_all();
  }
  for (const Command& command : commands) {
    if (command.kind == Command::Kind::kSubmit) command.op->end(why);
  }
  for (const auto& [number, op] : ops_) op->end(why);
  ops_.clear();
}

void GroupLeader::command(Command command) {
  {
    const std::lock_guard lock(mutex_);
    if (!finished_) {
      commands_.push_back(std::move(command));
      rest_->ring();
      return;
    }
  }
  if (command.kind == Command::Kind::kSubmit) {
    const Status status = health();
    command.op->end(status.ok() ? Status(StatusCode::kCancelled, "the group is over") : status);
  }
}

template <typename Done>
Status GroupLeader::await(const Done& done, Deadline deadline, StatusCode late) {
  std::unique_lock lock(mutex_);
  const bool in_time = changed_.wait_for(lock, deadline.remaining(),
                                         [&] { return !health_.ok() || finished_ || done(); });
  RETURN_IF_ERROR(health_);
  if (finished_) return {StatusCode::kCancelled, "the group is over"};
  if (in_time) return {};
  return {late, "the other ranks did not answer in time"};
}

Result<std::vector<RankHello>> GroupLeader::await_hellos(Deadline deadline) {
  const auto others = [this] { return std::span(states_).subspan(1); };
  RETURN_IF_ERROR(await(
      [&] {
        return std::ranges::all_of(others(), [](const auto& s) { return s.hello.has_value(); });
      },
      deadline, StatusCode::kDevice));
  const std::lock_guard lock(mutex_);
  std::vector<RankHello> hellos;
  for (const RankState& state : others()) hellos.push_back(*state.hello);
  return hellos;
}

Status GroupLeader::begin_loading() {
  command({.kind = Command::Kind::kLoad});
  return health();
}

Status GroupLeader::await_loaded() {
  const auto loads = [](const RankState& state) { return !state.has_lines; };
  const auto have_all = [&] { return std::ranges::none_of(std::span(states_).subspan(1), loads); };
  for (;;) {
    const Status status = await(have_all, Deadline::after(kTellLoading));
    if (status.code() != StatusCode::kDeadlineExceeded) return status;
    const std::vector<RankState> others = states();
    std::vector<std::size_t> missing;
    for (std::size_t i = 0; i < others.size(); ++i) {
      if (loads(others[i])) missing.push_back(i + 1);
    }
    log_info(fmt::format("still loading: rank {}", fmt::join(missing, ", ")));
  }
}

std::vector<RankState> GroupLeader::states() const {
  const std::lock_guard lock(mutex_);
  return {states_.begin() + 1, states_.end()};
}

Result<std::chrono::nanoseconds> GroupLeader::echo(std::size_t rank, std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    echo_bytes_ = bytes;
  }
  const std::uint64_t start_ns = now_ns();
  command({.kind = Command::Kind::kEcho, .value = bytes, .rank = rank});
  RETURN_IF_ERROR(await([this] { return echo_bytes_ == 0; }, Deadline::after(kEchoPatience),
                        StatusCode::kDevice));
  return std::chrono::nanoseconds(now_ns() - start_ns);
}

void GroupLeader::submit(std::shared_ptr<RemoteOp> op) {
  command({.kind = Command::Kind::kSubmit, .op = std::move(op)});
}

void GroupLeader::look() { rest_->ring(); }

void GroupLeader::cancel(std::shared_ptr<RemoteOp> op) {
  command({.kind = Command::Kind::kCancel, .op = std::move(op)});
}

Result<std::vector<std::string>> GroupLeader::make_int8(Int8Weights weights) {
  const std::lock_guard turn(making_mutex_);
  {
    const std::lock_guard lock(mutex_);
    Making& making = making_.emplace();
    making.lines.resize(ranks_);
    making.has.resize(ranks_);
    making.missing = ranks_ - 1;
  }
  command({.kind = Command::Kind::kInt8, .value = static_cast<std::uint64_t>(weights)});
  for (;;) {
    const Status status =
        await([this] { return making_->missing == 0; }, Deadline::after(std::chrono::seconds(1)));
    if (status.code() == StatusCode::kDeadlineExceeded) continue;
    const std::lock_guard lock(mutex_);
    const Making made = *std::exchange(making_, std::nullopt);
    RETURN_IF_ERROR(status);
    RETURN_IF_ERROR(made.status);
    return std::vector<std::string>(made.lines.begin() + 1, made.lines.end());
  }
}

Status GroupLeader::health() const {
  const std::lock_guard lock(mutex_);
  return health_;
}

void GroupLeader::lose(Status reason) {
  const std::lock_guard lock(mutex_);
  if (!health_.ok()) return;
  health_ = std::move(reason);
  changed_.notify_all();
  if (rest_) rest_->ring();
}

bool GroupLeader::stop(std::chrono::nanoseconds patience) {
  command({.kind = Command::Kind::kStop});
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, patience, [this] { return parted_ || !health_.ok(); });
  return parted_;
}

void GroupLeader::abort(int exit_code) {
  flush_sinks();
  {
    const std::lock_guard lock(mutex_);
    abort_code_ = exit_code;
    changed_.notify_all();
  }
  lose({StatusCode::kCancelled, "the group is over"});
  std::unique_lock lock(mutex_);
  // The link's thread ends this process, unless it is stuck.
  changed_.wait_for(lock, kAbortPatience, [] { return false; });
  exit_at_once(exit_code);
}

}  // namespace airlock
