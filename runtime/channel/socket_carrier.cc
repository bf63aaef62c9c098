#include "runtime/channel/socket_carrier.h"

#include <algorithm>
#include <array>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/channel/buffer_pool.h"
#include "runtime/channel/frame.h"

namespace airlock {
namespace {

constexpr std::chrono::milliseconds kSlice{50};
/// How often the watch is asked who the peer was whose connection ended.
constexpr std::chrono::milliseconds kReasonSlice{1};
/// What is kept at most of buffers that nobody uses.
constexpr std::size_t kCacheBytes = std::size_t{512} << 20;

template <typename Byte>
struct Buffers final : Places<Byte> {
  std::array<PooledBuffer, limits::kMaxTensorsPerMessage> buffers;
  // Room for an opening and a header, and what rides behind them. Empty where nothing does.
  PooledBuffer opening;

  void place_inline(const MessagePlan& plan, std::span<Byte> behind) {
    for (std::size_t i = 0; i < plan.tensor_count; ++i) {
      const MessagePlan::Tensor& tensor = plan.planned[i];
      if (tensor.is_inline) this->places[i] = behind.subspan(tensor.inline_at, tensor.bytes);
    }
  }
};

/// What of one message's frames lies on each lane.
template <typename Byte>
using LaneFrames = std::array<std::vector<std::span<Byte>>, limits::kMaxDataSockets - 1>;

/// What the lanes send of one message: the opening of each, and who owns the rest.
struct LaneMessage {
  std::vector<std::byte> opening;
  std::array<PooledBuffer, limits::kMaxTensorsPerMessage> buffers;
};

/// Zeros between the tensors that ride behind a header: what lies there leaves too.
void fill_gaps(const MessagePlan& plan, std::span<std::byte> behind) {
  std::size_t end = 0;
  for (const MessagePlan::Tensor& tensor : plan.tensors()) {
    if (!tensor.is_inline) continue;
    std::ranges::fill(behind.subspan(end, tensor.inline_at - end), std::byte{0});
    end = tensor.inline_at + tensor.bytes;
  }
}

/// What of this path rides behind the header.
std::size_t inline_bytes_of(const MessagePlan& plan) {
  return plan.header_path == Path::kZmq ? plan.inline_bytes : 0;
}

class SocketCarrier final : public Carrier {
 public:
  explicit SocketCarrier(SocketCarrierOptions options)
      : options_(std::move(options)),
        lane_count_(options_.lanes ? options_.lanes->count() : 0),
        pool_(kCacheBytes),
        lane_openings_(lane_count_) {
    CHECK(lane_count_ < limits::kMaxDataSockets);
  }
  /// Its threads use what is destroyed before it.
  ~SocketCarrier() override { options_.lanes.reset(); }

  Result<std::unique_ptr<Loan>> claim(const MessagePlan& plan, Deadline) override {
    ASSIGN_OR_RETURN(auto buffers, take_buffers<std::byte>(plan));
    if (const std::size_t bytes = inline_bytes_of(plan); bytes > 0) {
      ASSIGN_OR_RETURN(buffers->opening, pool_.take(limits::kHeaderBytes + bytes));
      const auto behind = buffers->opening.bytes().subspan(limits::kHeaderBytes);
      fill_gaps(plan, behind);
      buffers->place_inline(plan, behind);
    }
    return std::unique_ptr<Loan>(std::move(buffers));
  }

  Status publish(Loan& loan, std::uint64_t sequence, std::span<const std::byte> header) override {
    CHECK(!sending());
    auto& ours = static_cast<Buffers<std::byte>&>(loan);
    if (ours.opening.size > 0) {
      // Right in front of what rides behind the header.
      const std::size_t front = inline_start(header.size());
      const auto frame = ours.opening.bytes().subspan(limits::kHeaderBytes - front);
      write_opening({options_.epoch, sequence}, header, frame.first(front));
      options_.socket.queue(frame, ours.opening.owner);
    } else {
      auto opening = std::make_shared<const std::vector<std::byte>>(
          encode_opening({options_.epoch, sequence}, header));
      options_.socket.queue(*opening, opening);
    }
    auto on_lanes = for_frames<const std::byte>(
        ours.buffers, [&](const PooledBuffer& buffer, std::span<const std::byte> bytes) {
          options_.socket.queue(bytes, buffer.owner);
        });
    if (on_lanes[0].empty()) return {};
    const auto owner = std::make_shared<const LaneMessage>(
        LaneMessage{encode_opening({options_.epoch, sequence}, {}), ours.buffers});
    for (std::size_t i = 0; i < lane_count_ && !on_lanes[i].empty(); ++i) {
      on_lanes[i].insert(on_lanes[i].begin(), owner->opening);
      options_.lanes->send(i, on_lanes[i], owner);
    }
    return {};
  }

