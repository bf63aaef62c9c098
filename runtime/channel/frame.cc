#include "runtime/channel/frame.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace airlock {
namespace {

constexpr std::string_view kMagic{"AIRBULK\1", 8};

void put(std::byte* at, std::uint64_t value, std::size_t byte_count) {
  for (std::size_t i = 0; i < byte_count; ++i) {
    at[i] = static_cast<std::byte>((value >> (8 * i)) & 0xff);
  }
}

std::uint64_t get(const std::byte* at, std::size_t byte_count) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < byte_count; ++i) {
    value |= std::to_integer<std::uint64_t>(at[i]) << (8 * i);
  }
  return value;
}

Status wrong(std::string_view what, std::uint64_t got, std::uint64_t expected) {
  return Status(StatusCode::kProtocolError,
                fmt::format("a message's {} is {}, expected {}", what, got, expected));
}

Status check_sizes(std::span<const std::byte> bytes, std::size_t tensor_count,
                   std::vector<std::size_t>& tensor_bytes) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < limits::kMaxTensorsPerMessage; ++i) {
    const std::uint64_t size = get(bytes.data() + 24 + 8 * i, 8);
    if (i >= tensor_count) {
      if (size != 0) return wrong("unused tensor size", size, 0);
      continue;
    }
    if (size > limits::kMaxTensorBytes) {
      return Status(StatusCode::kProtocolError,
                    fmt::format("tensor {} of a message claims {} bytes, more than {}", i, size,
                                limits::kMaxTensorBytes));
    }
    total += size;  // at most 8 * 4 GiB: no overflow
    tensor_bytes.push_back(static_cast<std::size_t>(size));
  }
  if (total > limits::kMaxMessageBytes) {
    return Status(StatusCode::kProtocolError,
                  fmt::format("a message claims {} bytes of tensors, more than {}", total,
                              limits::kMaxMessageBytes));
  }
  return {};
}

}  // namespace

Status check_tensor_sizes(std::span<const std::size_t> tensor_bytes) {
  if (tensor_bytes.size() > limits::kMaxTensorsPerMessage) {
    return Status(StatusCode::kInvalidInput,
                  fmt::format("a message of {} tensors, more than {}", tensor_bytes.size(),
                              limits::kMaxTensorsPerMessage));
  }
  std::size_t total = 0;
  for (const std::size_t size : tensor_bytes) {
    if (size > limits::kMaxTensorBytes || total + size > limits::kMaxMessageBytes) {
      return Status(StatusCode::kInvalidInput,
                    fmt::format("a tensor of {} bytes takes a message over its limits of {} bytes "
                                "each and {} in all",
                                size, limits::kMaxTensorBytes, limits::kMaxMessageBytes));
    }
    total += size;
  }
  return {};
}

std::vector<std::byte> encode_frame(std::uint64_t epoch, std::uint64_t sequence,
                                    std::span<const std::size_t> tensor_bytes,
                                    std::span<const std::byte> rpc_header) {
  CHECK(tensor_bytes.size() <= limits::kMaxTensorsPerMessage);
  CHECK(rpc_header.size() <= kMaxRpcHeaderBytes);
  std::vector<std::byte> out(kFramePrefixBytes + rpc_header.size());
  put(out.data(), epoch, 8);
  put(out.data() + 8, sequence, 8);
  put(out.data() + 16, rpc_header.size(), 4);
  put(out.data() + 20, tensor_bytes.size(), 4);
  for (std::size_t i = 0; i < tensor_bytes.size(); ++i) {
    put(out.data() + 24 + 8 * i, tensor_bytes[i], 8);
  }
  std::copy(rpc_header.begin(), rpc_header.end(), out.begin() + kFramePrefixBytes);
  return out;
}

Result<FrameHeader> decode_frame(std::span<const std::byte> bytes,
                                 const FrameExpectation& expected) {
  if (bytes.size() < kFramePrefixBytes || bytes.size() > limits::kHeaderBytes) {
    return Status(StatusCode::kProtocolError,
                  fmt::format("a message's header has {} bytes, expected {} to {}", bytes.size(),
                              kFramePrefixBytes, limits::kHeaderBytes));
  }
  FrameHeader frame;
  frame.epoch = get(bytes.data(), 8);
  frame.sequence = get(bytes.data() + 8, 8);
  if (frame.epoch != expected.epoch) {
    // The right epoch is no business of a peer that guessed: it is not named.
    return Status(StatusCode::kProtocolError, "a message of another session's epoch");
  }
  if (frame.sequence != expected.sequence) {
    return wrong("sequence", frame.sequence, expected.sequence);
  }
  const std::uint64_t header_bytes = get(bytes.data() + 16, 4);
  const std::uint64_t tensor_count = get(bytes.data() + 20, 4);
  const std::size_t room = bytes.size() - kFramePrefixBytes;
  if (header_bytes > kMaxRpcHeaderBytes || header_bytes != room) {
    return wrong("rpc header size", header_bytes, room);
  }
  if (tensor_count > limits::kMaxTensorsPerMessage) {
    return Status(StatusCode::kProtocolError,
                  fmt::format("a message claims {} tensors, more than {}", tensor_count,
                              limits::kMaxTensorsPerMessage));
  }
  RETURN_IF_ERROR(check_sizes(bytes, static_cast<std::size_t>(tensor_count), frame.tensor_bytes));
  const auto rpc = bytes.subspan(kFramePrefixBytes, static_cast<std::size_t>(header_bytes));
  frame.rpc_header.assign(rpc.begin(), rpc.end());
  return frame;
}

std::array<std::byte, kBulkPreambleBytes> encode_preamble(const BulkPreamble& preamble) {
  std::array<std::byte, kBulkPreambleBytes> out{};
  for (std::size_t i = 0; i < kMagic.size(); ++i) out[i] = static_cast<std::byte>(kMagic[i]);
  put(out.data() + 8, preamble.epoch, 8);
  put(out.data() + 16, preamble.sequence, 8);
  put(out.data() + 24, preamble.tensor_index, 8);
  put(out.data() + 32, preamble.tensor_bytes, 8);
  return out;
}

Status check_preamble(std::span<const std::byte> bytes, const BulkPreamble& expected) {
  if (bytes.size() != kBulkPreambleBytes) {
    return wrong("bulk preamble size", bytes.size(), kBulkPreambleBytes);
  }
  for (std::size_t i = 0; i < kMagic.size(); ++i) {
    if (bytes[i] != static_cast<std::byte>(kMagic[i])) {
      return Status(StatusCode::kProtocolError, "a bulk preamble without its magic");
    }
  }
  if (get(bytes.data() + 8, 8) != expected.epoch) {
    return Status(StatusCode::kProtocolError, "a bulk tensor of another session's epoch");
  }
  const std::uint64_t sequence = get(bytes.data() + 16, 8);
  const std::uint64_t index = get(bytes.data() + 24, 8);
  const std::uint64_t size = get(bytes.data() + 32, 8);
  if (sequence != expected.sequence) return wrong("bulk sequence", sequence, expected.sequence);
  if (index != expected.tensor_index) return wrong("bulk index", index, expected.tensor_index);
  if (size != expected.tensor_bytes) return wrong("bulk size", size, expected.tensor_bytes);
  return {};
}

}  // namespace airlock
