#include "runtime/channel/zmq_channel.h"

#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/channel/buffer_pool.h"
#include "runtime/channel/bulk_transfer.h"
#include "runtime/channel/frame.h"
#include "runtime/channel/poison.h"

namespace airlock {
namespace {

class BufferMessage final : public Message {
 public:
  std::span<std::byte> tensor(std::size_t index) override { return tensors[index].buffer.bytes(); }

  std::vector<BulkTensor> tensors;
  std::vector<std::size_t> tensor_bytes;
  bool started = false;
};

class BufferReceived final : public ReceivedMessage {
 public:
  BufferReceived(FrameHeader frame, std::vector<BulkTensor> tensors)
      : frame_(std::move(frame)), tensors_(std::move(tensors)) {}

  std::span<const std::byte> header() const override { return frame_.rpc_header; }
  std::size_t tensor_count() const override { return tensors_.size(); }
  std::span<const std::byte> tensor(std::size_t index) const override {
    return tensors_[index].buffer.bytes();
  }

 private:
  FrameHeader frame_;
  std::vector<BulkTensor> tensors_;
};

class ZmqChannelImpl final : public Channel {
 public:
  explicit ZmqChannelImpl(ZmqChannelOptions options)
      : policy_{false, options.limit_bytes, 0},
        epoch_(options.epoch),
        stats_(options.stats != nullptr ? *options.stats : own_stats_),
        pool_(kBulkCacheBytes),
        bulk_({std::move(options.socket), std::move(options.peer_route), options.epoch, policy_,
               options.watch, &stats_, options.attached}) {}

  Result<std::unique_ptr<Message>> prepare(std::span<const std::size_t> tensor_bytes,
                                           Deadline deadline) override;
  Status send(Message& message, std::span<const std::byte> header, Deadline deadline) override;
  Result<std::unique_ptr<ReceivedMessage>> receive(const Accept& accept,
                                                   Deadline deadline) override;
  const PathPolicy& policy() const override { return policy_; }
  std::size_t slots_in_use() const override { return 0; }
  TransportStats& stats() override { return stats_; }

 private:
  Status advance(const Accept& accept, bool& accepted);
  Status take_header();
  Status poison(Status status) { return poison_.set(std::move(status), stats_[Path::kZmq]); }

  const PathPolicy policy_;
  const std::uint64_t epoch_;
  TransportStats own_stats_;  // counted where nobody gave a place
  TransportStats& stats_;
  Poison poison_;
  BufferPool pool_;
  BulkTransfer bulk_;
  std::uint64_t next_send_ = 0;
  std::uint64_t next_receive_ = 0;
  std::optional<FrameHeader> arriving_;  // the header of a message that is not complete
  std::optional<std::vector<BulkTensor>> arriving_tensors_;  // once accepted
};

Result<std::unique_ptr<Message>> ZmqChannelImpl::prepare(std::span<const std::size_t> tensor_bytes,
                                                         Deadline) {
  RETURN_IF_ERROR(poison_.status());
  RETURN_IF_ERROR(check_tensor_sizes(tensor_bytes));
  auto message = std::make_unique<BufferMessage>();
  ASSIGN_OR_RETURN(message->tensors,
                   take_buffers(pool_, tensor_bytes, choose_paths(policy_, tensor_bytes)));
  message->tensor_bytes.assign(tensor_bytes.begin(), tensor_bytes.end());
  return std::unique_ptr<Message>(std::move(message));
}

Status ZmqChannelImpl::send(Message& message, std::span<const std::byte> header,
                            Deadline deadline) {
  RETURN_IF_ERROR(poison_.status());
  auto& ours = static_cast<BufferMessage&>(message);  // every Message of this channel is one
  if (!ours.started) {
    if (bulk_.sending()) {  // a message that was dropped half sent still has to leave
      const Status rest = bulk_.finish_send(deadline);
      if (rest.code() == StatusCode::kResourceExhausted) return rest;
      if (!rest.ok()) return poison(rest);
    }
    ours.started = true;
    const std::uint64_t sequence = next_send_++;
    bulk_.start_send({sequence, encode_frame(epoch_, sequence, ours.tensor_bytes, header),
                      std::move(ours.tensors), std::move(ours.tensor_bytes)});
  }
  const Status sent = bulk_.finish_send(deadline);
  if (sent.ok() || sent.code() == StatusCode::kResourceExhausted) return sent;
  return poison(sent);
}

Status ZmqChannelImpl::take_header() {
  std::array<std::byte, limits::kHeaderBytes> bytes;
  ASSIGN_OR_RETURN(const std::size_t size, bulk_.try_receive_frame(bytes));
  ASSIGN_OR_RETURN(arriving_, decode_frame({bytes.data(), size}, {epoch_, next_receive_}));
  return {};
}

/// One step without waiting. ok: the message is complete. kDeadlineExceeded: not yet.
Status ZmqChannelImpl::advance(const Accept& accept, bool& accepted) {
  if (bulk_.sending()) {
    const Status sent = bulk_.advance_send();
    if (!sent.ok() && sent.code() != StatusCode::kResourceExhausted) return sent;
  }
  if (!arriving_.has_value()) RETURN_IF_ERROR(take_header());
  if (!accepted) {
    RETURN_IF_ERROR(accept(arriving_->rpc_header, arriving_->tensor_bytes));
    accepted = true;
  }
  if (!arriving_tensors_.has_value()) {
    ASSIGN_OR_RETURN(arriving_tensors_,
                     take_buffers(pool_, arriving_->tensor_bytes,
                                  choose_paths(policy_, arriving_->tensor_bytes)));
    bulk_.start_receive(next_receive_, *arriving_tensors_);
  }
  return bulk_.advance_receive();
}

Result<std::unique_ptr<ReceivedMessage>> ZmqChannelImpl::receive(const Accept& accept,
                                                                 Deadline deadline) {
  RETURN_IF_ERROR(poison_.status());
  for (bool accepted = false;;) {
    const Status step = advance(accept, accepted);
    if (step.ok()) break;
    if (step.code() != StatusCode::kDeadlineExceeded) return poison(step);
    const Status waited = bulk_.wait(BulkTransfer::For::kReceive, deadline);
    if (waited.code() == StatusCode::kDeadlineExceeded) return waited;
    if (!waited.ok()) return poison(waited);
  }
  ++next_receive_;
  const std::vector<Path> paths = choose_paths(policy_, arriving_->tensor_bytes);
  stats_.book_received(Path::kZmq, paths, arriving_->tensor_bytes);
  auto received = std::make_unique<BufferReceived>(*std::exchange(arriving_, std::nullopt),
                                                   *std::exchange(arriving_tensors_, std::nullopt));
  return std::unique_ptr<ReceivedMessage>(std::move(received));
}

}  // namespace

std::unique_ptr<Channel> ZmqChannel::create(ZmqChannelOptions options) {
  return std::make_unique<ZmqChannelImpl>(std::move(options));
}

}  // namespace airlock
