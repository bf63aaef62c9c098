// Clients of each bad kind, for tests that look at what becomes of everybody else.
//
//   bad_client ENDPOINT noise KIND SECONDS
//     Child processes of that kind, one after the other for so long, each with a session or
//     connections of its own. Prints how many there were, and how many failed to be bad.
//   bad_client ENDPOINT end STEP kill|stop on|off|pool
//     One session (with rings, without, or with rings and its tensors in the pool) up to that step
//     of the protocol; there it kills or stops itself, and says so before: "at STEP EPOCH".

//   bad_client ENDPOINT sessions COUNT
//     So many sessions, one after the other, each with a lease that it fills and one product in it;
//     every third ends without a word. Prints how many there were, and how many had no lease.

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "runtime/rpc/client.h"
#include "tests/torture/raw_client.h"

namespace airlock::torture {
namespace {

// How long one that stays does so, and how many stopped ones stay.
constexpr std::chrono::milliseconds kStay{1500};
constexpr std::size_t kMostStopped = 3;
constexpr std::size_t kHalfOpen = 500;
// Just under the 100G that --max-op-flop allows at least: about a second of one core.
constexpr std::int64_t kHuge = 3680;
// 256 MiB: more than what both high-water marks let leave at once.
constexpr std::int64_t kBulk = 8192;

void sleep_for(std::chrono::milliseconds time) { std::this_thread::sleep_for(time); }

void stay(RawClient& client) {
  for (const Deadline end = Deadline::after(kStay); !end.expired();) {
    (void)client.send_sign();
    sleep_for(kSignInterval / 2);
  }
}

Result<UniqueFd> raw_connection(const std::string& path, int type) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path))
    return Status(StatusCode::kUsage, "the path is too long");
  std::ranges::copy(path, address.sun_path);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
    return Status(StatusCode::kUnavailable, "{}", std::strerror(errno));
  return fd;
}

Result<std::string> socket_path(const std::string& endpoint) {
  ASSIGN_OR_RETURN(const Endpoint parsed, parse_endpoint(endpoint));
  return parsed.path;
}

/// The largest product that the server takes, with nobody there who waits for it.
Status huge_op(const std::string& endpoint, bool runs_away) {
  ConnectOptions options;
  options.endpoint = endpoint;
  options.client = "bad_client";
  ASSIGN_OR_RETURN(const auto session, ClientSession::connect(options));
  ASSIGN_OR_RETURN(const auto pending, session->backend().prepare(product(kHuge, kHuge, kHuge),
                                                                  Deadline::after(kPatience)));
  for (std::size_t i = 0; i < 2; ++i) {
    const MutableTensorView input = pending->input(i);
    std::memset(input.data, 0, input.desc.bytes());
  }
  RETURN_IF_ERROR(pending->submit());
  sleep_for(std::chrono::milliseconds(300));
  if (runs_away) (void)std::raise(SIGKILL);
  return {};
}

Status huge_ops(const std::string& endpoint) { return huge_op(endpoint, false); }
Status run_away(const std::string& endpoint) { return huge_op(endpoint, true); }

