#include "tools/airlock_xfer/peer.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "runtime/rpc/session_channel.h"
#include "tools/airlock_xfer/control.h"
#include "tools/airlock_xfer/host_buffer.h"
#include "tools/airlock_xfer/pattern.h"

namespace airlock::xfer {
namespace {

/// The peer waits this long for its parent, which may be filling gigabytes or stand in a debugger;
/// that the parent is gone it learns at once.
constexpr std::chrono::hours kPatience{1};
constexpr std::size_t kBytesASecond = std::size_t{64} << 20;  // the least that a wait allows for

class Peer {
 public:
  Peer(UniqueFd control, PairSetup& setup)
      : control_(std::move(control)), setup_(setup), watch_(control_.get(), -1) {}

  /// Until the parent ends or says bye; from its first pass on this process dies with it.
  Status serve(int parent_pid) {
    for (bool in_passes = false;;) {
      ASSIGN_OR_RETURN(ReceivedOrder came, receive(Deadline::after(kPatience)));
      ControlPacket& packet = came.packet;
      if (packet.order == Order::kBye) return {};
      if (packet.order == Order::kPass && !std::exchange(in_passes, true)) {
        // The parent has removed the files before it orders a pass.
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (::getppid() != parent_pid) return {StatusCode::kUnavailable, "the parent ended"};
        if (const auto& cpus = setup_.options.cpus)
          RETURN_IF_ERROR(pin_to_cpu((*cpus)[1]).status());
      }
      RETURN_IF_ERROR(obey(packet, came.descriptors));
      RETURN_IF_ERROR(send_order(control_.get(), packet));
    }
  }

  /// Nothing that this process would have to report. The channels may see it before the watch does.
  bool parent_ended() const {
    return receive(Deadline::now()).status().code() == StatusCode::kUnavailable;
  }

 private:
  Result<ReceivedOrder> receive(Deadline deadline) const {
    return receive_order(control_.get(), deadline, watch_);
  }

  Status obey(ControlPacket& packet, std::span<const UniqueFd> descriptors) {
    const bool is_path = !name_of(packet.session).empty();
    if (is_path && packet.order == Order::kAttach && setup_.welcome[packet.session]) {
      const Welcome& welcome = *setup_.welcome[packet.session];
      auto& session = sessions_[packet.session];
      const std::size_t rings = welcome.has_ring ? std::min<std::size_t>(2, descriptors.size()) : 0;
      ASSIGN_OR_RETURN(session, SessionChannel::attach(welcome, descriptors.first(rings), watch_));
      Attached attached;
      PoolWish wish;
      if (packet.leased.bytes > 0) {
        attached.pool = {packet.leased};
        wish[packet.leased.use] = packet.leased.bytes;
      }
      RETURN_IF_ERROR(session->take_lease(attached, descriptors.subspan(rings), wish));
      RETURN_IF_ERROR(session->connect(packet.endpoint.data()));
      return session->open();
    }
    if (is_path && packet.order == Order::kPass && sessions_[packet.session] != nullptr) {
      Channel& channel = sessions_[packet.session]->channel();
      ASSIGN_OR_RETURN(packet.wrong_bytes, serve_pass(channel, packet));
      return {};
    }
    return {StatusCode::kProtocolError, "an unknown order on the control socket"};
  }

  Result<std::uint64_t> serve_pass(Channel& channel, const ControlPacket& order) {
    const bool is_echo = setup_.options.mode == Mode::kEcho;
    HostBuffer private_copy;
    if (!is_echo) {
      ASSIGN_OR_RETURN(private_copy, HostBuffer::make(order.bytes));
    }
    const AcceptPlan accept = accept_exactly(channel.policy(), order.bytes);
    std::uint64_t wrong_bytes = 0;
    for (;;) {
      ASSIGN_OR_RETURN(auto received, channel.receive(accept, Deadline::after(kPatience)));
      ASSIGN_OR_RETURN(const MessageHead head, decode_head(received->header()));
      if (head.kind == kLastMessage) return wrong_bytes;
      if (is_echo) {
        RETURN_IF_ERROR(reply(channel, received->tensor(0), head));
        continue;
      }
      // Read once, as a consumer would; a ring tensor could change until it is released.
      std::memcpy(private_copy.bytes().data(), received->tensor(0).data(), order.bytes);
      received.reset();
      if (order.peer_check)
        wrong_bytes += count_wrong(private_copy.bytes(), pattern_seed(order.row, head.message));
      RETURN_IF_ERROR(reply(channel, {}, head));
    }
  }

