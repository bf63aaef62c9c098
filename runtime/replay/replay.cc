#include "runtime/replay/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace airlock {
namespace {

// A recorded gap may be as long as a file says: in between, a look at the server.
constexpr std::uint64_t kLongestSleepNs = 100'000'000;

std::string op_text(const TraceRecord& record) {
  return fmt::format("op {} ({})", record.seq, name_of(record.op));
}

}  // namespace

std::uint64_t ReplayClock::now_ns() { return airlock::now_ns(); }

void ReplayClock::sleep_until(std::uint64_t at_ns) {
  const std::uint64_t now = now_ns();
  if (at_ns > now) std::this_thread::sleep_for(std::chrono::nanoseconds(at_ns - now));
}

Status Replay::run() {
  parts_.tally.begin(parts_.clock.now_ns());
  Status status;
  for (std::size_t pass = 0; pass < settings_.repeat && status.ok(); ++pass) {
    if (pass > 0) RETURN_IF_ERROR(parts_.records.rewind());
    status = replay_once();
  }
  under_way_.clear();
  return status;
}

Status Replay::replay_once() {
  pass_start_ns_ = parts_.clock.now_ns();
  first_start_ns_.reset();
  for (;;) {
    auto next = parts_.records.next();
    if (!next.ok()) {
      RETURN_IF_ERROR(drain());  // what came before the bad line counts
      return next.status();
    }
    const TraceRecord* record = *next;
    if (record == nullptr) break;
    RETURN_IF_ERROR(submit(*record));
  }
  RETURN_IF_ERROR(drain());
  parts_.tally.end_pass();
  return {};
}

Status Replay::submit(const TraceRecord& record) {
  while (under_way_.size() >= settings_.inflight) RETURN_IF_ERROR(complete_oldest());
  if (settings_.speed == ReplaySpeed::kRecorded) {
    if (Status status = await_start(record); !status.ok()) {
      return status.with_context(fmt::format("waiting for the start of {}", op_text(record)));
    }
  }
  const Status started = start(record);
  if (started.ok()) return {};
  (void)drain();  // what was asked before counts; this failure is the first
  return started.with_context(op_text(record));
}

Status Replay::start(const TraceRecord& record) {
  if (!is_kept(record.op)) {
    return {StatusCode::kInvalidInput, "a trace has no key of it: it cannot be replayed"};
  }
  const std::uint64_t asked_ns = parts_.clock.now_ns();
  ASSIGN_OR_RETURN(auto pending,
                   parts_.backend.prepare(record.spec(), Deadline::after(parts_.op_timeout)));
  const std::uint64_t prepare_ns = parts_.clock.now_ns() - asked_ns;
  for (std::size_t i = 0; i < record.inputs.size(); ++i) {
    RETURN_IF_ERROR(parts_.inputs(record, i, pending->input(i)));
    if (parts_.verifier != nullptr)
      RETURN_IF_ERROR(parts_.verifier->check_input(record, i, pending->input(i)));
  }
  // The op's time is one span: what prepare() took stands right before submit().
  const std::uint64_t start_ns = parts_.clock.now_ns() - prepare_ns;
  RETURN_IF_ERROR(pending->submit());
  under_way_.push_back({record, start_ns, std::move(pending)});
  return {};
}

/// Replies are taken while there is time: a reply that lies there unread would look slow.
Status Replay::await_start(const TraceRecord& record) {
  if (!first_start_ns_) first_start_ns_ = record.start_ns;
  if (record.start_ns <= *first_start_ns_) return {};
  const std::uint64_t due_ns = pass_start_ns_ + (record.start_ns - *first_start_ns_);
  while (!under_way_.empty() && parts_.clock.now_ns() < due_ns) RETURN_IF_ERROR(complete_oldest());
  for (std::uint64_t now = parts_.clock.now_ns(); now < due_ns;) {
    if (parts_.check_server) RETURN_IF_ERROR(parts_.check_server());
    parts_.clock.sleep_until(std::min(due_ns, now + kLongestSleepNs));
    const std::uint64_t begun = std::exchange(now, parts_.clock.now_ns());
    parts_.tally.book_idle(now - begun);
  }
  return {};
}

Status Replay::complete_oldest() {
  const UnderWay op = std::move(under_way_.front());
  under_way_.pop_front();
  Status status = op.pending->wait();
  if (status.ok()) {
    parts_.tally.book(op.record, op.pending->times(), op.start_ns);
    if (parts_.verifier == nullptr) return {};
    status = verify(op);
    if (status.ok()) return {};
    book_rest();
  }
  return status.with_context(op_text(op.record));
}

/// After a failure of our own: the server did its part, and that counts.
void Replay::book_rest() {
  for (; !under_way_.empty(); under_way_.pop_front()) {
    const UnderWay& op = under_way_.front();
    if (!op.pending->wait().ok()) return;
    parts_.tally.book(op.record, op.pending->times(), op.start_ns);
  }
}

Status Replay::drain() {
  while (!under_way_.empty()) RETURN_IF_ERROR(complete_oldest());
  return {};
}

Status Replay::verify(const UnderWay& op) {
  for (std::size_t i = 0; i < op.record.outputs.size(); ++i) {
    ASSIGN_OR_RETURN(std::string difference,
                     parts_.verifier->check(op.record, i, op.pending->result(i)));
    if (!difference.empty())
      difference = fmt::format("{}, output {}: {}", op_text(op.record), i, difference);
    parts_.tally.book_check(difference);
  }
  return {};
}

}  // namespace airlock