Status junk(const std::string& endpoint) {
  ASSIGN_OR_RETURN(const std::string path, socket_path(endpoint));
  std::mt19937_64 random(static_cast<std::uint64_t>(::getpid()));
  std::vector<char> bytes(6000);
  for (char& byte : bytes) byte = static_cast<char>(random());
  bool was_heard = false;
  for (const Deadline end = Deadline::after(kStay); !end.expired();) {
    auto fd = raw_connection(path, SOCK_SEQPACKET);
    was_heard |= fd.ok();
    for (int i = 0; fd.ok() && i < 5; ++i)
      (void)::send(fd->get(), bytes.data(), random() % bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  return was_heard ? Status() : Status(StatusCode::kUnavailable, "no connection was to be had");
}

Status hellos(const std::string& endpoint) {
  ASSIGN_OR_RETURN(const Endpoint parsed, parse_endpoint(endpoint));
  for (const Deadline end = Deadline::after(kStay); !end.expired();) {
    auto connection = ControlConnection::connect(parsed, Deadline::after(kPatience));
    if (connection.ok())
      (void)connection->send(Hello{"bad_client", {RingChoice::kOn, 0, 0}, "", 0});
  }
  return {};
}

Status half_open(const std::string& endpoint) {
  ASSIGN_OR_RETURN(const std::string path, socket_path(endpoint));
  const Deadline end = Deadline::after(kStay);
  const Deadline too_late = Deadline::after(kPatience);
  std::vector<UniqueFd> silent;
  while (!end.expired() || silent.size() < kHalfOpen) {
    auto fd = raw_connection(path, SOCK_SEQPACKET);
    if (!fd.ok()) {
      if (too_late.expired()) return {StatusCode::kInternal, "only {} got in", silent.size()};
      sleep_for(std::chrono::milliseconds(1));
    } else if (silent.size() < kHalfOpen) {
      silent.push_back(std::move(*fd));
    } else {
      silent[static_cast<std::size_t>(fd->get()) % silent.size()] = std::move(*fd);
    }
  }
  return {};
}

Status signs(const std::string& endpoint) {
  RawClient client;
  RETURN_IF_ERROR(client.greet(endpoint, RingChoice::kOff));
  RETURN_IF_ERROR(client.attach());
  for (const Deadline end = Deadline::after(kStay); !end.expired();) {
    if (client.send_sign().code() == StatusCode::kUnavailable) return {};
  }
  return {};
}

Status never_attach(const std::string& endpoint) {
  std::deque<RawClient> clients;
  for (int i = 0; i < 12; ++i) {
    clients.emplace_back();
    // Later ones may find no room: that is the answer to the earlier ones.
    if (!clients.back().greet(endpoint, RingChoice::kOn).ok()) clients.pop_back();
  }
  if (clients.empty()) return {StatusCode::kInternal, "none was welcome"};
  stay(clients.front());
  return {};
}

/// Neither the control socket nor replies, which are 64 MiB each.
Status never_read(const std::string& endpoint) {
  RawClient client;
  RETURN_IF_ERROR(client.greet(endpoint, ::getpid() % 2 == 0 ? RingChoice::kOn : RingChoice::kOff));
  RETURN_IF_ERROR(client.attach());
  for (int i = 0; i < 8; ++i) {
    if (!client.publish(product(4096, 16, 4096), Deadline::after(kSignInterval)).ok()) break;
  }
  stay(client);
  return {};
}

Status half_of_a_bulk(RawClient& client) {
  const Status sent = client.publish(product(1, kBulk, kBulk), Deadline::now());
  if (sent.code() != StatusCode::kBusy)
    return {StatusCode::kInternal, "it was to stick half way: {}", sent.to_string()};
  return {};
}

Status stop_in_the_middle(const std::string& endpoint) {
  RawClient client;
  RETURN_IF_ERROR(client.greet(endpoint, RingChoice::kOff));
  RETURN_IF_ERROR(client.attach());
  RETURN_IF_ERROR(half_of_a_bulk(client));
  (void)std::raise(SIGSTOP);
  return {};
}

std::size_t blocks_of(const std::vector<UniqueFd>& descriptors) {
  std::size_t blocks = 0;
  for (const UniqueFd& fd : descriptors) {
    struct stat about {};
    if (::fstat(fd.get(), &about) == 0) blocks += static_cast<std::size_t>(about.st_blocks);
  }
  return blocks;
}

/// What it still maps after its goodbye must not be memory any more.
Status keep_mappings(const std::string& endpoint) {
  RawClient client;
  RETURN_IF_ERROR(client.greet(endpoint, RingChoice::kOn));
  RETURN_IF_ERROR(client.attach());
  if (blocks_of(client.descriptors()) == 0) return {StatusCode::kInternal, "no memory to keep"};
  RETURN_IF_ERROR(client.say_goodbye());
  const Deadline deadline = Deadline::after(kPatience);
  while (blocks_of(client.descriptors()) != 0) {
    if (deadline.expired())
      return {StatusCode::kInternal, "{} blocks are kept", blocks_of(client.descriptors())};
    sleep_for(std::chrono::milliseconds(5));
  }
  sleep_for(kSignInterval);
  return {};
}

/// Strangers at the data socket of a session, which must find its own client all the same.
Status crowd_the_door(const std::string& endpoint) {
  RawClient client;
  RETURN_IF_ERROR(client.greet(endpoint, RingChoice::kOn));
  RETURN_IF_ERROR(client.await_door());
  ASSIGN_OR_RETURN(const std::string path, socket_path(client.door()));
  std::vector<UniqueFd> strangers;
  for (int i = 0; i < 100; ++i) {
    auto fd = raw_connection(path, SOCK_STREAM);
    if (!fd.ok()) continue;
    if (i % 2 == 0) (void)::send(fd->get(), path.data(), path.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    strangers.push_back(std::move(*fd));
  }
  if (strangers.empty()) return {StatusCode::kUnavailable, "nobody came to the door"};
  RETURN_IF_ERROR(client.attach());
  ASSIGN_OR_RETURN(const std::string last, socket_path(client.door()));
  if (raw_connection(last, SOCK_STREAM).ok())
    return {StatusCode::kInternal, "the door of an attached session is open"};
  return client.say_goodbye();
}

struct Kind {
  std::string_view name;
  Status (*body)(const std::string& endpoint);
};
constexpr std::array kKinds = {
    Kind{"huge-op", huge_ops},
    Kind{"runs-away", run_away},
    Kind{"junk", junk},
    Kind{"hellos", hellos},
    Kind{"half-open", half_open},
    Kind{"signs", signs},
    Kind{"never-attaches", never_attach},
    Kind{"never-reads", never_read},
    Kind{"stops", stop_in_the_middle},
    Kind{"keeps-mappings", keep_mappings},
    Kind{"crowds-door", crowd_the_door},
};

/// The exit code of a client that the server did not take.
constexpr int kSentAway = 2;

pid_t start_child(const Kind& kind, const std::string& endpoint) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const Status status = kind.body(endpoint);
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.to_string().c_str());
  // One that was sent away could not be bad, which is no fault, and no trial.
  std::_Exit(status.ok() ? 0 : status.code() == StatusCode::kInternal ? 1 : kSentAway);
}

void end_child(pid_t child) {
  (void)::kill(child, SIGKILL);
  (void)::waitpid(child, nullptr, 0);
}

int make_noise(const Kind& kind, const std::string& endpoint, double seconds) {
  int trials = 0;
  int failed = 0;
  int sent_away = 0;
  std::deque<pid_t> stopped;
  const Deadline end =
      Deadline::after(std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9)));
  do {
    const pid_t child = start_child(kind, endpoint);
    int state = 0;
    if (child < 0 || ::waitpid(child, &state, WUNTRACED) != child) return 1;
    if (WIFEXITED(state) && WEXITSTATUS(state) == kSentAway) {
      ++sent_away;
      continue;
    }
    ++trials;
    failed += WIFEXITED(state) && WEXITSTATUS(state) != 0 ? 1 : 0;
    failed += WIFSIGNALED(state) && WTERMSIG(state) != SIGKILL ? 1 : 0;
    if (!WIFSTOPPED(state)) continue;
    stopped.push_back(child);
    sleep_for(kSignInterval);
    if (stopped.size() <= kMostStopped) continue;
    end_child(stopped.front());
    stopped.pop_front();
  } while (!end.expired());
  for (const pid_t child : stopped) end_child(child);
  std::printf("{\"trials\": %d, \"failed\": %d, \"sent_away\": %d}\n", trials, failed, sent_away);
  return failed == 0 && trials > 0 ? 0 : 1;
}

