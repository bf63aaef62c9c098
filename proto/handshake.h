#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/status.h"
#include "proto/limits.h"
#include "proto/op.h"
#include "proto/path.h"
#include "proto/pool.h"
#include "proto/ring.h"

namespace airlock {

inline constexpr std::uint16_t kProtocolMajor = 8;
inline constexpr std::uint16_t kProtocolMinor = 0;
// All that crosses as a number, and how tensors cross, is part of the protocol: one more of them is
// another version.
static_assert(kProtocolMajor == 8 && kProtocolMinor == 0 && kCountOf<Path> == 3 &&
              kCountOf<Op> == 9 && kCountOf<DType> == 8 && kCountOf<WeightKind> == 7 &&
              kCountOf<Transpose> == 3 && kCountOf<StatusCode> == 14);

/// What a session is for, by the runner's word: the server refuses the ops that it has no use for,
/// and names it in log and statistics. What the runner hides and checks it does by itself. The
/// numbers travel on the wire and never change.
enum class Privacy : std::uint8_t {
  kPlain = 0,      // all ops in the clear
  kVerify = 1,     // linears on plain integers, checked by the runner
  kOtp = 2,        // linears on masked integers
  kOtpVerify = 3,  // both
  kOtpDealer = 4,  // both; the pads' products come from another server
  kDealer = 5,     // this is that other server: pad_linear alone
};

constexpr std::string_view name_of(Privacy privacy) {
  switch (privacy) {
    case Privacy::kPlain:
      return "plain";
    case Privacy::kVerify:
      return "verify";
    case Privacy::kOtp:
      return "otp";
    case Privacy::kOtpVerify:
      return "otp-verify";
    case Privacy::kOtpDealer:
      return "otp-dealer";
    case Privacy::kDealer:
      return "dealer";
  }
  return {};
}

/// How many data sockets a session has, in the capabilities of Hello (wanted) and of Welcome: one
/// less in their lowest three bits, so that a side that knows of none of it has one.
constexpr std::uint64_t capabilities_of(std::size_t data_sockets) { return data_sockets - 1; }
constexpr std::size_t data_sockets_in(std::uint64_t capabilities) {
  return static_cast<std::size_t>(capabilities % limits::kMaxDataSockets) + 1;
}
static_assert(limits::kMaxDataSockets == 8);

/// Messages on the control connection. Each starts with 8 bytes "AIRLOCK\0", major u16 LE, minor
/// u16 LE (so that any version can read any other's version), then kind u8 and a msgpack array.
/// Drawn in docs/PROTOCOL.md.

/// Runner to server: asks for a session.
struct Hello {
  // Name for the log, at most 64 bytes.
  std::string client;
  // kOff or kOn: never kAuto.
  RingWish ring{RingChoice::kOff};
  // Of the runner's own model, hex; empty: it has none and asks for init.
  std::string digest;
  std::uint64_t capabilities = 0;
  PoolWish pool{};
  // No tensor of so many bytes or more is to go by the ring; 0: as the server likes.
  std::uint32_t path_limit = 0;
  // A tensor of strictly fewer bytes is to ride behind its message's header; 0: none.
  std::uint32_t inline_bytes = 0;
  Privacy privacy = Privacy::kPlain;
  // kNone exactly where privacy is kPlain.
  Int8Weights int8_weights = Int8Weights::kNone;
  bool operator==(const Hello&) const = default;
};

/// Server to runner: the session.
struct Welcome {
  // Random; in every slot and opening frame of the session.
  std::uint64_t epoch = 0;
  // 32 hex digits; the first frame on the data socket, by which the server knows the runner.
  std::string token;
  bool has_ring = false;
  // Of both rings, if there are any.
  RingGeometry geometry;
  // A tensor of strictly fewer bytes may go by the ring; at most slot_bytes.
  std::uint32_t path_limit = 0;
  // The two sides find a path limit, at most that, by trying (runtime/rpc/calibration.h).
  bool calibrates = false;
  // A tensor of strictly fewer bytes rides behind its message's header; as Hello asked, or less.
  std::uint32_t inline_bytes = 0;
  // is_segment_name(), where the segments have names (tcp); empty without a ring, and where their
  // descriptors come beside this message (ipc): the request segment's first.
  std::string request_segment;
  std::string reply_segment;
  // ModelDims::is_none(): products of one's own arrays alone (gpu_server --no-model).
  ModelDims dims;
  // Hex.
  std::string digest;
  // Of the weights that the server computes with, and as the model stores them.
  DType dtype = DType::kF32;
  DType stored_dtype = DType::kF32;
  std::uint32_t threads = 1;
  // "cpu", "cuda:0 NVIDIA H100"
  std::string device;
  // Of init's first result.
  std::uint32_t config_bytes = 0;
  std::uint64_t capabilities = 0;
  // Both sides use a pool; what the session has leased of it Attached says.
  bool has_pool = false;
  // What multiplies fp64, "BLIS 0.9.0"; empty: nothing does.
  std::string fp64_products;
  bool operator==(const Welcome&) const = default;
};

/// Server to runner, instead of Welcome or of Attached.
struct Refusal {
  StatusCode code = StatusCode::kUnavailable;
  std::string message;
  bool operator==(const Refusal&) const = default;
};

/// Server to runner, after Welcome: where the session's data socket waits for the runner. May come
/// again, with another endpoint: a stranger was there first.
struct DataSocket {
  std::string endpoint;
  bool operator==(const DataSocket&) const = default;
};

/// Server to runner: the data socket has heard the token, the rings' memory is there, and the
/// session is served from here on. Refusal may come in its place.
struct Attached {
  // The session's lease; the memory of each comes beside this message. None without a pool, and
  // where it has no room.
  std::vector<PoolExtent> pool{};
  // Hex, of the int8 weights that Hello asked for (runtime/exact/int8_weights.h); else empty.
  std::string int8_digest{};
  bool operator==(const Attached&) const = default;
};

/// Either way: a sign of life.
struct Sign {
  bool operator==(const Sign&) const = default;
};

/// Either way: the session ends.
struct Goodbye {
  std::string reason;
  bool operator==(const Goodbye&) const = default;
};

/// The index of an alternative plus one is its kind on the wire.
using ControlMessage = std::variant<Hello, Welcome, Refusal, Sign, Goodbye, DataSocket, Attached>;

std::vector<std::byte> encode_control(const ControlMessage& message);
/// kVersionMismatch, naming both versions, where the major differs; kProtocolError for anything
/// else that is wrong.
Result<ControlMessage> decode_control(std::span<const std::byte> bytes);

}  // namespace airlock
