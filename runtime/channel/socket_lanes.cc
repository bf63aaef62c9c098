#include "runtime/channel/socket_lanes.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <iterator>
#include <mutex>
#include <thread>
#include <utility>

#include "base/thread.h"

namespace airlock {
namespace {

/// Of a lane's wait. Nothing comes later for it: orders and the end set the lane's wake event, and
/// whether a silent peer still lives the session's own thread asks.
constexpr std::chrono::seconds kLongestWait{60};
/// How many frames leave before the thread looks again what else there is to do.
constexpr std::size_t kFramesARound = 4;

}  // namespace

class SocketLanes::Lane {
 public:
  Lane(ZmtpSocket socket, WakeEvent& changed) : socket_(std::move(socket)), changed_(changed) {}
  ~Lane() {
    {
      const std::lock_guard lock(mutex_);
      is_ending_ = true;
    }
    wake_.set();
    if (thread_.joinable()) thread_.join();
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  Status start() {
    RETURN_IF_ERROR(wake_.check());
    ASSIGN_OR_RETURN(thread_, start_thread("a data socket", [this] { run(); }));
    return {};
  }
  void send(const std::vector<std::span<const std::byte>>& frames,
            const std::shared_ptr<const void>& owner) {
    {
      const std::lock_guard lock(mutex_);
      for (const auto bytes : frames) to_send_.push_back({bytes, owner});
      is_sending_ = true;
    }
    wake_.set();
  }
  void receive(const std::vector<std::span<std::byte>>& places) {
    {
      const std::lock_guard lock(mutex_);
      to_fill_.insert(to_fill_.end(), places.begin(), places.end());
      is_receiving_ = true;
    }
    wake_.set();
  }
  bool sending() const {
    const std::lock_guard lock(mutex_);
    return is_sending_;
  }
  bool receiving() const {
    const std::lock_guard lock(mutex_);
    return is_receiving_;
  }
  Status check() const {
    const std::lock_guard lock(mutex_);
    return over_;
  }
  // The descriptor is there as long as this.
  bool disconnected() const {
    {
      const std::lock_guard lock(mutex_);
      if (!over_.ok() || is_receiving_) return !over_.ok();
    }
    pollfd ended{socket_.fd(), POLLRDHUP, 0};
    return ::poll(&ended, 1, 0) > 0;
  }

 private:
  struct Frame {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
  };

  // The thread's root.
  void run() {
    Status status = without_exceptions([this] { return work(); });
    {
      const std::lock_guard lock(mutex_);
      over_ = std::move(status);
    }
    changed_.set();
  }

  /// Until the end (ok), or until it is over.
  Status work() {
    while (take_orders()) {
      ASSIGN_OR_RETURN(const bool filled, fill_place());
      const Status left = send_some();
      if (!left.ok() && left.code() != StatusCode::kBusy) return left;
      report();
      const bool waits = !places_.empty();
      // Between the frames of a peer that is never idle, orders and the end are looked at too.
      if ((filled && waits) || (left.ok() && !unsent_.empty())) continue;
      using Wake = ZmtpSocket::Wake;
      // A socket that has ended is always ready, and takes nothing any more. What came before may
      // be asked for still.
      const bool sends = socket_.sending() && !socket_.disconnected();
      const Wake wake = waits ? (sends ? Wake::kReadableOrWritable : Wake::kReadable)
                              : (sends ? Wake::kWritable : Wake::kNothing);
      (void)socket_.poll(wake, Deadline::after(kLongestWait), wake_.fd());
    }
    return {};
  }

  /// False: the end.
  bool take_orders() {
    wake_.clear();
    const std::lock_guard lock(mutex_);
    std::ranges::move(std::exchange(to_send_, {}), std::back_inserter(unsent_));
    places_.insert(places_.end(), to_fill_.begin(), to_fill_.end());
    to_fill_.clear();
    return !is_ending_;
  }

  /// Whether a frame was all there, and the next one may be.
  Result<bool> fill_place() {
    if (places_.empty()) return false;
    const std::span<std::byte> place = places_.front();
    const auto size = socket_.receive_into(place, Deadline::now());
    if (size.status().code() == StatusCode::kDeadlineExceeded) return false;
    RETURN_IF_ERROR(size.status());
    if (*size != place.size()) {
      return Status(StatusCode::kProtocolError,
                    "on a further data connection: a frame of {} bytes, expected {}", *size,
                    place.size());
    }
    places_.pop_front();
    return true;
  }

  /// kBusy: the peer takes no more now.
  Status send_some() {
    if (!socket_.sending()) {
      for (std::size_t i = 0; i < kFramesARound && !unsent_.empty(); ++i) {
        socket_.queue(unsent_.front().bytes, std::move(unsent_.front().owner));
        unsent_.pop_front();
      }
    }
    return socket_.flush();
  }

  /// What is done, unless there is more of it already.
  void report() {
    bool is_news = false;
    {
      const std::lock_guard lock(mutex_);
      if (is_sending_ && to_send_.empty() && unsent_.empty() && !socket_.sending()) {
        is_sending_ = false;
        is_news = true;
      }
      if (is_receiving_ && to_fill_.empty() && places_.empty()) {
        is_receiving_ = false;
        is_news = true;
      }
    }
    if (is_news) changed_.set();
  }

  // The thread's, once it runs.
  ZmtpSocket socket_;
  std::deque<Frame> unsent_;
  std::deque<std::span<std::byte>> places_;

  WakeEvent& changed_;
  WakeEvent wake_;
  mutable std::mutex mutex_;  // of what follows
  std::vector<Frame> to_send_;
  std::vector<std::span<std::byte>> to_fill_;
  bool is_sending_ = false;
  bool is_receiving_ = false;
  bool is_ending_ = false;
  Status over_;

  std::thread thread_;
};

SocketLanes::SocketLanes() = default;
SocketLanes::~SocketLanes() = default;

Result<std::unique_ptr<SocketLanes>> SocketLanes::start(std::vector<ZmtpSocket> sockets) {
  std::unique_ptr<SocketLanes> lanes(new SocketLanes());
  RETURN_IF_ERROR(lanes->changed_.check());
  for (ZmtpSocket& socket : sockets) {
    lanes->lanes_.push_back(std::make_unique<Lane>(std::move(socket), lanes->changed_));
    RETURN_IF_ERROR(lanes->lanes_.back()->start());
  }
  return lanes;
}

void SocketLanes::send(std::size_t index, const std::vector<std::span<const std::byte>>& frames,
                       const std::shared_ptr<const void>& owner) {
  lanes_[index]->send(frames, owner);
}

void SocketLanes::receive(std::size_t index, const std::vector<std::span<std::byte>>& places) {
  lanes_[index]->receive(places);
}

bool SocketLanes::sending() const {
  return std::ranges::any_of(lanes_, [](const auto& lane) { return lane->sending(); });
}

bool SocketLanes::receiving() const {
  return std::ranges::any_of(lanes_, [](const auto& lane) { return lane->receiving(); });
}

bool SocketLanes::disconnected() const {
  return std::ranges::any_of(lanes_, [](const auto& lane) { return lane->disconnected(); });
}

Status SocketLanes::check() const {
  for (const auto& lane : lanes_) RETURN_IF_ERROR(lane->check());
  return {};
}

}  // namespace airlock
