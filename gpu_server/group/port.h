#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "base/tensor.h"
#include "gpu_server/group/frame.h"
#include "gpu_server/group/link.h"

namespace airlock {

/// When ranks speak, and when one counts as gone.
struct GroupTiming {
  std::chrono::milliseconds sign{250};
  std::chrono::milliseconds silence{5000};
  // Until a worker's first word: it may have to read its model's index from far away.
  std::chrono::milliseconds meeting{120000};
};

/// Frames, tensors and texts over a link, and signs of life. One thread, the link's.
class GroupPort {
 public:
  using Over = std::function<Status()>;
  /// Called in turn(); what it fails with ends the turn.
  using Take = std::function<Status(std::size_t from, Frame frame)>;

  GroupPort(GroupLink& link, const GroupTiming& timing) : link_(link), timing_(timing) {}

  /// Frames of `peer` are taken from here on, and it is sent signs of life and expected to send
  /// some, the first within `first`.
  Status listen(std::size_t peer, std::chrono::milliseconds first);
  /// It ends: nothing is to be heard from it any more.
  void stop_listening(std::size_t peer);
  Status send(std::size_t to, const Frame& frame);
  /// In pieces, a few under way at a time, each of them a sign of life where it arrives. The memory
  /// lives until `over` is called, in a later turn(). What has one tag is received in the order in
  /// which it was sent.
  Status send_rows(std::size_t to, int tag, const ByteRows& rows, Over over);
  Status receive_rows(std::size_t from, int tag, const ByteRows& rows, Over over);
  /// Receives a row of so many bytes and keeps none of it.
  Status drop_row(std::size_t from, int tag, std::size_t bytes, Over over);
  Status send_text(std::size_t to, const std::string& text);
  Status receive_text(std::size_t from, std::size_t bytes,
                      std::function<Status(std::string text)> take);
  /// Moves on what is under way, tells of what has come and what is over, and sends a sign where
  /// one is due. true: something came, or is over. kDevice: the link failed, or a peer was silent
  /// for too long (named); kProtocolError.
  Result<bool> turn(const Take& take);
  /// Whether tensors or texts are under way: then turns should follow each other closely.
  bool moving() const { return moving_ > 0; }
  /// Nothing is under way but the wait for frames.
  bool idle() const;

 private:
  struct Peer {
    std::size_t rank = 0;
    Deadline silent_at = Deadline::now();
    bool sign_under_way = false;
    bool has_ended = false;
    std::unique_ptr<std::array<std::byte, kFrameRoom>> room;
  };

  /// Of rows that are to be sent.
  struct Piece {
    ByteRows rows;
    int tag = 0;
    Over over;
  };
  struct Outgoing {
    std::deque<Piece> waiting;
    std::size_t under_way = 0;
  };

  Status receive_frame(Peer& peer);
  Status send_bytes(std::size_t to, int tag, std::shared_ptr<std::vector<std::byte>> bytes,
                    Over over);
  static std::vector<ByteRows> pieces_of(const ByteRows& rows);
  Status send_pieces(std::size_t to);
  Status send_signs();
  Status check_silence() const;
  void hear(std::size_t from);

  GroupLink& link_;
  const GroupTiming timing_;
  GroupLink::Ticket next_ = 1;
  std::unordered_map<GroupLink::Ticket, Over> pending_;
  std::size_t moving_ = 0;
  std::map<std::size_t, Peer> peers_;
  std::map<std::size_t, Outgoing> outgoing_;
  Deadline next_sign_ = Deadline::now();
  bool came_ = false;
  const Take* take_ = nullptr;
  std::vector<GroupLink::Ticket> over_;
  std::vector<std::byte> dropped_;  // what nobody wants
};

/// What the link's thread waits for.
enum class Pace {
  kIdle,     // nothing that it knows of
  kBusy,     // what is computed on the CPU: whoever computes rings
  kAwaited,  // another rank's answer
  kMoving,   // tensors under way
};

/// How long the link's thread rests between turns: the less the shorter ago something happened or
/// it was rung, a 64th of that time (an eighth where it is busy), up to 4 ms, 200 us where an
/// answer is awaited, and hardly while something moves.
class GroupRest {
 public:
  GroupRest();
  /// Something happened. The link's thread.
  void reset() { since_ns_ = now_ns(); }
  void rest(Pace pace);
  /// Ends a rest, or the next one before it begins. Any thread.
  void ring();

 private:
  std::uint64_t since_ns_ = now_ns();
  std::mutex mutex_;
  std::condition_variable rung_;
  bool is_rung_ = false;  // guarded by mutex_
};

/// A tensor's rows, dense: how results cross, whichever columns they become.
inline ByteRows tensor_rows(std::byte* data, const TensorDesc& desc) {
  const std::size_t width =
      static_cast<std::size_t>(desc.shape[desc.shape.rank() - 1]) * dtype_bytes(desc.dtype);
  return {data, width, desc.bytes() / width, width};
}

/// Notices that whoever started this process is gone: a launcher that was killed cannot end its
/// ranks. One thread.
class LauncherWatch {
 public:
  /// Looks now and then; true once.
  bool is_gone();

 private:
  Deadline next_look_ = Deadline::now();
  bool told_ = false;
};

/// Tags beside those of ops, which may come round again: of two ops that are under way so far apart
/// one would merely wait for the other.
inline constexpr int kFrameTag = 1;
inline constexpr int kTextTag = 2;
constexpr int op_tag(std::uint64_t number) { return 16 + static_cast<int>(number % 16384); }

}  // namespace airlock
