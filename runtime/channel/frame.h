#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "proto/limits.h"

namespace airlock {

/// The bytes that a channel puts in front of an rpc header, in a slot's header area or in a ZeroMQ
/// frame; little-endian:
///
///   0        8        16            20            24                                88
///   | epoch  | seq    | header_bytes| tensor_count| tensor_bytes[8], unused are 0  | rpc header
///   ...
inline constexpr std::size_t kFramePrefixBytes = 88;
/// What is left of limits::kHeaderBytes for the rpc header (the seam's promise, a little less than
/// would fit).
inline constexpr std::size_t kMaxRpcHeaderBytes = limits::kHeaderBytes - 256;
static_assert(kFramePrefixBytes + kMaxRpcHeaderBytes <= limits::kHeaderBytes);

struct FrameHeader {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;             // of the message, in its direction; from 0
  std::vector<std::size_t> tensor_bytes;  // at most limits::kMaxTensorsPerMessage
  std::vector<std::byte> rpc_header;      // at most kMaxRpcHeaderBytes
  bool operator==(const FrameHeader&) const = default;
};

/// kInvalidInput where our own caller's sizes exceed limits.h.
Status check_tensor_sizes(std::span<const std::size_t> tensor_bytes);
/// Prefix and rpc header. The limits above are our own caller's to keep (CHECKed).
std::vector<std::byte> encode_frame(std::uint64_t epoch, std::uint64_t sequence,
                                    std::span<const std::size_t> tensor_bytes,
                                    std::span<const std::byte> rpc_header);

struct FrameExpectation {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
};
/// `bytes` is a private copy. kProtocolError unless it is exactly one frame of this epoch and
/// sequence whose sizes lie within limits.h, with nothing behind it.
Result<FrameHeader> decode_frame(std::span<const std::byte> bytes,
                                 const FrameExpectation& expected);

/// The bytes in front of each bulk tensor on the data socket; little-endian u64 each:
///
///   0             8        16       24             32      40
///   | "AIRBULK\1" | epoch  | seq    | tensor index | bytes |
inline constexpr std::size_t kBulkPreambleBytes = 40;

struct BulkPreamble {
  std::uint64_t epoch = 0;
  std::uint64_t sequence = 0;
  std::uint64_t tensor_index = 0;
  std::uint64_t tensor_bytes = 0;
  bool operator==(const BulkPreamble&) const = default;
};
std::array<std::byte, kBulkPreambleBytes> encode_preamble(const BulkPreamble& preamble);
/// kProtocolError unless `bytes` says exactly `expected`, naming the first field that differs.
Status check_preamble(std::span<const std::byte> bytes, const BulkPreamble& expected);

}  // namespace airlock
