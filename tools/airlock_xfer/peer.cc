#include "tools/airlock_xfer/peer.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>

#include "base/log.h"
#include "runtime/rpc/session_channel.h"
#include "shm/segment.h"
#include "tools/airlock_xfer/host_buffer.h"
#include "tools/airlock_xfer/life_watch.h"
#include "tools/airlock_xfer/pattern.h"

namespace airlock::xfer {
namespace {

/// The peer waits this long for its parent, which may be filling gigabytes or stand in a debugger;
/// that the parent is gone it learns at once.
constexpr std::chrono::hours kPatience{1};
constexpr std::size_t kBytesASecond = std::size_t{64} << 20;  // the least that a wait allows for

Deadline patience() { return Deadline::after(kPatience); }

class Peer {
 public:
  Peer(ControlSocket control, const PairSetup& setup)
      : control_(std::move(control)), setup_(setup), watch_(control_.fd(), -1) {}

  Status attach() {
    ASSIGN_OR_RETURN(context_, ZmqContext::create());
    for (std::size_t i = 0; i < kChannelKinds; ++i) {
      if (!setup_.wanted[i]) continue;
      ASSIGN_OR_RETURN(const ControlPacket where,
                       control_.receive(ControlKind::kAttach, patience(), watch_.life()));
      ASSIGN_OR_RETURN(sessions_[i],
                       SessionChannel::attach(*context_, welcome(i), where.endpoint.data(),
                                              watch_.life(), Deadline::after(setup_.timeout)));
      ControlPacket attached;
      attached.kind = ControlKind::kAttached;
      RETURN_IF_ERROR(control_.send(attached));
    }
    return {};
  }

  /// Nothing that this process would have to report. The channels may see it before the watch does.
  bool parent_ended() const {
    const auto word = control_.receive_any(Deadline::now(), watch_.life());
    return !word.ok() && word.status().code() == StatusCode::kUnavailable;
  }

  /// Until the parent ends or says bye; from its first order on this process dies with it.
  Status serve(int parent_pid) {
    std::optional<CpuPin> pin;
    if (setup_.cpus.has_value()) {
      ASSIGN_OR_RETURN(CpuPin pinned, CpuPin::pin((*setup_.cpus)[1]));
      pin.emplace(std::move(pinned));
    }
    for (bool first = true;; first = false) {
      ASSIGN_OR_RETURN(const ControlPacket order, control_.receive_any(patience(), watch_.life()));
      if (first) {  // the parent has removed the files before it orders anything
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent_pid) return {StatusCode::kUnavailable, "the parent ended"};
      }
      if (order.kind == ControlKind::kBye) return {};
      const auto kind = static_cast<std::size_t>(order.channel);
      if (order.kind != ControlKind::kPass || kind >= kChannelKinds || sessions_[kind] == nullptr) {
        return {StatusCode::kProtocolError, "an unknown order on the control socket"};
      }
      ControlPacket done;
      done.kind = ControlKind::kPassDone;
      ASSIGN_OR_RETURN(done.wrong_bytes, serve_pass(sessions_[kind]->channel(), order));
      RETURN_IF_ERROR(control_.send(done));
    }
  }

 private:
  /// What the server's end of a session says to the runner.
  Welcome welcome(std::size_t kind) const {
    Welcome welcome = setup_.welcome[kind];
    if (welcome.has_ring) {
      welcome.request_segment =
          make_segment_name(::geteuid(), welcome.epoch, SegmentDirection::kRequest);
      welcome.reply_segment =
          make_segment_name(::geteuid(), welcome.epoch, SegmentDirection::kReply);
    }
    return welcome;
  }

  Result<std::uint64_t> serve_pass(Channel& channel, const ControlPacket& order) {
    HostBuffer private_copy;
    if (order.is_echo == 0) {
      ASSIGN_OR_RETURN(private_copy, HostBuffer::make(order.bytes));
    }
    const Accept accept = accept_exactly(order.bytes);
    std::uint64_t wrong_bytes = 0;
    for (;;) {
      ASSIGN_OR_RETURN(auto received, channel.receive(accept, patience()));
      ASSIGN_OR_RETURN(const MessageHead head, decode_head(received->header()));
      if (head.kind == kLastMessage) return wrong_bytes;
      if (order.is_echo != 0) {
        RETURN_IF_ERROR(reply(channel, received->tensor(0), head));
        continue;
      }
      // Read once, as a consumer would; a ring tensor could change until it is released.
      std::memcpy(private_copy.bytes().data(), received->tensor(0).data(), order.bytes);
      received.reset();
      if (order.peer_check != 0) {
        wrong_bytes += count_wrong(private_copy.bytes(), pattern_seed(order.row, head.message));
      }
      RETURN_IF_ERROR(reply(channel, {}, head));
    }
  }

