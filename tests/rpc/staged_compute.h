#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "proto/message.h"
#include "runtime/channel/channel.h"
#include "runtime/compute.h"

namespace airlock::testing_rigs {

/// What happened, in order. Thread-safe.
class Events {
 public:
  void add(std::string what) {
    const std::lock_guard lock(mutex_);
    all_.push_back(std::move(what));
    changed_.notify_all();
  }
  /// Whether `what` was added within a minute.
  bool wait_for(const std::string& what) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1),
                             [&] { return std::ranges::find(all_, what) != all_.end(); });
  }
  bool has(const std::string& what) {
    const std::lock_guard lock(mutex_);
    return std::ranges::find(all_, what) != all_.end();
  }
  std::vector<std::string> all() {
    const std::lock_guard lock(mutex_);
    return all_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> all_;
};

/// How an op of a StagedCompute ends.
struct StagedEnd {
  Status status = {};
  OpTimes times = {};
};

/// Ends ops when the test says so. Its ops are numbered from 1 as they are prepared; an op's
/// result is its first input's first byte, over and over. An op touches its operands until it is
/// destroyed, as a device's copies may. One thread serves, another one says finish().
class StagedCompute : public Compute {
 public:
  StagedCompute(BackendInfo info, Events& events) : info_(std::move(info)), events_(events) {}

  /// Op `number` is done from now on, whether it was begun or not.
  void finish(int number, StagedEnd end = {}) {
    const std::lock_guard lock(mutex_);
    ends_[number] = std::move(end);
    changed_.notify_all();
  }
  /// Op `number` does not even begin.
  void refuse_prepare(int number, Status status) { prepare_refusals_[number] = std::move(status); }
  void refuse_submit(int number, Status status) { submit_refusals_[number] = std::move(status); }
  /// The most ops that ever lived at once. After the serving thread was joined.
  int most_at_once() const { return most_; }

  const BackendInfo& info() const override { return info_; }
  Result<std::unique_ptr<Computation>> prepare(const OpSpec&, OpMemory memory,
                                               const OpLife& life) override {
    const int number = ++prepared_;
    if (prepare_refusals_.contains(number)) return prepare_refusals_[number];
    most_ = std::max(most_, ++alive_);
    return std::unique_ptr<Computation>(
        std::make_unique<StagedComputation>(*this, number, std::move(memory), life.deadline));
  }

 private:
  class StagedComputation : public Computation {
   public:
    StagedComputation(StagedCompute& compute, int number, OpMemory memory, Deadline deadline)
        : compute_(compute), number_(number), memory_(std::move(memory)), deadline_(deadline) {}
    ~StagedComputation() override {
      copy();
      --compute_.alive_;
      compute_.events_.add("op " + std::to_string(number_) + " gone");
    }
    Status submit() override {
      if (compute_.submit_refusals_.contains(number_)) return compute_.submit_refusals_[number_];
      compute_.events_.add("op " + std::to_string(number_) + " begun");
      return {};
    }
    bool done() override {
      const std::lock_guard lock(compute_.mutex_);
      return compute_.ends_.contains(number_);
    }
    Status wait() override {
      std::unique_lock lock(compute_.mutex_);
      const bool ended = compute_.changed_.wait_for(
          lock, deadline_.remaining(), [this] { return compute_.ends_.contains(number_); });
      if (!ended) return {StatusCode::kDeadlineExceeded, "the op did not end in time"};
      copy();
      return compute_.ends_[number_].status;
    }
    OpTimes times() const override {
      const std::lock_guard lock(compute_.mutex_);
      return compute_.ends_[number_].times;
    }

   private:
    void copy() {
      const int value = static_cast<int>(memory_.inputs[0].data[0]);
      for (const MutableTensorView& result : memory_.results)
        std::memset(result.data, value, result.desc.bytes());
    }

    StagedCompute& compute_;
    const int number_;
    const OpMemory memory_;
    const Deadline deadline_;
  };

