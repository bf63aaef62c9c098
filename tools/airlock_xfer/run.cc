#include "tools/airlock_xfer/run.h"

#include <fmt/format.h>
#include <sys/utsname.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "runtime/stats/report.h"
#include "tools/airlock_xfer/measure.h"
#include "tools/airlock_xfer/pair.h"
#include "tools/airlock_xfer/plan.h"

namespace airlock::xfer {
namespace {

/// Of the largest size at once, both processes together: source, two tensors under way and what
/// is half sent, and the copy against which memcpy is measured.
constexpr std::size_t kCopiesAtOnce = 6;

std::uint64_t available_bytes() {
  std::ifstream info("/proc/meminfo");
  for (std::string word; info >> word;) {
    std::uint64_t kib = 0;
    if (word == "MemAvailable:" && info >> kib) return kib << 10;
  }
  return ~std::uint64_t{0};  // unknown: let the allocations find out
}

Status check_memory(const Options& options) {
  const std::uint64_t need = std::uint64_t{options.sizes.back()} * kCopiesAtOnce;
  const std::uint64_t have = available_bytes();
  if (need <= have) return {};
  return {StatusCode::kResourceExhausted,
          "sizes up to {} need {} of memory, available are {}: use a smaller -e",
          size_text(options.sizes.back()), size_text(need), size_text(have)};
}

Facts describe(const Options& options) {
  const HostReport host = describe_host("cpu");
  struct utsname system = {};
  (void)::uname(&system);
  std::array<double, 3> load{};
  if (::getloadavg(load.data(), 3) != 3) load = {};
  const bool is_echo = options.mode == Mode::kEcho;
  return {{"command", options.command},
          {"machine",
           fmt::format("{}, {}, {} CPUs, {} {}, load {:.2f} {:.2f} {:.2f}", host.name, host.cpu,
                       host.cores, system.sysname, system.release, load[0], load[1], load[2])},
          {"sizes", options.sizes_text},
          {"ring", fmt::format("{} slots of {} bytes each way; a tensor of strictly fewer bytes "
                               "goes by the ring; ZeroMQ over {}",
                               options.geometry.slot_count, options.geometry.slot_bytes,
                               options.zmq == ZmqTransport::kIpc ? "ipc" : "loopback tcp")},
          {"rows", fmt::format("{} iterations after {} to warm up, at most {} s a row; {}",
                               options.iterations, options.warmup, options.max_seconds,
                               options.check ? "every byte checked" : "nothing checked")},
          {"mode", is_echo ? std::string("echo: latency is half a round trip, GB/s (10^9 bytes) "
                                         "one way over half the median round trip")
                           : fmt::format("stream, {} under way: latency is from send to reply, "
                                         "GB/s (10^9 bytes) over the whole time",
                                         options.inflight)},
          {"cpus", options.cpus.has_value() ? fmt::format("this process on {}, its peer on {}",
                                                          (*options.cpus)[0], (*options.cpus)[1])
                                            : std::string("wherever the system puts them")},
          {"x memcpy", "time of one way over that of one memcpy of the size in this process"}};
}

}  // namespace

Outcome run(const Options& options, const ResultTable::Sink& sink, int signal_fd,
            const Hooks& hooks) {
  if (Status memory = check_memory(options); !memory.ok()) return {std::move(memory), {}};
  auto pair = Pair::start(options, hooks, signal_fd);
  if (!pair.ok()) return {pair.status(), {}};
  ResultTable table(options.form, sink);
  table.begin(describe(options));
  Status status = table.finish(measure_all(**pair, table));
  return {std::move(status), table.rows()};
}

}  // namespace airlock::xfer
