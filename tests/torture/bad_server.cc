// A server that answers one runner up to a step of the protocol and then kills or stops itself:
//
//   bad_server ENDPOINT CONFIG.json STEP kill|stop on|off|pool
//
// Prints "ready" once it listens, and "at STEP EPOCH" before its end. "on": with rings. "pool":
// with rings and a pool, which every tensor of a page or more takes.

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/message.h"
#include "runtime/channel/frame.h"
#include "runtime/model/config.h"
#include "runtime/rpc/control_connection.h"
#include "runtime/rpc/data_door.h"
#include "runtime/rpc/peer_life.h"
#include "runtime/rpc/session_channel.h"
#include "tests/torture/steps.h"

namespace airlock::torture {
namespace {

constexpr std::chrono::seconds kPatience{30};

class BadServer {
 public:
  BadServer(ServerStep last, int signal) : last_(last), signal_(signal) {}

  Status run(const std::string& endpoint, const std::string& config, bool has_ring, bool has_pool) {
    ASSIGN_OR_RETURN(const LlamaConfig model, load_config(config));
    dims_ = model.dims;
    ASSIGN_OR_RETURN(const Endpoint parsed, parse_endpoint(endpoint));
    ASSIGN_OR_RETURN(ControlListener listener, ControlListener::listen(parsed));
    std::printf("ready\n");
    std::fflush(stdout);
    reached(ServerStep::kListening);
    RETURN_IF_ERROR(hear(listener));
    welcome_.epoch = 0x0bad5eed;
    welcome_.token = std::string(32, 'b');
    welcome_.has_ring = has_ring;
    welcome_.geometry = {8, 65536};
    welcome_.path_limit = has_pool ? 1 : 65536;
    welcome_.has_pool = has_pool;
    welcome_.dims = dims_;
    welcome_.device = "cpu";
    welcome_.config_bytes = 10;
    return has_ring ? serve_by_ring(parsed) : serve_by_socket(parsed);
  }

 private:
  void reached(ServerStep step) const {
    if (step == last_) meet_fate(step, welcome_.epoch, signal_);
  }

  Status hear(ControlListener& listener) {
    const Deadline deadline = Deadline::after(kPatience);
    auto connection = listener.accept();
    for (; !connection && !deadline.expired(); connection = listener.accept()) ::usleep(200);
    if (!connection) return {StatusCode::kDeadlineExceeded, "nobody came"};
    control_.emplace(std::move(*connection));
    reached(ServerStep::kAccepted);
    while (!deadline.expired()) {
      ASSIGN_OR_RETURN(const auto frame, control_->receive());
      if (!frame) {
        ::usleep(200);
        continue;
      }
      ASSIGN_OR_RETURN(const ControlMessage message, decode_control(frame->bytes));
      const auto* hello = std::get_if<Hello>(&message);
      if (hello == nullptr) return {StatusCode::kProtocolError, "no hello"};
      welcome_.digest = hello->digest;
      wish_ = hello->pool;
      reached(ServerStep::kHeard);
      return {};
    }
    return {StatusCode::kDeadlineExceeded, "no hello came"};
  }

  Status announce(const std::string& endpoint) {
    RETURN_IF_ERROR(control_->send(DataSocket{endpoint}));
    reached(ServerStep::kAnnounced);
    return {};
  }
  Status tell_attached(const Attached& attached = {}, const std::vector<UniqueFd>& memory = {}) {
    std::vector<int> fds;
    for (const UniqueFd& fd : memory) fds.push_back(fd.get());
    RETURN_IF_ERROR(control_->send(attached, fds));
    reached(ServerStep::kAttached);
    return {};
  }
  Result<ResponseHeader> response_to(const RequestHeader& request) const {
    ResponseHeader response;
    response.request_id = request.request_id;
    response.op = request.spec.op;
    ASSIGN_OR_RETURN(response.results, op_results(request.spec, dims_));
    return response;
  }

