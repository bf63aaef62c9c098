#include "runtime/channel/in_process_channel.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include "base/tensor.h"
#include "proto/limits.h"
#include "runtime/channel/frame.h"
#include "runtime/channel/poison.h"

namespace airlock {
namespace {

struct Parcel {
  std::vector<std::byte> header;
  std::vector<std::size_t> tensor_bytes;
  std::vector<Tensor> tensors;
};

/// One direction. Shared by both ends (shared_ptr: they end in any order).
struct Lane {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Parcel> parcels;
  std::size_t prepared_count = 0;
  std::size_t limit_count = 0;
  bool closed = false;
};

Status peer_gone() {
  return Status(StatusCode::kUnavailable, "the other end of the channel is gone");
}

/// wait_until() with a Deadline; clocks that lie before every time point are not passed to the
/// library.
template <typename Ready>
bool wait_for(Lane& lane, std::unique_lock<std::mutex>& lock, Deadline deadline, Ready ready) {
  return lane.changed.wait_until(lock, Clock::now() + deadline.remaining(), ready);
}

class InProcessMessage final : public Message {
 public:
  InProcessMessage(std::shared_ptr<Lane> lane, Parcel parcel)
      : lane_(std::move(lane)), parcel_(std::move(parcel)) {}
  ~InProcessMessage() override {
    const std::lock_guard lock(lane_->mutex);
    if (!sent_) --lane_->prepared_count;
    lane_->changed.notify_all();
  }

  std::span<std::byte> tensor(std::size_t index) override {
    return parcel_.tensors[index].mutable_view().bytes();
  }
  void send(std::span<const std::byte> header) {
    parcel_.header.assign(header.begin(), header.end());
    const std::lock_guard lock(lane_->mutex);
    sent_ = true;
    --lane_->prepared_count;
    lane_->parcels.push_back(std::move(parcel_));
    lane_->changed.notify_all();
  }
  bool sent() const { return sent_; }
  const std::vector<std::size_t>& tensor_bytes() const { return parcel_.tensor_bytes; }

 private:
  std::shared_ptr<Lane> lane_;
  Parcel parcel_;
  bool sent_ = false;
};

class InProcessReceived final : public ReceivedMessage {
 public:
  explicit InProcessReceived(Parcel parcel) : parcel_(std::move(parcel)) {}
  std::span<const std::byte> header() const override { return parcel_.header; }
  std::size_t tensor_count() const override { return parcel_.tensors.size(); }
  std::span<const std::byte> tensor(std::size_t index) const override {
    return parcel_.tensors[index].view().bytes();
  }

 private:
  Parcel parcel_;
};

class InProcessChannel final : public Channel {
 public:
  InProcessChannel(const PathPolicy& policy, std::shared_ptr<Lane> out, std::shared_ptr<Lane> in)
      : policy_(policy), out_(std::move(out)), in_(std::move(in)) {}
  ~InProcessChannel() override {
    for (Lane* lane : {out_.get(), in_.get()}) {
      const std::lock_guard lock(lane->mutex);
      lane->closed = true;
      lane->changed.notify_all();
    }
  }

  Result<std::unique_ptr<Message>> prepare(std::span<const std::size_t> tensor_bytes,
                                           Deadline deadline) override;
  Status send(Message& message, std::span<const std::byte> header, Deadline deadline) override;
  Result<std::unique_ptr<ReceivedMessage>> receive(const Accept& accept,
                                                   Deadline deadline) override;
  const PathPolicy& policy() const override { return policy_; }
  std::size_t slots_in_use() const override { return 0; }
  TransportStats& stats() override { return stats_; }

 private:
  PathStats& main_path() { return stats_[header_path(policy_)]; }
  Status poison(Status status) { return poison_.set(std::move(status), main_path()); }

  const PathPolicy policy_;
  TransportStats stats_;
  Poison poison_;
  std::shared_ptr<Lane> out_;
  std::shared_ptr<Lane> in_;
};

Result<std::unique_ptr<Message>> InProcessChannel::prepare(
    std::span<const std::size_t> tensor_bytes, Deadline deadline) {
  RETURN_IF_ERROR(poison_.status());
  RETURN_IF_ERROR(check_tensor_sizes(tensor_bytes));
  Parcel parcel;
  for (const std::size_t size : tensor_bytes) {
    parcel.tensor_bytes.push_back(size);
    parcel.tensors.emplace_back(TensorDesc{DType::kU8, Shape{static_cast<std::int64_t>(size)}});
  }
  std::unique_lock lock(out_->mutex);
  const auto has_room = [this] {
    return out_->closed || out_->parcels.size() + out_->prepared_count < out_->limit_count;
  };
  if (!has_room()) {
    main_path().slot_waits.fetch_add(1, std::memory_order_relaxed);
    if (!wait_for(*out_, lock, deadline, has_room)) {
      return Status(StatusCode::kResourceExhausted, "the other end is slow: no room for a message");
    }
  }
  if (out_->closed) return poison(peer_gone());
  ++out_->prepared_count;
  return std::unique_ptr<Message>(std::make_unique<InProcessMessage>(out_, std::move(parcel)));
}

Status InProcessChannel::send(Message& message, std::span<const std::byte> header, Deadline) {
  RETURN_IF_ERROR(poison_.status());
  CHECK(header.size() <= kMaxRpcHeaderBytes);
  auto& ours = static_cast<InProcessMessage&>(message);  // every Message of this channel is one
  if (ours.sent()) return {};
  const std::vector<std::size_t> tensor_bytes = ours.tensor_bytes();
  ours.send(header);
  stats_.book_sent(header_path(policy_), choose_paths(policy_, tensor_bytes), tensor_bytes);
  return {};
}

Result<std::unique_ptr<ReceivedMessage>> InProcessChannel::receive(const Accept& accept,
                                                                   Deadline deadline) {
  RETURN_IF_ERROR(poison_.status());
  Parcel parcel;
  {
    std::unique_lock lock(in_->mutex);
    const auto ready = [this] { return in_->closed || !in_->parcels.empty(); };
    if (!ready()) main_path().parks.fetch_add(1, std::memory_order_relaxed);
    if (!wait_for(*in_, lock, deadline, ready)) {
      return Status(StatusCode::kDeadlineExceeded, "no message came");
    }
    if (in_->parcels.empty()) return poison(peer_gone());
    parcel = std::move(in_->parcels.front());
    in_->parcels.pop_front();
    in_->changed.notify_all();
  }
  if (Status accepted = accept(parcel.header, parcel.tensor_bytes); !accepted.ok()) {
    return poison(std::move(accepted));
  }
  stats_.book_received(header_path(policy_), choose_paths(policy_, parcel.tensor_bytes),
                       parcel.tensor_bytes);
  return std::unique_ptr<ReceivedMessage>(std::make_unique<InProcessReceived>(std::move(parcel)));
}

}  // namespace

std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>> make_in_process_pair(
    const PathPolicy& policy) {
  const auto make_lane = [&policy] {
    auto lane = std::make_shared<Lane>();
    lane->limit_count = policy.has_ring ? policy.slot_count : limits::kMaxRequestsUnderWay;
    return lane;
  };
  const auto forth = make_lane();
  const auto back = make_lane();
  return {std::make_unique<InProcessChannel>(policy, forth, back),
          std::make_unique<InProcessChannel>(policy, back, forth)};
}

}  // namespace airlock
