#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "proto/handshake.h"
#include "proto/op.h"
#include "runtime/channel/zmtp_socket.h"
#include "runtime/rpc/control_connection.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"
#include "tests/torture/steps.h"

namespace airlock::torture {

/// Longer than anything a server may let a client wait: a watchdog.
inline constexpr std::chrono::seconds kPatience{30};

/// A client that goes through the protocol one step at a time and tells where it is, so that it can
/// end there. It sends signs of life only while it waits, or where send_sign() is called. One
/// thread.
class RawClient {
 public:
  using Reached = std::function<void(ClientStep)>;
  explicit RawClient(Reached reached = [](ClientStep) {}) : reached_(std::move(reached)) {}

  /// To kWelcomed.
  Status greet(const std::string& endpoint, RingChoice ring, std::uint32_t path_limit = 0);
  /// Until the server has announced a data socket; door() is its endpoint.
  Status await_door();
  /// Connects there and shows no token.
  Status knock();
  /// Maps, connects, shows the token and waits for the server's word: to kAttached.
  Status attach();
  /// Sends a request. kBusy: by the deadline it was not, or not whole.
  Status publish(const OpSpec& spec, Deadline deadline);
  /// The same, with every tensor that is large enough in the pool, the first result too, which is
  /// of the size of the first operand.
  Status publish_in_pool(const OpSpec& spec, Deadline deadline);
  /// The next reply; its places are held while it lives.
  Result<std::unique_ptr<ReceivedMessage>> receive();
  /// Those of publish_in_pool().
  void give_places_back();
  Status say_goodbye();
  Status send_sign() { return control_->send(Sign{}); }

  ControlConnection& control() { return *control_; }
  const Welcome& welcome() const { return welcome_; }
  const std::string& door() const { return door_; }
  /// The segments that came with the welcome.
  const std::vector<UniqueFd>& descriptors() const { return descriptors_; }

 private:
  /// The next one that is no sign of life.
  Result<ControlFrame> next_frame(Deadline deadline);
  Result<ControlMessage> next_message(std::vector<UniqueFd>* descriptors = nullptr);

  const Reached reached_;
  PeerLife life_;
  Endpoint endpoint_;
  std::optional<ControlConnection> control_;
  Welcome welcome_;
  std::vector<UniqueFd> descriptors_;
  std::string door_;
  UniqueFd knocking_;
  std::unique_ptr<SessionChannel> channel_;
  std::unique_ptr<Message> message_;
  std::vector<PoolBlock> blocks_;
  std::vector<PoolPlace> result_places_;
  std::uint64_t next_id_ = 1;
};

/// A [1, m, k] times b [1, k, n].
OpSpec product(std::int64_t m, std::int64_t k, std::int64_t n);

}  // namespace airlock::torture
