#pragma once

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/enum.h"

namespace airlock::torture {

/// Where in the protocol a client can end, in the order in which it comes by.
enum class ClientStep : std::uint8_t {
  kConnected,
  kGreeted,
  kWelcomed,
  kMapped,
  // Connected to the data socket without having shown the token.
  kKnocked,
  kTokenSent,
  // With what it leases of the pool, mapped and touched.
  kAttached,
  // Of a request in the pool: its places are chosen; then they are written.
  kAllocated,
  kFilled,
  kPublished,
  kBulkHalf,
  // The reply was received, its places are not given back.
  kReplyHeld,
  // The places were given back.
  kFreed,
  kGoodbye,
};
constexpr std::string_view name_of(ClientStep step) {
  switch (step) {
    case ClientStep::kConnected:
      return "connected";
    case ClientStep::kGreeted:
      return "greeted";
    case ClientStep::kWelcomed:
      return "welcomed";
    case ClientStep::kMapped:
      return "mapped";
    case ClientStep::kKnocked:
      return "knocked";
    case ClientStep::kTokenSent:
      return "token-sent";
    case ClientStep::kAttached:
      return "attached";
    case ClientStep::kAllocated:
      return "allocated";
    case ClientStep::kFilled:
      return "filled";
    case ClientStep::kPublished:
      return "published";
    case ClientStep::kBulkHalf:
      return "bulk-half";
    case ClientStep::kReplyHeld:
      return "reply-held";
    case ClientStep::kFreed:
      return "freed";
    case ClientStep::kGoodbye:
      return "goodbye";
  }
  return {};
}

/// The same of a server.
enum class ServerStep : std::uint8_t {
  kListening,
  kAccepted,
  kHeard,
  kWelcomed,
  // The data socket is announced and nobody was let in.
  kAnnounced,
  // The token was heard, the runner was not told.
  kAdmitted,
  // What the runner leases of the pool is taken, and the runner was not told.
  kLeased,
  kAttached,
  kRequestTaken,
  // Of a reply the header has left and not the tensor (socket), or it is written and not
  // published (ring).
  kReplyHalf,
  kAnswered,
};
constexpr std::string_view name_of(ServerStep step) {
  switch (step) {
    case ServerStep::kListening:
      return "listening";
    case ServerStep::kAccepted:
      return "accepted";
    case ServerStep::kHeard:
      return "heard";
    case ServerStep::kWelcomed:
      return "welcomed";
    case ServerStep::kAnnounced:
      return "announced";
    case ServerStep::kAdmitted:
      return "admitted";
    case ServerStep::kLeased:
      return "leased";
    case ServerStep::kAttached:
      return "attached";
    case ServerStep::kRequestTaken:
      return "request-taken";
    case ServerStep::kReplyHalf:
      return "reply-half";
    case ServerStep::kAnswered:
      return "answered";
  }
  return {};
}

/// Says where this process is, and ends or stops it there.
template <typename Step>
void meet_fate(Step step, std::uint64_t epoch, int signal) {
  std::printf("at %s %016llx\n", std::string(name_of(step)).c_str(),
              static_cast<unsigned long long>(epoch));
  std::fflush(stdout);
  (void)std::raise(signal);
}

}  // namespace airlock::torture