  Status finish_send(Deadline deadline) override {
    for (;;) {
      const Status sent = options_.socket.flush();
      if (!sent.ok() && sent.code() != StatusCode::kBusy) return sent;
      if (sent.ok() && !lanes_sending()) return {};
      const Status waited = wait(For::kSend, deadline);
      if (waited.code() == StatusCode::kDeadlineExceeded)
        return {StatusCode::kBusy, "no room to send"};
      RETURN_IF_ERROR(waited);
    }
  }
  bool sending() const override { return options_.socket.sending() || lanes_sending(); }

  Result<std::vector<std::byte>> receive_header(std::uint64_t sequence,
                                                Deadline deadline) override {
    if (opening_.size == 0) {
      ASSIGN_OR_RETURN(opening_, pool_.take(limits::kHeaderBytes + options_.inline_room));
    }
    ASSIGN_OR_RETURN(const std::size_t size, receive_frame(opening_.bytes(), deadline));
    ASSIGN_OR_RETURN(const OpenedFrame opened,
                     decode_opening(opening_.bytes().first(size), {options_.epoch, sequence}));
    behind_header_ = opened.behind;
    return std::vector<std::byte>(opened.header.begin(), opened.header.end());
  }

  Result<std::unique_ptr<Lease>> receive_tensors(const MessagePlan& plan, std::uint64_t sequence,
                                                 Deadline deadline) override {
    if (incoming_ == nullptr) {
      ASSIGN_OR_RETURN(incoming_, take_buffers<const std::byte>(plan));
      opening_due_ = plan.header_path != Path::kZmq;
      expect_frames();
    }
    if (opening_due_) {
      ASSIGN_OR_RETURN(const auto header, receive_header(sequence, deadline));
      if (!header.empty()) {
        return Status(StatusCode::kProtocolError, "a message has a second header, on the socket");
      }
      opening_due_ = false;
    }
    RETURN_IF_ERROR(take_inline(plan));
    for (; !expected_.empty(); expected_.pop_front()) {
      const std::span<std::byte> into = expected_.front();
      ASSIGN_OR_RETURN(const std::size_t size, receive_frame(into, deadline));
      if (size != into.size()) {
        return Status(StatusCode::kProtocolError, "a tensor's frame has {} bytes, expected {}",
                      size, into.size());
      }
    }
    RETURN_IF_ERROR(await_lanes(sequence, deadline));
    return std::unique_ptr<Lease>(std::move(incoming_));
  }

  std::size_t slots_in_use() const override { return 0; }
  WaitCounters counters() const override { return {0, parks_, 0}; }

  Status check_watch() const {
    return options_.watch != nullptr ? options_.watch->check() : Status();
  }

  /// For who waits elsewhere.
  Status check_peer() { return check_peer(For::kSend); }

 private:
  enum class For { kSend, kReceive, kLanes };

  Status check_peer(For purpose) {
    Status seen = check_watch();
    if (seen.ok()) seen = check_lanes();
    if (seen.ok() && has_ended(purpose))
      seen = Status(StatusCode::kUnavailable, "the peer closed the session's data connection");
    // Who watches knows who it was and why, but perhaps a moment later than the socket does: it
    // counts when it is seen twice.
    if (!std::exchange(seemed_gone_, !seen.ok())) return {};
    return seen;
  }

