#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/enum.h"

namespace airlock {

enum class ReplaySpeed : std::uint8_t {
  kMax,       // the next op as soon as there is room for it
  kRecorded,  // no op before its recorded start
};
enum class ReplayVerify : std::uint8_t {
  kNone,
  kDigest,     // outputs are the recorded bytes
  kTolerance,  // outputs are near the recorded ones
};

constexpr std::string_view name_of(ReplaySpeed speed) {
  switch (speed) {
    case ReplaySpeed::kMax:
      return "max";
    case ReplaySpeed::kRecorded:
      return "recorded";
  }
  return {};
}

constexpr std::string_view name_of(ReplayVerify verify) {
  switch (verify) {
    case ReplayVerify::kNone:
      return "none";
    case ReplayVerify::kDigest:
      return "digest";
    case ReplayVerify::kTolerance:
      return "tolerance";
  }
  return {};
}

/// What is asked of a replay.
struct ReplaySettings {
  // The trace.
  std::string file;
  ReplaySpeed speed = ReplaySpeed::kMax;
  ReplayVerify verify = ReplayVerify::kNone;
  // Times that each client replays it, one after the other.
  std::size_t repeat = 1;
  std::size_t clients = 1;
  // Ops of one client that are under way at once.
  std::size_t inflight = 1;
  // Of the inputs, where the trace has no payload.
  std::uint64_t seed = 0;
};

}  // namespace airlock
