#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/check.h"
#include "gpu_server/group/link.h"

namespace airlock::testing {

/// Ranks that are threads of this process. Cables can be cut. Thread-safe.
class MemoryHub {
 public:
  explicit MemoryHub(std::size_t ranks) : over_(ranks) {}

  std::unique_ptr<GroupLink> link(std::size_t rank) { return std::make_unique<End>(*this, rank); }
  /// Nothing reaches this rank or leaves it any more, and nobody is told.
  void cut(std::size_t rank) {
    const std::lock_guard lock(mutex_);
    cut_.insert(rank);
  }
  std::size_t finished() const {
    const std::lock_guard lock(mutex_);
    return finished_;
  }

 private:
  using Ticket = GroupLink::Ticket;
  using Way = std::tuple<std::size_t, std::size_t, int>;  // from, to, tag
  struct Half {
    ByteRows rows;
    Ticket ticket = 0;
  };

  class End : public GroupLink {
   public:
    End(MemoryHub& hub, std::size_t rank) : hub_(hub), rank_(rank) {}
    ~End() override { hub_.forget(rank_); }
    std::size_t rank() const override { return rank_; }
    std::size_t ranks() const override { return hub_.over_.size(); }
    std::string host() const override { return "host" + std::to_string(rank_); }
    std::string what() const override { return "memory"; }
    Status send(std::size_t to, int tag, const ByteRows& rows, Ticket ticket) override {
      hub_.begin({rank_, to, tag}, {rows, ticket}, hub_.sends_, hub_.receives_);
      return {};
    }
    Status receive(std::size_t from, int tag, const ByteRows& rows, Ticket ticket) override {
      hub_.begin({from, rank_, tag}, {rows, ticket}, hub_.receives_, hub_.sends_);
      return {};
    }
    Status poll(std::vector<Ticket>& over) override {
      const std::lock_guard lock(hub_.mutex_);
      auto& mine = hub_.over_[rank_];
      over.insert(over.end(), mine.begin(), mine.end());
      mine.clear();
      return {};
    }
    void finish() override {
      const std::lock_guard lock(hub_.mutex_);
      ++hub_.finished_;
    }
    [[noreturn]] void abort(int) override { std::terminate(); }

   private:
    MemoryHub& hub_;
    const std::size_t rank_;
  };

  using Halves = std::map<Way, std::deque<Half>>;

  void begin(const Way& way, const Half& half, Halves& mine, Halves& theirs) {
    const std::lock_guard lock(mutex_);
    const auto [from, to, tag] = way;
    if (cut_.contains(from) || cut_.contains(to)) return;
    auto& waiting = theirs[way];
    if (waiting.empty()) {
      mine[way].push_back(half);
      return;
    }
    const Half other = waiting.front();
    waiting.pop_front();
    const bool is_send = &mine == &sends_;
    copy(is_send ? half.rows : other.rows, is_send ? other.rows : half.rows);
    over_[from].push_back(is_send ? half.ticket : other.ticket);
    over_[to].push_back(is_send ? other.ticket : half.ticket);
  }

  /// Its memory goes.
  void forget(std::size_t rank) {
    const std::lock_guard lock(mutex_);
    cut_.insert(rank);
    for (Halves* halves : {&sends_, &receives_}) {
      std::erase_if(*halves, [rank](const auto& item) {
        return std::get<0>(item.first) == rank || std::get<1>(item.first) == rank;
      });
    }
  }

  static void copy(const ByteRows& from, const ByteRows& to) {
    CHECK(to.rows == from.rows &&
          (to.width == from.width || (to.rows == 1 && to.width > from.width)));
    for (std::size_t row = 0; row < from.rows; ++row)
      std::memcpy(to.data + row * to.pitch, from.data + row * from.pitch, from.width);
  }

  mutable std::mutex mutex_;
  Halves sends_;
  Halves receives_;
  std::vector<std::vector<Ticket>> over_;  // of each rank
  std::set<std::size_t> cut_;
  std::size_t finished_ = 0;
};

}  // namespace airlock::testing