Status come_to(ClientStep last, int signal, const std::string& endpoint, RingChoice ring,
               bool has_pool) {
  std::uint64_t epoch = 0;
  RawClient* self = nullptr;
  RawClient client([&](ClientStep step) {
    if (step >= ClientStep::kWelcomed && self != nullptr) epoch = self->welcome().epoch;
    if (step == last) meet_fate(step, epoch, signal);
  });
  self = &client;
  RETURN_IF_ERROR(client.greet(endpoint, ring, has_pool ? 4096 : 0));
  if (last == ClientStep::kKnocked) return client.knock();
  RETURN_IF_ERROR(client.attach());
  if (last == ClientStep::kBulkHalf) {
    RETURN_IF_ERROR(half_of_a_bulk(client));
    meet_fate(last, epoch, signal);
  }
  const Deadline deadline = Deadline::after(kPatience);
  RETURN_IF_ERROR(has_pool ? client.publish_in_pool(product(64, 64, 64), deadline)
                           : client.publish(product(8, 8, 8), deadline));
  {
    ASSIGN_OR_RETURN(const auto reply, client.receive());
    if (last == ClientStep::kReplyHeld) meet_fate(last, epoch, signal);
  }
  if (has_pool) client.give_places_back();
  return client.say_goodbye();
}

