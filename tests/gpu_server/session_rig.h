#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <variant>
#include <vector>

#include "proto/handshake.h"
#include "runtime/channel/zmtp_socket.h"
#include "runtime/rpc/control_connection.h"
#include "runtime/stats/counters_reader.h"
#include "shm/segment.h"
#include "tests/gpu_server/server_rig.h"
#include "tests/support/reference_ops.h"

namespace airlock::testing {

inline Deadline soon() { return Deadline::after(std::chrono::seconds(60)); }

/// As it is, to the bytes.
inline void send_raw(const ControlConnection& connection, std::span<const std::byte> bytes) {
  EXPECT_EQ(::send(connection.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}
/// The next message that is no sign of life.
inline Result<ControlMessage> next_message(ControlConnection& connection) {
  const Deadline give_up = soon();
  while (!give_up.expired()) {
    ASSIGN_OR_RETURN(const auto frame, connection.receive());
    if (!frame) {
      std::this_thread::yield();
      continue;
    }
    ASSIGN_OR_RETURN(ControlMessage message, decode_control(frame->bytes));
    if (!std::holds_alternative<Sign>(message)) return message;
  }
  return Status(StatusCode::kDeadlineExceeded, "no message came");
}

/// Segments of this session that still have a name.
inline std::size_t segment_count(std::uint64_t epoch) {
  std::size_t count = 0;
  for (const SegmentDirection direction : {SegmentDirection::kRequest, SegmentDirection::kReply}) {
    const std::string name = make_segment_name(::geteuid(), epoch, direction);
    count += std::filesystem::exists("/dev/shm/" + name) ? 1 : 0;
  }
  return count;
}

class SessionTest : public ::testing::Test {
 protected:
  SessionTest() {
    options_.endpoint = "ipc://" + directory_.file("ctl");
    options_.ring.slot_count = 8;
    options_.ring.slot_bytes = 65536;
    options_.stats_json = stats_directory_.file("stats.json");
  }
  void start() { server_ = std::make_unique<RunningServer>(options_, model_); }
  ConnectOptions client_options() const {
    ConnectOptions options;
    options.endpoint = options_.endpoint;
    options.timeout = std::chrono::seconds(20);
    options.digest = model_.digest().value();
    options.dims = model_.config().dims;
    return options;
  }
  std::unique_ptr<ClientSession> connect(const ConnectOptions& options) const {
    auto session = ClientSession::connect(options);
    EXPECT_TRUE(session.ok()) << session.status().to_string();
    return session.ok() ? std::move(session).value() : nullptr;
  }
  std::unique_ptr<ClientSession> connect() const { return connect(client_options()); }
  void expect_refused(const ConnectOptions& options, StatusCode code,
                      const std::string& word) const {
    auto session = ClientSession::connect(options);
    ASSERT_FALSE(session.ok());
    EXPECT_EQ(session.status().code(), code) << session.status().to_string();
    EXPECT_NE(session.status().message().find(word), std::string::npos)
        << session.status().to_string();
  }
  /// q of `rows` random rows, compared with the reference.
  Status multiply(Backend& backend, std::int64_t rows) const {
    const Tensor x = random_tensor({DType::kF32, Shape{rows, model_.config().dims.hidden}}, 9);
    const OpSpec spec = linear_spec({{WeightKind::kQ, 0}}, x.desc(), DType::kF32);
    ASSIGN_OR_RETURN(auto pending, backend.prepare(spec, soon()));
    std::memcpy(pending->input(0).data, x.view().data, x.desc().bytes());
    RETURN_IF_ERROR(pending->submit());
    RETURN_IF_ERROR(pending->wait());
    const std::array<TensorView, 1> inputs{x.view()};
    double worst = 0;
    EXPECT_EQ(count_outside_tolerance(pending->result(0),
                                      reference_op(model_, DType::kF32, spec, inputs)[0], worst),
              0U);
    return {};
  }
  void expect_works(ClientSession& session) const {
    for (const std::int64_t rows : {1, 50, 400}) {  // the last one's tensors are larger than a slot
      const Status status = multiply(session.backend(), rows);
      EXPECT_TRUE(status.ok()) << status.to_string();
    }
  }
  nlohmann::json stop_and_read_stats() {
    EXPECT_TRUE(server_->stop().ok());
    std::ifstream file(options_.stats_json);
    return nlohmann::json::parse(file);
  }
  /// A connection that speaks for itself; the server may still be about to listen.
  ControlConnection raw_connection() const {
    const Endpoint endpoint = parse_endpoint(options_.endpoint).value();
    const Deadline give_up = soon();
    for (;;) {
      auto connection = ControlConnection::connect(endpoint, give_up);
      if (connection.ok() || give_up.expired()) return std::move(connection).value();
      std::this_thread::yield();
    }
  }

  MemoryModel model_;
  TempDir directory_;
  TempDir stats_directory_;
  ServerOptions options_;
  std::unique_ptr<RunningServer> server_;
};

}  // namespace airlock::testing