  const BackendInfo info_;
  Events& events_;
  std::map<int, Status> prepare_refusals_;  // set before the first op
  std::map<int, Status> submit_refusals_;   // set before the first op
  int prepared_ = 0;                        // this and the next two: the serving thread's
  int alive_ = 0;
  int most_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int, StagedEnd> ends_;
};

/// A server's end of a channel that writes down what is done with its messages: requests are
/// numbered from 1, replies named by their request's id. One thread, as its inner channel.
class LoggedChannel : public Channel {
 public:
  LoggedChannel(std::unique_ptr<Channel> inner, Events& events)
      : inner_(std::move(inner)), events_(events) {}

  /// Loan `number`, from 1, is not given. Before the first.
  void refuse_prepare(int number, Status status) { refusals_[number] = std::move(status); }

  using Channel::receive;
  Result<std::unique_ptr<Message>> claim(const MessagePlan& plan, Deadline deadline) override {
    if (refusals_.contains(++prepared_)) return refusals_[prepared_];
    auto message = inner_->claim(plan, deadline);
    if (!message.ok()) {
      events_.add("no room");
      return message;
    }
    return std::unique_ptr<Message>(
        std::make_unique<Loan>(std::move(message).value(), ++loans_, events_));
  }
  Status send(Message& message, std::span<const std::byte> header, Deadline deadline) override {
    auto& loan = static_cast<Loan&>(message);
    events_.add("reply " + std::to_string(decode_response(header)->request_id));
    loan.sent = true;
    return inner_->send(*loan.inner, header, deadline);
  }
  Result<std::unique_ptr<ReceivedMessage>> receive(const AcceptPlan& accept,
                                                   Deadline deadline) override {
    if (deadline.remaining() == std::chrono::nanoseconds(0)) ++polls_;
    ASSIGN_OR_RETURN(auto message, inner_->receive(accept, deadline));
    events_.add("request " + std::to_string(++requests_));
    return std::unique_ptr<ReceivedMessage>(
        std::make_unique<Lease>(std::move(message), requests_, events_));
  }
  const PathPolicy& policy() const override { return inner_->policy(); }
  void agree(std::size_t limit_bytes) override { inner_->agree(limit_bytes); }
  std::size_t slots_in_use() const override { return inner_->slots_in_use(); }
  TransportStats& stats() override { return inner_->stats(); }
  /// How often receive() was not to wait. After the serving thread was joined.
  int polls() const { return polls_; }

 private:
  struct Loan : Message {
    Loan(std::unique_ptr<Message> message, int number, Events& events)
        : inner(std::move(message)), number_(number), events_(events) {}
    ~Loan() override {
      if (!sent) events_.add("loan " + std::to_string(number_) + " gone");
    }
    const MessagePlan& plan() const override { return inner->plan(); }
    std::span<std::byte> tensor(std::size_t index) override { return inner->tensor(index); }
    bool published() const override { return inner->published(); }

    const std::unique_ptr<Message> inner;
    bool sent = false;

   private:
    const int number_;
    Events& events_;
  };
  class Lease : public ReceivedMessage {
   public:
    Lease(std::unique_ptr<ReceivedMessage> message, int number, Events& events)
        : inner_(std::move(message)), number_(number), events_(events) {}
    ~Lease() override { events_.add("lease " + std::to_string(number_) + " gone"); }
    const MessagePlan& plan() const override { return inner_->plan(); }
    std::span<const std::byte> header() const override { return inner_->header(); }
    std::span<const std::byte> tensor(std::size_t index) const override {
      return inner_->tensor(index);
    }

   private:
    const std::unique_ptr<ReceivedMessage> inner_;
    const int number_;
    Events& events_;
  };

  const std::unique_ptr<Channel> inner_;
  Events& events_;
  std::map<int, Status> refusals_;
  int prepared_ = 0;
  int loans_ = 0;
  int requests_ = 0;
  int polls_ = 0;
};

}  // namespace airlock::testing_rigs