  Status reply(Channel& channel, std::span<const std::byte> tensor, const MessageHead& head) {
    const Deadline deadline = message_deadline(setup_.timeout, tensor.size());
    const std::size_t sizes[] = {tensor.size()};
    ASSIGN_OR_RETURN(auto message, channel.prepare({sizes, tensor.empty() ? 0U : 1U}, deadline));
    if (!tensor.empty()) {
      const std::span<std::byte> place = message->tensor(0);
      std::memcpy(place.data(), tensor.data(), tensor.size());
      if (setup_.hooks.on_write) setup_.hooks.on_write(written_, place);
      ++written_;
    }
    return channel.send(*message, encode_head({head.kind, current_cpu(), head.message}), deadline);
  }

  ControlSocket control_;
  const PairSetup& setup_;
  LifeWatch watch_;  // before the sessions: their channels ask its life
  std::unique_ptr<ZmqContext> context_;
  std::array<std::unique_ptr<SessionChannel>, kChannelKinds> sessions_;
  std::uint64_t written_ = 0;
};

void inherit_no_signals() {
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
  signal(SIGINT, SIG_IGN);  // Ctrl-C reaches both processes: the parent decides
}

}  // namespace

std::array<std::byte, sizeof(MessageHead)> encode_head(const MessageHead& head) {
  std::array<std::byte, sizeof(MessageHead)> bytes{};
  std::memcpy(bytes.data(), &head, sizeof(head));
  return bytes;
}

Result<MessageHead> decode_head(std::span<const std::byte> header) {
  MessageHead head;
  if (header.size() != sizeof(head)) {
    return Status(StatusCode::kProtocolError, "a header of {} bytes, expected {}", header.size(),
                  sizeof(head));
  }
  std::memcpy(&head, header.data(), sizeof(head));
  if (head.kind != kDataMessage && head.kind != kLastMessage) {
    return Status(StatusCode::kProtocolError, "a message of kind {}", head.kind);
  }
  return head;
}

Accept accept_exactly(std::size_t tensor_bytes) {
  return [tensor_bytes](std::span<const std::byte> header) -> Result<std::vector<std::size_t>> {
    ASSIGN_OR_RETURN(const MessageHead head, decode_head(header));
    if (head.kind == kLastMessage || tensor_bytes == 0) return std::vector<std::size_t>();
    return std::vector<std::size_t>{tensor_bytes};
  };
}

std::uint32_t current_cpu() { return static_cast<std::uint32_t>(std::max(::sched_getcpu(), 0)); }

Deadline message_deadline(std::chrono::milliseconds timeout, std::size_t bytes) {
  return Deadline::after(timeout + std::chrono::seconds(bytes / kBytesASecond));
}

void remove_files(const PairSetup& setup) {
  for (const Welcome& welcome : setup.welcome) {
    if (!welcome.has_ring) continue;
    for (const auto direction : {SegmentDirection::kRequest, SegmentDirection::kReply}) {
      const std::string name = make_segment_name(::geteuid(), welcome.epoch, direction);
      ::unlink(("/dev/shm/" + name).c_str());
    }
  }
  std::error_code ignored;
  std::filesystem::remove_all(setup.directory, ignored);
}

int run_peer(ControlSocket control, const PairSetup& setup, int parent_pid) {
  inherit_no_signals();
  const auto finish = [](const Status& status) {
    log_error("the peer: " + status.to_string());
    return exit_code(status.code());
  };
  Peer peer(std::move(control), setup);
  Status status = peer.attach();
  if (status.ok()) status = peer.serve(parent_pid);
  if (!status.ok() && !peer.parent_ended()) return finish(status);
  remove_files(setup);  // the parent may have been killed before it could
  return 0;
}

}  // namespace airlock::xfer