  Status reply(Channel& channel, std::span<const std::byte> tensor, const MessageHead& head) {
    const Deadline deadline = message_deadline(setup_.options, tensor.size());
    ASSIGN_OR_RETURN(const MessagePlan plan,
                     plan_tensor(channel.policy(), tensor.size(), head.reply_place));
    ASSIGN_OR_RETURN(auto message, channel.claim(plan, deadline));
    if (!tensor.empty()) {
      const std::span<std::byte> place = message->tensor(0);
      std::memcpy(place.data(), tensor.data(), tensor.size());
      setup_.call_hook(place);
    }
    MessageHead answer = head;
    answer.place = head.reply_place;
    return channel.send(*message, encode_head(answer), deadline);
  }

  UniqueFd control_;
  PairSetup& setup_;
  LifeWatch watch_;  // before the sessions: their channels ask it
  PerValue<Path, std::unique_ptr<SessionChannel>> sessions_;
};

void inherit_no_signals() {
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
  signal(SIGINT, SIG_IGN);  // Ctrl-C reaches both processes: the parent decides
}

}  // namespace

std::array<std::byte, sizeof(MessageHead)> encode_head(MessageHead head) {
  head.cpu = current_cpu();
  return std::bit_cast<std::array<std::byte, sizeof(MessageHead)>>(head);
}

Result<MessageHead> decode_head(std::span<const std::byte> header) {
  MessageHead head;
  if (header.size() != sizeof(head)) {
    return Status(StatusCode::kProtocolError, "a header of {} bytes, expected {}", header.size(),
                  sizeof(head));
  }
  std::memcpy(&head, header.data(), sizeof(head));
  if (head.kind != kDataMessage && head.kind != kLastMessage)
    return Status(StatusCode::kProtocolError, "a message of kind {}", head.kind);
  return head;
}

Result<MessagePlan> plan_tensor(const PathPolicy& policy, std::size_t bytes, PoolPlace place) {
  const std::size_t count = bytes == 0 ? 0 : 1;
  return plan_in_pool(policy, {&bytes, count}, {&place, count});
}

AcceptPlan accept_exactly(const PathPolicy& policy, std::size_t tensor_bytes) {
  return [&policy, tensor_bytes](std::span<const std::byte> header) -> Result<MessagePlan> {
    ASSIGN_OR_RETURN(const MessageHead head, decode_head(header));
    return plan_tensor(policy, head.kind == kLastMessage ? 0 : tensor_bytes, head.place);
  };
}

std::uint32_t current_cpu() { return static_cast<std::uint32_t>(std::max(::sched_getcpu(), 0)); }

Result<cpu_set_t> pin_to_cpu(int cpu) {
  cpu_set_t before;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<unsigned>(cpu), &one);
  if (::sched_getaffinity(0, sizeof(before), &before) != 0 ||
      ::sched_setaffinity(0, sizeof(one), &one) != 0)
    return os_error("stay on CPU " + std::to_string(cpu), errno);
  return before;
}

Deadline message_deadline(const Options& options, std::size_t bytes) {
  return Deadline::after(options.timeout + std::chrono::seconds(bytes / kBytesASecond));
}

void remove_files(const PairSetup& setup) {
  std::error_code ignored;
  std::filesystem::remove_all(setup.directory, ignored);
}

int run_peer(UniqueFd control, PairSetup& setup, int parent_pid) {
  inherit_no_signals();
  Peer peer(std::move(control), setup);
  const Status status = peer.serve(parent_pid);
  if (!status.ok() && !peer.parent_ended()) {
    log_error("the peer: " + status.to_string());
    return exit_code(status.code());
  }
  remove_files(setup);  // the parent may have been killed before it could
  return 0;
}

}  // namespace airlock::xfer
