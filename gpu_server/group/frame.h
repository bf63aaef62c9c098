#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "proto/limits.h"

namespace airlock {

/// What ranks say to each other; rank 0 leads, the others work. Tensors and texts travel beside
/// frames, with a tag of their own.
enum class FrameKind : std::uint32_t {
  kHello = 1,  // worker: who it is (RankHello)
  kLoad,       // leader: load your share
  kLoaded,     // worker: RankLoaded; lines of the digest follow
  kSign,       // both: alive
  kOp,         // leader: an op (RequestHeader), values[0] its time left in ns; inputs follow
  kCancel,     // leader: nobody wants that op's results any more
  kAnswer,     // worker: ResponseHeader, values the device's times; results follow where it is ok
  kInt8,       // leader: make int8 weights, values[0] which
  kInt8Made,   // worker: values[0] bytes of lines that follow
  kLeave,      // worker: was asked to end (SIGTERM)
  kFailed,     // worker: cannot go on; values[0] its StatusCode, the body a text
  kEcho,       // leader: send back the text of values[0] bytes that follows
  kEchoed,     // worker: it follows
  kStop,       // leader: end
  kStopped,    // worker: it ends
};

struct Frame {
  FrameKind kind = FrameKind::kSign;
  // Of an op, or of a making of int8 weights.
  std::uint64_t number = 0;
  std::array<std::uint64_t, 3> values{};
  std::vector<std::byte> body{};

  static Frame of_text(FrameKind kind, std::uint64_t value, std::string_view text);
  std::string text() const;
  /// values[0] of one that tells of a failure; kInternal where that is no code of one.
  StatusCode code() const;
};

/// So long is a frame at most.
inline constexpr std::size_t kFrameRoom = 4096;
/// CHECKs that it fits.
std::vector<std::byte> encode(const Frame& frame);
/// From a buffer of kFrameRoom bytes of which the rest is not looked at. kProtocolError.
Result<Frame> decode_frame(std::span<const std::byte, kFrameRoom> bytes);

/// What a worker says of itself before anything is loaded.
struct RankHello {
  std::string version;
  // Equal among ranks that were told to serve the same model in the same way.
  std::string identity;
  std::string host;
  std::uint64_t pid = 0;
  std::uint64_t threads = 1;
  // What the launcher lets it run on.
  std::uint64_t cpus = 1;
};
std::vector<std::byte> encode(const RankHello& hello);
Result<RankHello> decode_hello(std::span<const std::byte> bytes);

/// What a worker has, once it has loaded its share.
struct RankLoaded {
  std::string device;
  DType dtype = DType::kF32;
  std::uint64_t threads = 1;
  std::string fp64_products;
  std::uint64_t bytes = 0;  // of weights
  std::uint64_t lines_bytes = 0;
};
std::vector<std::byte> encode(const RankLoaded& loaded);
Result<RankLoaded> decode_loaded(std::span<const std::byte> bytes);

/// A text that travels beside a frame: a line a tensor of the largest model.
inline constexpr std::size_t kMaxGroupTextBytes = std::size_t{16} << 20;

}  // namespace airlock