  Status serve_by_ring(const Endpoint& endpoint) {
    ASSIGN_OR_RETURN(const auto session,
                     SessionChannel::offer(welcome_, SegmentKind::kSealed, life_));
    ASSIGN_OR_RETURN(const std::vector<UniqueFd> descriptors, session->descriptors());
    const int fds[] = {descriptors[0].get(), descriptors[1].get()};
    RETURN_IF_ERROR(control_->send(welcome_, fds));
    reached(ServerStep::kWelcomed);
    RETURN_IF_ERROR(session->accept(
        endpoint, [this](const std::string& door) { (void)announce(door); },
        Deadline::after(kPatience)));
    reached(ServerStep::kAdmitted);
    Attached attached;
    std::vector<UniqueFd> leased;
    if (welcome_.has_pool) {
      Status lacking;
      ASSIGN_OR_RETURN(pool_, PoolRegion::create(shape_of(PoolProfile::kLow), PoolCommit::kLazy));
      ASSIGN_OR_RETURN(leased, session->lease(*pool_, wish_, attached, lacking));
      RETURN_IF_ERROR(lacking);
      reached(ServerStep::kLeased);
    }
    RETURN_IF_ERROR(session->open());
    RETURN_IF_ERROR(tell_attached(attached, leased));
    Channel& channel = session->channel();
    const Deadline deadline = Deadline::after(kPatience);
    for (;;) {
      RequestHeader request;
      const AcceptPlan accept = [&](std::span<const std::byte> header) -> Result<MessagePlan> {
        ASSIGN_OR_RETURN(request, decode_request(header));
        const std::span<const PoolPlace> places = request.places;
        const std::size_t inputs = request.spec.inputs.size();
        return plan_in_pool(channel.policy(), sizes_of(request.spec.inputs),
                            places.first(places.empty() ? 0 : inputs));
      };
      ASSIGN_OR_RETURN(const auto message, channel.receive(accept, deadline));
      reached(ServerStep::kRequestTaken);
      ASSIGN_OR_RETURN(const ResponseHeader response, response_to(request));
      const std::vector<std::size_t> sizes = sizes_of(response.results);
      const std::span<const PoolPlace> places = request.places;
      ASSIGN_OR_RETURN(const MessagePlan plan,
                       plan_in_pool(channel.policy(), sizes,
                                    places.empty() ? places : places.last(sizes.size())));
      ASSIGN_OR_RETURN(const auto reply, channel.claim(plan, deadline));
      for (std::size_t i = 0; i < sizes.size(); ++i)
        std::memset(reply->tensor(i).data(), 0, sizes[i]);
      reached(ServerStep::kReplyHalf);
      RETURN_IF_ERROR(channel.send(*reply, encode(response), deadline));
      reached(ServerStep::kAnswered);
    }
  }

  /// By hand, so that a reply's header can leave alone. Tensors are of one frame each here.
  Status serve_by_socket(const Endpoint& endpoint) {
    RETURN_IF_ERROR(control_->send(welcome_));
    reached(ServerStep::kWelcomed);
    ASSIGN_OR_RETURN(DataDoor door, DataDoor::open(endpoint));
    RETURN_IF_ERROR(announce(door.endpoint()));
    const Deadline deadline = Deadline::after(kPatience);
    RETURN_IF_ERROR(door.await_knock(life_, deadline));
    ASSIGN_OR_RETURN(ZmtpSocket socket, door.let_in());
    std::vector<std::byte> frame(limits::kFrameBytes);
    RETURN_IF_ERROR(socket.receive_into(frame, deadline).status());
    reached(ServerStep::kAdmitted);
    RETURN_IF_ERROR(tell_attached());
    ASSIGN_OR_RETURN(const std::size_t size, socket.receive_into(frame, deadline));
    ASSIGN_OR_RETURN(const OpenedFrame opened,
                     decode_opening({frame.data(), size}, {welcome_.epoch, kFirst}));
    ASSIGN_OR_RETURN(const RequestHeader request, decode_request(opened.header));
    for (std::size_t i = 0; i < request.spec.inputs.size(); ++i)
      RETURN_IF_ERROR(socket.receive_into(frame, deadline).status());
    reached(ServerStep::kRequestTaken);
    ASSIGN_OR_RETURN(const ResponseHeader response, response_to(request));
    RETURN_IF_ERROR(
        socket.send(encode_opening({welcome_.epoch, kFirst}, encode(response)), deadline));
    // So that it is on its way when this process is not any more.
    ::usleep(50'000);
    reached(ServerStep::kReplyHalf);
    for (const TensorDesc& result : response.results)
      RETURN_IF_ERROR(socket.send(std::vector<std::byte>(result.bytes()), deadline));
    ::usleep(50'000);
    reached(ServerStep::kAnswered);
    return {};
  }

  static constexpr std::uint64_t kFirst = 0;

  const ServerStep last_;
  const int signal_;
  ModelDims dims_;
  PeerLife life_;
  std::unique_ptr<PoolRegion> pool_;
  PoolWish wish_{};
  std::optional<ControlConnection> control_;
  Welcome welcome_;
};

int run(int argc, char** argv) {
  const auto step = argc == 6 ? from_name<ServerStep>(argv[3]) : std::nullopt;
  if (!step) {
    std::fprintf(stderr, "bad_server ENDPOINT CONFIG.json STEP kill|stop on|off|pool\n");
    return 2;
  }
  BadServer server(*step, std::string_view(argv[4]) == "kill" ? SIGKILL : SIGSTOP);
  const std::string_view paths = argv[5];
  const Status status = server.run(argv[1], argv[2], paths != "off", paths == "pool");
  std::fprintf(stderr, "it came to no end: %s\n", status.to_string().c_str());
  return 1;
}

}  // namespace
}  // namespace airlock::torture

int main(int argc, char** argv) { return airlock::torture::run(argc, argv); }