  /// A connection ended that `purpose` needs. What comes of a message is needed alone: the others
  /// may have brought their part, and the peer be gone.
  bool has_ended(For purpose) const {
    if (purpose != For::kLanes && options_.socket.disconnected()) return true;
    const bool comes = purpose != For::kSend && incoming_ != nullptr;
    return lane_count_ > 0 && !comes && options_.lanes->disconnected();
  }

  /// Why a lane is over that had something to do still.
  Status check_lanes() const { return lane_count_ > 0 ? options_.lanes->check() : Status(); }
  bool lanes_sending() const { return lane_count_ > 0 && options_.lanes->sending(); }

  /// Calls `use` with each frame's part of a buffer that is on the first socket; returns the
  /// others.
  template <typename Byte, typename Use>
  LaneFrames<Byte> for_frames(
      const std::array<PooledBuffer, limits::kMaxTensorsPerMessage>& buffers,
      const Use& use) const {
    const std::size_t frame_bytes = lane_count_ > 0 ? limits::kStripeBytes : limits::kFrameBytes;
    std::size_t message_bytes = 0;
    for (const PooledBuffer& buffer : buffers) message_bytes += buffer.size;
    // What is small wakes no thread.
    const std::size_t last_turn = message_bytes <= limits::kStripeBytes ? 0 : lane_count_;
    LaneFrames<Byte> on_lanes;
    std::size_t turn = 0;
    for (const PooledBuffer& buffer : buffers) {
      const std::span<Byte> all = buffer.bytes();
      for (std::size_t at = 0; at < all.size(); at += frame_bytes) {
        const auto bytes = all.subspan(at, std::min(frame_bytes, all.size() - at));
        turn == 0 ? use(buffer, bytes) : on_lanes[turn - 1].push_back(bytes);
        turn = turn == last_turn ? 0 : turn + 1;
      }
    }
    return on_lanes;
  }

  /// Of the message that comes: where its frames go.
  void expect_frames() {
    auto on_lanes = for_frames<std::byte>(
        incoming_->buffers, [this](const PooledBuffer& /*buffer*/, std::span<std::byte> bytes) {
          expected_.push_back(bytes);
        });
    for (lanes_due_ = 0; lanes_due_ < lane_count_ && !on_lanes[lanes_due_].empty(); ++lanes_due_) {
      auto& places = on_lanes[lanes_due_];
      places.insert(places.begin(), lane_openings_[lanes_due_]);
      options_.lanes->receive(lanes_due_, places);
    }
  }

  /// Until the lanes have filled their places. Errors and deadlines as receive_tensors().
  Status await_lanes(std::uint64_t sequence, Deadline deadline) {
    if (lanes_due_ == 0) return {};
    while (options_.lanes->receiving()) RETURN_IF_ERROR(send_and_wait(For::kLanes, deadline));
    for (const auto& opening : std::span(lane_openings_).first(std::exchange(lanes_due_, 0)))
      RETURN_IF_ERROR(decode_opening(opening, {options_.epoch, sequence}).status());
    return {};
  }

  /// What is half sent goes on leaving.
  Status send_and_wait(For purpose, Deadline deadline) {
    const Status sent = options_.socket.flush();
    if (!sent.ok() && sent.code() != StatusCode::kBusy) return sent;
    return wait(purpose, deadline);
  }

  /// Gives the message that comes what rode behind its header.
  Status take_inline(const MessagePlan& plan) {
    const auto behind = std::exchange(behind_header_, {});
    if (incoming_->opening.size > 0) return {};
    if (behind.size() != inline_bytes_of(plan)) {
      return Status(StatusCode::kProtocolError,
                    "{} bytes are behind a message's header, expected {}", behind.size(),
                    inline_bytes_of(plan));
    }
    if (behind.empty()) return {};
    incoming_->opening = std::exchange(opening_, {});
    incoming_->place_inline(plan, behind);
    return {};
  }

  template <typename Byte>
  Result<std::unique_ptr<Buffers<Byte>>> take_buffers(const MessagePlan& plan) {
    auto taken = std::make_unique<Buffers<Byte>>();
    for (std::size_t i = 0; i < plan.tensor_count; ++i) {
      if (plan.planned[i].path != Path::kZmq || plan.planned[i].is_inline) continue;
      ASSIGN_OR_RETURN(taken->buffers[i], pool_.take(plan.planned[i].bytes));
      taken->places[i] = taken->buffers[i].bytes();
    }
    return taken;
  }