int come_and_go(const std::string& endpoint, int count) {
  int without_lease = 0;
  int refused = 0;
  for (int i = 0; i < count; ++i) {
    RawClient client;
    const auto session = [&]() -> Status {
      RETURN_IF_ERROR(client.greet(endpoint, RingChoice::kOn, 4096));
      RETURN_IF_ERROR(client.attach());
      const Deadline deadline = Deadline::after(kPatience);
      const Status published = client.publish_in_pool(product(64, 64, 64), deadline);
      if (published.code() == StatusCode::kInternal) {
        ++without_lease;
        return {};
      }
      RETURN_IF_ERROR(published);
      RETURN_IF_ERROR(client.receive().status());
      return i % 3 == 0 ? Status() : client.say_goodbye();
    };
    // Those before it may be ending.
    Status status = session();
    if (status.code() == StatusCode::kUnavailable) {
      sleep_for(std::chrono::milliseconds(50));
      --i;
      if (++refused > count + 100) return 1;
      continue;
    }
    if (!status.ok()) {
      std::fprintf(stderr, "session %d: %s\n", i, status.to_string().c_str());
      return 1;
    }
  }
  std::printf("{\"sessions\": %d, \"without_lease\": %d}\n", count, without_lease);
  return 0;
}

int usage() {
  std::fprintf(
      stderr,
      "bad_client ENDPOINT noise KIND SECONDS | sessions COUNT | end STEP kill|stop on|off|pool\n");
  return 2;
}

int run(int argc, char** argv) {
  if (argc < 4) return usage();
  const std::string endpoint = argv[1];
  const std::string_view what = argv[2];
  if (what == "sessions") return come_and_go(endpoint, std::max(std::atoi(argv[3]), 1));
  if (argc < 5) return usage();
  if (what == "noise") {
    const auto kind =
        std::ranges::find_if(kKinds, [&](const Kind& each) { return each.name == argv[3]; });
    return kind == kKinds.end() ? usage() : make_noise(*kind, endpoint, std::atof(argv[4]));
  }
  const auto step = from_name<ClientStep>(argv[3]);
  if (what != "end" || !step || argc != 6) return usage();
  const int signal = std::string_view(argv[4]) == "kill" ? SIGKILL : SIGSTOP;
  const std::string_view paths = argv[5];
  const RingChoice ring = paths == "off" ? RingChoice::kOff : RingChoice::kOn;
  const Status status = come_to(*step, signal, endpoint, ring, paths == "pool");
  std::fprintf(stderr, "it came to no end: %s\n", status.to_string().c_str());
  return 1;
}

}  // namespace
}  // namespace airlock::torture

int main(int argc, char** argv) { return airlock::torture::run(argc, argv); }
