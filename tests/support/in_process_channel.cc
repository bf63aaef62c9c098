#include "tests/support/in_process_channel.h"

#include <fmt/format.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/tensor.h"
#include "runtime/channel/routed_channel.h"

namespace airlock {
namespace {

/// What one path carries of one message.
struct Parcel {
  std::uint64_t sequence = 0;
  std::vector<std::byte> header;
  std::vector<Tensor> tensors;
};

/// One direction of one path. Shared by both ends (shared_ptr: they end in any order).
struct Lane {
  explicit Lane(std::size_t most) : limit_count(most) {}

  /// Waits until it is closed or `ready`. False: the deadline. Clocks that lie before every time
  /// point are not passed to the library.
  template <typename Ready>
  bool wait(std::unique_lock<std::mutex>& lock, Deadline deadline, std::uint64_t& waits,
            const Ready& ready) {
    const auto over = [&] { return closed || ready(); };
    if (over()) return true;
    ++waits;
    return changed.wait_until(lock, Clock::now() + deadline.remaining(), over);
  }

  const std::size_t limit_count;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Parcel> parcels;
  std::size_t prepared_count = 0;
  bool closed = false;
};

Status peer_gone() {
  return Status(StatusCode::kUnavailable, "the other end of the channel is gone");
}

struct InProcessLoan final : Loan {
  explicit InProcessLoan(std::shared_ptr<Lane> to) : lane(std::move(to)) {}
  ~InProcessLoan() override {
    const std::lock_guard lock(lane->mutex);
    if (!published) --lane->prepared_count;
    lane->changed.notify_all();
  }
  const std::shared_ptr<Lane> lane;
  Parcel parcel;
  bool published = false;
};

struct InProcessLease final : Lease {
  std::vector<Tensor> tensors;
};

class InProcessCarrier final : public Carrier {
 public:
  InProcessCarrier(Path path, std::shared_ptr<Lane> out, std::shared_ptr<Lane> in)
      : path_(path), out_(std::move(out)), in_(std::move(in)) {}
  ~InProcessCarrier() override {
    for (Lane* lane : {out_.get(), in_.get()}) {
      const std::lock_guard lock(lane->mutex);
      lane->closed = true;
      lane->changed.notify_all();
    }
  }

  Result<std::unique_ptr<Loan>> claim(const MessagePlan& plan, Deadline deadline) override {
    {
      std::unique_lock lock(out_->mutex);
      const auto has_room = [this] {
        return out_->parcels.size() + out_->prepared_count < out_->limit_count;
      };
      if (!out_->wait(lock, deadline, counters_.slot_waits, has_room)) {
        return Status(StatusCode::kBusy, "the other end is slow: no room for a message");
      }
      if (out_->closed) return peer_gone();
      ++out_->prepared_count;
    }
    auto loan = std::make_unique<InProcessLoan>(out_);
    for (std::size_t i = 0; i < plan.tensor_count; ++i) {
      if (plan.planned[i].path != path_) continue;
      const Shape shape{static_cast<std::int64_t>(plan.planned[i].bytes)};
      Tensor& tensor = loan->parcel.tensors.emplace_back(TensorDesc{DType::kU8, shape});
      loan->places[i] = tensor.mutable_view().bytes();
    }
    return std::unique_ptr<Loan>(std::move(loan));
  }

  Status publish(Loan& loan, std::uint64_t sequence, std::span<const std::byte> header) override {
    auto& ours = static_cast<InProcessLoan&>(loan);
    ours.parcel.sequence = sequence;
    ours.parcel.header.assign(header.begin(), header.end());
    const std::lock_guard lock(out_->mutex);
    ours.published = true;
    --out_->prepared_count;
    out_->parcels.push_back(std::move(ours.parcel));
    out_->changed.notify_all();
    return {};
  }
  Status finish_send(Deadline) override { return {}; }
  bool sending() const override { return false; }

  Result<std::vector<std::byte>> receive_header(std::uint64_t, Deadline deadline) override {
    std::unique_lock lock(in_->mutex);
    if (!in_->wait(lock, deadline, counters_.parks, [this] { return !in_->parcels.empty(); })) {
      return Status(StatusCode::kDeadlineExceeded, "no message came");
    }
    if (in_->parcels.empty()) return peer_gone();
    arrived_ = std::move(in_->parcels.front());
    in_->parcels.pop_front();
    in_->changed.notify_all();
    return std::move(arrived_->header);
  }

  Result<std::unique_ptr<Lease>> receive_tensors(const MessagePlan& plan, std::uint64_t sequence,
                                                 Deadline deadline) override {
    if (!arrived_) RETURN_IF_ERROR(receive_header(sequence, deadline).status());
    const auto wrong = [](std::string text) {
      return Status(StatusCode::kProtocolError, std::move(text));
    };
    if (arrived_->sequence != sequence) return wrong("a message's tensors are another's");
    auto lease = std::make_unique<InProcessLease>();
    lease->tensors = std::move(arrived_->tensors);
    arrived_.reset();
    std::size_t next = 0;
    for (std::size_t i = 0; i < plan.tensor_count; ++i) {
      if (plan.planned[i].path != path_) continue;
      if (next == lease->tensors.size()) return wrong("a message lacks a tensor");
      lease->places[i] = lease->tensors[next++].view().bytes();
      if (lease->places[i].size() != plan.planned[i].bytes) {
        return wrong(fmt::format("tensor {} has {} bytes, expected {}", i, lease->places[i].size(),
                                 plan.planned[i].bytes));
      }
    }
    if (next != lease->tensors.size()) return wrong("a message has more tensors than its header");
    return std::unique_ptr<Lease>(std::move(lease));
  }

  std::size_t slots_in_use() const override { return 0; }
  WaitCounters counters() const override { return counters_; }

 private:
  const Path path_;
  const std::shared_ptr<Lane> out_;
  const std::shared_ptr<Lane> in_;
  std::optional<Parcel> arrived_;
  WaitCounters counters_;
};

}  // namespace

std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>> make_in_process_pair(
    const PathPolicy& policy) {
  RoutedChannelOptions one{policy, {}, {nullptr}};
  RoutedChannelOptions other{policy, {}, {nullptr}};
  const std::size_t limit = policy.has_ring ? policy.slot_count : limits::kMaxRequestsUnderWay;
  for (const Path path : kPaths) {
    if (path == Path::kRing && !policy.has_ring) continue;
    if (path == Path::kPool) continue;
    const auto forth = std::make_shared<Lane>(limit);
    const auto back = std::make_shared<Lane>(limit);
    one.carriers[path] = std::make_unique<InProcessCarrier>(path, forth, back);
    other.carriers[path] = std::make_unique<InProcessCarrier>(path, back, forth);
  }
  return {make_routed_channel(std::move(one)), make_routed_channel(std::move(other))};
}

}  // namespace airlock