  /// The next frame's size. kDeadlineExceeded: none came.
  Result<std::size_t> receive_frame(std::span<std::byte> into, Deadline deadline) {
    for (;;) {
      auto received = options_.socket.receive_into(into, Deadline::now());
      const StatusCode code = received.status().code();
      // Where the connection ended, wait() finds out why.
      if (code != StatusCode::kDeadlineExceeded && code != StatusCode::kUnavailable)
        return received;
      RETURN_IF_ERROR(send_and_wait(For::kReceive, deadline));
    }
  }

  /// One slice (at most 50 ms) of a wait for room, for frames or for the lanes; it also ends when
  /// there is room for what is half sent, and with what a lane has done. ok: try again.
  /// kDeadlineExceeded: the deadline. Else: the peer is gone.
  Status wait(For purpose, Deadline deadline) {
    if (deadline.expired()) return Status(StatusCode::kDeadlineExceeded, "the deadline passed");
    ++parks_;
    const Status lanes = check_lanes();
    if (!lanes.ok() && lanes.code() != StatusCode::kUnavailable) return lanes;
    if (!lanes.ok() || (purpose != For::kLanes && options_.socket.disconnected()))
      return await_reason(purpose, deadline);
    using Wake = ZmtpSocket::Wake;
    // A socket that has ended is always ready, and takes nothing any more.
    const bool sends = options_.socket.sending() && !options_.socket.disconnected();
    Wake wake = sends ? Wake::kReadableOrWritable : Wake::kReadable;
    if (purpose != For::kReceive) wake = sends ? Wake::kWritable : Wake::kNothing;
    const int other = lane_count_ > 0 ? options_.lanes->changed().fd() : -1;
    const Status woken = options_.socket.poll(wake, deadline.slice(kSlice), other);
    // Before anybody looks what it was.
    if (lane_count_ > 0) options_.lanes->changed().clear();
    // A peer that never lets a whole slice pass is looked at all the same.
    if (woken.ok() && !next_look_.expired()) return {};
    next_look_ = Deadline::after(kSlice);
    return check_peer(purpose);
  }

  /// Nothing more will happen at the socket. ok at first, once the watch knows why or had its time:
  /// what came before may still be there to receive.
  Status await_reason(For purpose, Deadline deadline) {
    RETURN_IF_ERROR(check_peer(purpose));
    const Deadline patience = deadline.slice(kSlice);
    while (options_.watch != nullptr && options_.watch->check().ok() && !patience.expired())
      std::this_thread::sleep_for(kReasonSlice);
    return {};
  }

  SocketCarrierOptions options_;
  const std::size_t lane_count_;
  BufferPool pool_;
  bool seemed_gone_ = false;  // to the last look
  Deadline next_look_ = Deadline::after(kSlice);
  std::uint64_t parks_ = 0;

  /// The opening that comes or came last, until a message takes it; what is behind its header.
  PooledBuffer opening_;
  std::span<const std::byte> behind_header_;
  /// Of the message that comes: its buffers, and what of them is still to be filled.
  std::unique_ptr<Buffers<const std::byte>> incoming_;
  bool opening_due_ = false;
  std::deque<std::span<std::byte>> expected_;
  /// How many lanes have a part of it, the first ones; what is in front of each.
  std::size_t lanes_due_ = 0;
  std::vector<std::array<std::byte, kOpeningBytes>> lane_openings_;
};

}  // namespace

WatchedCarrier make_socket_carrier(SocketCarrierOptions options) {
  auto carrier = std::make_unique<SocketCarrier>(std::move(options));
  // What the watch says ends a wait at once: whoever waits looks once more for what came.
  WaitCheck check_peer = [peer = carrier.get()]() -> Status {
    RETURN_IF_ERROR(peer->check_watch());
    return peer->check_peer();
  };
  return {std::move(carrier), std::move(check_peer)};
}

}  // namespace airlock
