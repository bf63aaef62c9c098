#include "gpu_server/group/port.h"

#include <sys/prctl.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "base/check.h"

namespace airlock {

namespace {
constexpr std::chrono::nanoseconds kSpin = std::chrono::microseconds(50);
constexpr std::chrono::nanoseconds kMovingSpin = std::chrono::milliseconds(5);
constexpr std::chrono::nanoseconds kMostMovingRest = std::chrono::microseconds(100);
constexpr std::chrono::nanoseconds kLeastRest = std::chrono::microseconds(20);
constexpr std::chrono::nanoseconds kMostAwaitedRest = std::chrono::microseconds(200);
constexpr std::chrono::nanoseconds kMostRest = std::chrono::milliseconds(4);

/// A rest is so much shorter than what was waited so far: what comes is seen so much too late.
constexpr int rest_share(Pace pace) { return pace == Pace::kBusy ? 8 : 64; }

constexpr std::chrono::nanoseconds most_rest(Pace pace) {
  switch (pace) {
    case Pace::kIdle:
    case Pace::kBusy:
      return kMostRest;
    case Pace::kAwaited:
      return kMostAwaitedRest;
    case Pace::kMoving:
      break;
  }
  return kMostMovingRest;
}

constexpr std::chrono::milliseconds kLookInterval{250};
constexpr std::size_t kMostPiecesUnderWay = 4;
// Before anything waits for anybody.
const pid_t kParent = ::getppid();
constexpr unsigned long kTimerSlackNs = 1000;
}  // namespace

Status GroupPort::listen(std::size_t peer, std::chrono::milliseconds first) {
  Peer& made = peers_[peer];
  made.rank = peer;
  made.room = std::make_unique<std::array<std::byte, kFrameRoom>>();
  made.silent_at = Deadline::after(first);
  return receive_frame(made);
}

void GroupPort::stop_listening(std::size_t peer) { peers_.at(peer).has_ended = true; }

Status GroupPort::receive_frame(Peer& peer) {
  const GroupLink::Ticket ticket = next_++;
  pending_[ticket] = [this, &peer]() -> Status {
    auto frame = decode_frame(*peer.room);
    if (!frame.ok()) return frame.status();
    peer.silent_at = Deadline::after(timing_.silence);
    RETURN_IF_ERROR(receive_frame(peer));
    if (frame->kind == FrameKind::kSign) return {};
    came_ = true;
    return (*take_)(peer.rank, std::move(frame).value());
  };
  return link_.receive(peer.rank, kFrameTag, ByteRows::dense(peer.room->data(), kFrameRoom),
                       ticket);
}

Status GroupPort::send_bytes(std::size_t to, int tag, std::shared_ptr<std::vector<std::byte>> bytes,
                             Over over) {
  const GroupLink::Ticket ticket = next_++;
  const ByteRows rows = ByteRows::dense(bytes->data(), bytes->size());
  pending_[ticket] = [kept = std::move(bytes), over = std::move(over)]() -> Status {
    return over ? over() : Status();
  };
  return link_.send(to, tag, rows, ticket);
}

Status GroupPort::send(std::size_t to, const Frame& frame) {
  return send_bytes(to, kFrameTag, std::make_shared<std::vector<std::byte>>(encode(frame)), {});
}

std::vector<ByteRows> GroupPort::pieces_of(const ByteRows& rows) {
  std::vector<ByteRows> pieces;
  if (rows.rows == 1) {
    for (std::size_t done = 0; done < rows.width; done += kMaxLinkBytes) {
      pieces.push_back(
          ByteRows::dense(rows.data + done, std::min(rows.width - done, kMaxLinkBytes)));
    }
    return pieces;
  }
  const std::size_t step = std::max<std::size_t>(kMaxLinkBytes / rows.width, 1);
  for (std::size_t row = 0; row < rows.rows; row += step) {
    pieces.push_back(
        {rows.data + row * rows.pitch, rows.width, std::min(step, rows.rows - row), rows.pitch});
  }
  return pieces;
}

Status GroupPort::send_rows(std::size_t to, int tag, const ByteRows& rows, Over over) {
  const std::vector<ByteRows> pieces = pieces_of(rows);
  ++moving_;
  const auto left = std::make_shared<std::size_t>(pieces.size());
  const auto end_piece = [this, left, to, over = std::move(over)]() -> Status {
    came_ = true;
    --outgoing_[to].under_way;
    RETURN_IF_ERROR(send_pieces(to));
    if (--*left > 0) return {};
    --moving_;
    return over();
  };
  for (const ByteRows& piece : pieces) outgoing_[to].waiting.push_back({piece, tag, end_piece});
  return send_pieces(to);
}

// A few at a time: signs of life and other frames are not to wait behind gigabytes.
Status GroupPort::send_pieces(std::size_t to) {
  Outgoing& outgoing = outgoing_[to];
  while (outgoing.under_way < kMostPiecesUnderWay && !outgoing.waiting.empty()) {
    Piece piece = std::move(outgoing.waiting.front());
    outgoing.waiting.pop_front();
    ++outgoing.under_way;
    const GroupLink::Ticket ticket = next_++;
    pending_[ticket] = std::move(piece.over);
    RETURN_IF_ERROR(link_.send(to, piece.tag, piece.rows, ticket));
  }
  return {};
}

Status GroupPort::receive_rows(std::size_t from, int tag, const ByteRows& rows, Over over) {
  const std::vector<ByteRows> pieces = pieces_of(rows);
  ++moving_;
  const auto left = std::make_shared<std::size_t>(pieces.size());
  const auto end_piece = [this, left, from, over = std::move(over)]() -> Status {
    came_ = true;
    hear(from);
    if (--*left > 0) return {};
    --moving_;
    return over();
  };
  for (const ByteRows& piece : pieces) {
    const GroupLink::Ticket ticket = next_++;
    pending_[ticket] = end_piece;
    RETURN_IF_ERROR(link_.receive(from, tag, piece, ticket));
  }
  return {};
}

// Piece after piece, into the same memory.
Status GroupPort::drop_row(std::size_t from, int tag, std::size_t bytes, Over over) {
  if (bytes == 0) return over();
  const std::size_t piece = std::min(bytes, kMaxLinkBytes);
  if (dropped_.size() < piece) dropped_.resize(piece);
  return receive_rows(from, tag, ByteRows::dense(dropped_.data(), piece),
                      [this, from, tag, left = bytes - piece, over = std::move(over)]() -> Status {
                        return drop_row(from, tag, left, over);
                      });
}

Status GroupPort::send_text(std::size_t to, const std::string& text) {
  if (text.empty()) return {};
  const auto kept = std::make_shared<std::string>(text);
  const ByteRows rows = ByteRows::dense(reinterpret_cast<std::byte*>(kept->data()), kept->size());
  return send_rows(to, kTextTag, rows, [kept] { return Status(); });
}

Status GroupPort::receive_text(std::size_t from, std::size_t bytes,
                               std::function<Status(std::string text)> take) {
  if (bytes == 0) return take({});
  auto text = std::make_shared<std::string>(bytes, '\0');
  const ByteRows rows = ByteRows::dense(reinterpret_cast<std::byte*>(text->data()), bytes);
  return receive_rows(from, kTextTag, rows, [text, take = std::move(take)]() -> Status {
    return take(std::move(*text));
  });
}

void GroupPort::hear(std::size_t from) {
  if (const auto peer = peers_.find(from); peer != peers_.end())
    peer->second.silent_at = Deadline::after(timing_.silence);
}

Status GroupPort::send_signs() {
  if (!next_sign_.expired()) return {};
  next_sign_ = Deadline::after(timing_.sign);
  for (auto& [rank, peer] : peers_) {
    // One that takes nothing is not sent more and more.
    if (peer.has_ended || std::exchange(peer.sign_under_way, true)) continue;
    RETURN_IF_ERROR(send_bytes(rank, kFrameTag,
                               std::make_shared<std::vector<std::byte>>(encode(Frame{})),
                               [sent = &peer]() -> Status {
                                 sent->sign_under_way = false;
                                 return {};
                               }));
  }
  return {};
}

Status GroupPort::check_silence() const {
  for (const auto& [rank, peer] : peers_) {
    if (peer.has_ended || !peer.silent_at.expired()) continue;
    return {StatusCode::kDevice, "rank {} has given no sign of life", rank};
  }
  return {};
}

Result<bool> GroupPort::turn(const Take& take) {
  take_ = &take;
  came_ = false;
  over_.clear();
  RETURN_IF_ERROR(link_.poll(over_));
  for (const GroupLink::Ticket ticket : over_) {
    auto node = pending_.extract(ticket);
    CHECK(!node.empty());
    RETURN_IF_ERROR(node.mapped()());
  }
  RETURN_IF_ERROR(send_signs());
  RETURN_IF_ERROR(check_silence());
  return came_;
}

bool GroupPort::idle() const { return pending_.size() == peers_.size(); }

GroupRest::GroupRest() {
  // Of this thread: naps are as short as they say.
  ::prctl(PR_SET_TIMERSLACK, kTimerSlackNs, 0, 0, 0);
}

void GroupRest::rest(Pace pace) {
  const std::chrono::nanoseconds waited(static_cast<std::int64_t>(now_ns() - since_ns_));
  std::unique_lock lock(mutex_);
  // What moves does so in turns alone; a slow link gives time to rest.
  if (waited < (pace == Pace::kMoving ? kMovingSpin : kSpin)) {
    lock.unlock();
    std::this_thread::yield();
    lock.lock();
  } else {
    rung_.wait_for(lock, std::clamp(waited / rest_share(pace), kLeastRest, most_rest(pace)),
                   [this] { return is_rung_; });
  }
  if (std::exchange(is_rung_, false)) reset();
}

bool LauncherWatch::is_gone() {
  if (told_ || !next_look_.expired()) return false;
  next_look_ = Deadline::after(kLookInterval);
  return told_ = ::getppid() != kParent;
}

void GroupRest::ring() {
  const std::lock_guard lock(mutex_);
  is_rung_ = true;
  rung_.notify_one();
}

}  // namespace airlock
