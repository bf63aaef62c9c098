#pragma once

#include <array>
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
#include "runtime/text/output_form.h"

namespace airlock::xfer {

enum class Mode : std::uint8_t { kEcho, kStream };
enum class ZmqTransport : std::uint8_t { kIpc, kTcp };

constexpr std::string_view name_of(Mode mode) {
  switch (mode) {
    case Mode::kEcho:
      return "echo";
    case Mode::kStream:
      return "stream";
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

/// As --path calls it. nullopt: auto, the one that the runtime takes for a size.
constexpr std::string_view path_name(std::optional<Path> path) {
  return path ? name_of(*path) : "auto";
}

/// Where the main threads of this process and of the peer run.
using CpuPair = std::array<int, 2>;

/// The command line of airlock_xfer, checked. docs/INTERFACE.md says what each option means.
struct Options {
  // All that there are, and auto.
  std::vector<std::optional<Path>> paths = [] {
    std::vector<std::optional<Path>> all(kPaths.begin(), kPaths.end());
    all.emplace_back();
    return all;
  }();
  // Ascending.
  std::vector<std::size_t> sizes;
  // How they came about, for the header.
  std::string sizes_text;
  std::uint64_t iterations = 100;
  std::uint64_t warmup = 10;
  bool check = true;
  Mode mode = Mode::kEcho;
  std::size_t inflight = 4;
  RingGeometry geometry{limits::kDefaultSlotCount, limits::kDefaultSlotBytes};
  ZmqTransport zmq = ZmqTransport::kIpc;
  // nullopt: wherever the system puts them.
  std::optional<CpuPair> cpus;
  double max_seconds = 2;
  std::chrono::milliseconds timeout{10000};
  OutputForm form = OutputForm::kMarkdown;
  // As it was given.
  std::string command;
};

/// nullopt: --help or --version was asked for and printed. kUsage says what is wrong with which
/// value.
Result<std::optional<Options>> parse_options(int argc, const char* const* argv);

}  // namespace airlock::xfer
