#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "runtime/channel/socket_stream.h"
#include "tests/channel/channel_rigs.h"

namespace airlock::testing_rigs {

/// Stands between lanes and their connections: lets bytes through, holds up whoever asks for some,
/// or plays a peer that takes everything and is never done: zeros are empty frames.
struct Gate final : StreamSecurity {
  struct State {
    std::atomic<bool> is_held = false;
    std::atomic<bool> has_visitor = false;
    /// How often the connection took nothing.
    std::atomic<std::size_t> refusals = 0;
    std::atomic<bool> is_endless = false;
    /// Of the endless peer: bytes so far, and what they were when the other direction began.
    std::atomic<std::size_t> sent = 0;
    std::atomic<std::size_t> received = 0;
    std::atomic<std::size_t> sent_first = 0;
    std::atomic<std::size_t> received_first = 0;

    void pass() {
      if (!is_held) return;
      has_visitor = true;
      EXPECT_TRUE(eventually([this] { return !is_held; }));
    }
  };
  class Session final : public StreamSession {
   public:
    Session(int fd, std::shared_ptr<State> state)
        : stream_(UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0))), state_(std::move(state)) {}
    Result<std::size_t> send(std::span<const std::byte> bytes) override {
      state_->pass();
      const iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
      if (!state_->is_endless) {
        auto taken = stream_.send({&part, 1});
        if (!taken.ok()) ++state_->refusals;
        return taken;
      }
      if (state_->sent == 0) state_->received_first = state_->received.load();
      state_->sent += bytes.size();
      return bytes.size();
    }
    Result<std::size_t> receive(std::span<std::byte> into) override {
      state_->pass();
      const iovec part{into.data(), into.size()};
      if (!state_->is_endless) return stream_.receive({&part, 1});
      if (state_->received == 0) state_->sent_first = state_->sent.load();
      state_->received += into.size();
      std::ranges::fill(into, std::byte{0});
      return into.size();
    }
    Status flush() override { return {}; }
    bool sending() const override { return false; }
    Status shake_hands() override { return {}; }
    bool is_open() const override { return true; }
    short events(short events) const override { return events; }
    bool holds_bytes() const override { return false; }

   private:
    SocketStream stream_;
    const std::shared_ptr<State> state_;
  };

  Result<std::unique_ptr<StreamSession>> begin(int fd, StreamRole) const override {
    return std::unique_ptr<StreamSession>(std::make_unique<Session>(fd, state));
  }
  void hold() const {
    state->has_visitor = false;
    state->is_held = true;
  }
  bool await_visitor() const {
    return eventually([this] { return state->has_visitor.load(); });
  }
  void open() const { state->is_held = false; }
  bool await_refusals(std::size_t count) const {
    return eventually([&] { return state->refusals >= count; });
  }

  const std::shared_ptr<State> state = std::make_shared<State>();  // and the sessions'
};

}  // namespace airlock::testing_rigs
