#include "runtime/channel/bulk_transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace airlock {
namespace {

constexpr std::chrono::milliseconds kSlice{50};
/// A ROUTER cannot be asked whether there is room for one peer: it looks again after this.
constexpr std::chrono::milliseconds kRouterRetry{1};
/// Below this a frame is copied into libzmq: cheaper than lending it.
constexpr std::size_t kLendBytes = 16384;

}  // namespace

Result<std::vector<BulkTensor>> take_buffers(BufferPool& pool,
                                             std::span<const std::size_t> tensor_bytes,
                                             std::span<const Path> paths) {
  std::vector<BulkTensor> tensors;
  for (std::size_t i = 0; i < tensor_bytes.size(); ++i) {
    if (paths[i] != Path::kZmq) continue;
    ASSIGN_OR_RETURN(PooledBuffer buffer, pool.take(tensor_bytes[i]));
    tensors.push_back({i, std::move(buffer)});
  }
  return tensors;
}

BulkTransfer::BulkTransfer(BulkTransferOptions options)
    : socket_(std::move(options.socket)),
      peer_route_(std::move(options.peer_route)),
      epoch_(options.epoch),
      policy_(options.policy),
      watch_(options.watch),
      stats_(*options.stats),
      heard_(options.attached) {}

void BulkTransfer::start_send(OutgoingMessage message) {
  CHECK(!sending_);
  sending_ = true;
  outgoing_tensor_bytes_ = std::move(message.tensor_bytes);
  const auto push_small = [this](auto bytes) {
    auto owned = std::make_shared<const decltype(bytes)>(std::move(bytes));
    outgoing_.push_back({owned, std::span<const std::byte>(*owned)});
  };
  if (!message.header_frame.empty()) push_small(std::move(message.header_frame));
  for (const BulkTensor& tensor : message.tensors) {
    const std::span<const std::byte> bytes = tensor.buffer.bytes();
    push_small(encode_preamble({epoch_, message.sequence, tensor.index, bytes.size()}));
    for (std::size_t at = 0; at < bytes.size(); at += limits::kFrameBytes) {
      const std::size_t size = std::min(limits::kFrameBytes, bytes.size() - at);
      outgoing_.push_back({tensor.buffer.owner(), bytes.subspan(at, size)});
    }
  }
}

Status BulkTransfer::send_frame(const OutgoingFrame& frame) {
  if (frame.bytes.size() >= kLendBytes) {
    return socket_.send_shared(peer_route_, frame.bytes, frame.owner, Deadline::now());
  }
  std::array<std::span<const std::byte>, 2> parts;
  std::size_t count = 0;
  if (!peer_route_.empty()) {
    parts[count++] = std::as_bytes(std::span<const char>(peer_route_.data(), peer_route_.size()));
  }
  parts[count++] = frame.bytes;
  return socket_.send({parts.data(), count}, Deadline::now());
}

Status BulkTransfer::advance_send() {
  while (!outgoing_.empty()) {
    const Status sent = send_frame(outgoing_.front());
    if (!sent.ok()) {
      // The runner may not have connected yet; whether it ever will is the watch's to say.
      if (sent.code() == StatusCode::kUnavailable && !heard_) {
        return Status(StatusCode::kResourceExhausted, "the peer has not connected yet");
      }
      return sent;
    }
    heard_ = true;
    outgoing_.pop_front();
  }
  if (sending_) {
    sending_ = false;
    const std::vector<Path> paths = choose_paths(policy_, outgoing_tensor_bytes_);
    stats_.book_sent(header_path(policy_), paths, outgoing_tensor_bytes_);
  }
  return {};
}

Status BulkTransfer::finish_send(Deadline deadline) {
  for (;;) {
    Status sent = advance_send();
    if (sent.code() != StatusCode::kResourceExhausted) return sent;
    const Status waited = wait(For::kSend, deadline);
    if (waited.code() == StatusCode::kDeadlineExceeded) return sent;
    RETURN_IF_ERROR(waited);
  }
}

Result<std::size_t> BulkTransfer::try_receive_frame(std::span<std::byte> into) {
  auto received = socket_.receive_into(peer_route_, into, Deadline::now());
  if (received.ok()) heard_ = true;
  return received;
}

void BulkTransfer::start_receive(std::uint64_t sequence, std::vector<BulkTensor> tensors) {
  CHECK(expected_.empty());
  incoming_ = std::move(tensors);
  for (const BulkTensor& tensor : incoming_) {
    const std::span<std::byte> bytes = tensor.buffer.bytes();
    expected_.push_back({{}, {epoch_, sequence, tensor.index, bytes.size()}});
    for (std::size_t at = 0; at < bytes.size(); at += limits::kFrameBytes) {
      const std::size_t size = std::min(limits::kFrameBytes, bytes.size() - at);
      expected_.push_back({bytes.subspan(at, size), {}});
    }
  }
}

Status BulkTransfer::advance_receive() {
  while (!expected_.empty()) {
    const ExpectedFrame& next = expected_.front();
    std::array<std::byte, kBulkPreambleBytes> preamble{};
    const bool is_preamble = next.into.empty();
    const std::span<std::byte> into = is_preamble ? std::span<std::byte>(preamble) : next.into;
    ASSIGN_OR_RETURN(const std::size_t size, try_receive_frame(into));
    if (is_preamble) {
      RETURN_IF_ERROR(check_preamble({preamble.data(), size}, next.preamble));
    } else if (size != into.size()) {
      return Status(StatusCode::kProtocolError,
                    fmt::format("a chunk of {} bytes, expected {}", size, into.size()));
    }
    expected_.pop_front();
  }
  incoming_.clear();
  return {};
}

Status BulkTransfer::wait(For purpose, Deadline deadline) {
  if (deadline.expired()) return Status(StatusCode::kDeadlineExceeded, "the deadline passed");
  using Wake = ZmqSocket::Wake;
  const bool is_router = !peer_route_.empty();
  Wake wake = Wake::kReadable;
  auto slice = kSlice;
  if (is_router && sending_) {
    slice = kRouterRetry;
  } else if (sending_) {
    wake = purpose == For::kSend ? Wake::kWritable : Wake::kReadableOrWritable;
  }
  stats_[Path::kZmq].parks.fetch_add(1, std::memory_order_relaxed);
  const Status woken = is_router && purpose == For::kSend
                           ? socket_.pause(slice)
                           : socket_.poll(wake, deadline.slice(slice));
  if (woken.code() != StatusCode::kDeadlineExceeded) return woken;
  return check_peer();
}

Status BulkTransfer::check_peer() {
  if (!gone_.ok()) return gone_;
  if (watch_ != nullptr) gone_ = watch_->check();
  // A stranger's connection to a ROUTER says nothing about the peer, hence heard_.
  const bool is_router = !peer_route_.empty();
  if (gone_.ok() && (heard_ || !is_router) && socket_.disconnected()) {
    gone_ = Status(StatusCode::kUnavailable, "the peer closed the session's data connection");
  }
  return {};
}

}  // namespace airlock
