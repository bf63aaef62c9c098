#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/limits.h"
#include "proto/path.h"
#include "proto/ring.h"
#include "tools/airlock_xfer/cpu_pin.h"

namespace airlock::xfer {

enum class PathAsked : std::uint8_t { kRing, kZmq, kAuto };
enum class Mode : std::uint8_t { kEcho, kStream };
enum class Format : std::uint8_t { kMd, kCsv, kJson };
enum class ZmqTransport : std::uint8_t { kIpc, kTcp };

constexpr std::string_view name_of(PathAsked path) {
  switch (path) {
    case PathAsked::kRing:
      return airlock::name_of(Path::kRing);
    case PathAsked::kZmq:
      return airlock::name_of(Path::kZmq);
    case PathAsked::kAuto:
      return "auto";
  }
  return {};
}

constexpr std::string_view name_of(Mode mode) {
  switch (mode) {
    case Mode::kEcho:
      return "echo";
    case Mode::kStream:
      return "stream";
  }
  return {};
}

constexpr std::string_view name_of(Format format) {
  switch (format) {
    case Format::kMd:
      return "md";
    case Format::kCsv:
      return "csv";
    case Format::kJson:
      return "json";
  }
  return {};
}

constexpr std::string_view name_of(ZmqTransport transport) {
  switch (transport) {
    case ZmqTransport::kIpc:
      return "ipc";
    case ZmqTransport::kTcp:
      return "tcp";
  }
  return {};
}

inline constexpr std::uint64_t kMaxIterations = 1'000'000;
inline constexpr std::size_t kMaxInflight = 64;

/// The command line of airlock_xfer, checked. docs/INTERFACE.md says what each option means.
struct Options {
  std::vector<PathAsked> paths{PathAsked::kRing, PathAsked::kZmq, PathAsked::kAuto};
  std::vector<std::size_t> sizes;  // ascending
  std::string sizes_text;          // how they came about, for the header
  std::uint64_t iterations = 100;
  std::uint64_t warmup = 10;
  int check = 1;
  Mode mode = Mode::kEcho;
  std::size_t inflight = 4;
  RingGeometry geometry{limits::kDefaultSlotCount, limits::kDefaultSlotBytes};
  ZmqTransport zmq = ZmqTransport::kIpc;
  std::optional<CpuPair> cpus;  // nullopt: wherever the system puts them
  double max_seconds = 2;
  std::chrono::milliseconds timeout{10000};
  Format format = Format::kMd;
  std::string command;  // as it was given
};

/// nullopt: --help or --version was asked for and printed. kUsage says what is wrong with which
/// value.
Result<std::optional<Options>> parse_options(int argc, const char* const* argv);

}  // namespace airlock::xfer
