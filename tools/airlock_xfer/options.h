#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/handshake.h"
#include "proto/limits.h"
#include "runtime/text/output_form.h"
#include "tools/airlock_xfer/cpu_pin.h"

namespace airlock::xfer {

enum class PathAsked : std::uint8_t { kRing, kZmq, kAuto };
std::string_view path_name(PathAsked path);

enum class Mode : std::uint8_t { kEcho, kStream };
enum class ZmqTransport : std::uint8_t { kIpc, kTcp };

inline constexpr std::uint64_t kMaxIterations = 1'000'000;
inline constexpr std::size_t kMaxInflight = 64;

/// The command line of airlock_xfer, checked. docs/INTERFACE.md says what each option means.
struct Options {
  std::vector<PathAsked> paths{PathAsked::kRing, PathAsked::kZmq, PathAsked::kAuto};
  std::vector<std::size_t> sizes;  // ascending
  std::string sizes_text;          // how they came about, for the header
  std::uint64_t iterations = 100;
  std::uint64_t warmup = 10;
  bool check = true;
  Mode mode = Mode::kEcho;
  std::size_t inflight = 4;
  RingGeometry geometry{limits::kDefaultSlotCount, limits::kDefaultSlotBytes};
  ZmqTransport zmq = ZmqTransport::kIpc;
  std::optional<CpuPair> cpus;  // nullopt: wherever the system puts them
  double max_seconds = 2;
  std::chrono::milliseconds timeout{10000};
  OutputForm form = OutputForm::kMarkdown;
  std::string command;  // as it was given
};

/// nullopt: --help or --version was asked for and printed. kUsage says what is wrong with which
/// value.
Result<std::optional<Options>> parse_options(int argc, const char* const* argv);

}  // namespace airlock::xfer
