#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/status.h"
#include "pool/shape.h"
#include "proto/limits.h"
#include "proto/ring.h"
#include "runtime/placement/placement.h"

namespace airlock {

enum class PoolMode { kOff, kAuto, kShape };

/// When the int8 weights of private sessions are made.
enum class Int8Making {
  kAuto,     // when the first session asks
  kPreload,  // those of one plane at start
};
constexpr std::string_view name_of(Int8Making making) {
  switch (making) {
    case Int8Making::kAuto:
      return "auto";
    case Int8Making::kPreload:
      return "preload";
  }
  return {};
}

struct PoolOptions {
  PoolMode mode = PoolMode::kAuto;  // kAuto: the largest profile that memory allows, or none
  PoolShape shape;                  // of kShape
  PoolCommit commit = PoolCommit::kLazy;
};

/// The command line of gpu_server, checked. docs/INTERFACE.md says what each option means.
struct ServerOptions {
  std::string model;      // a directory; or empty and
  std::string synthetic;  // a config.json; or empty and
  bool no_model = false;  // the pool and products of the clients' own arrays alone
  std::uint64_t weights_seed = 0;
  std::string endpoint;         // empty: the default
  std::string device = "auto";  // auto, cpu, cuda, cuda:all, cuda:N,...
  std::string cuda_module;      // of a GPU; empty: the one of this build
  bool tf32 = false;            // a GPU may round fp32 operands of products
  std::optional<DType> dtype;   // nullopt: auto
  std::size_t threads = 1;
  // Of the processes that a launcher has started together.
  PlacementKind placement = PlacementKind::kLayers;
  bool door_only = false;  // rank 0 holds no weights
  std::size_t ranks = 1;   // that the launcher has started
  std::string mpi_module;  // empty: the one of this build
  Int8Making int8 = Int8Making::kAuto;
  RingWish ring{RingChoice::kAuto, limits::kDefaultSlotCount, limits::kDefaultSlotBytes};
  // A tensor of strictly fewer bytes may go by the ring; nullopt: what a slot has.
  std::optional<std::uint32_t> path_limit;
  bool finds_path_limit = false;  // each session by trying, up to what a slot has
  PoolOptions pool;
  std::size_t max_clients = limits::kDefaultMaxClients;
  std::optional<std::uint64_t> max_op_flop;  // nullopt: what the model's own ops may take
  std::size_t data_sockets = 1;              // of a session over tcp; 0: auto
  bool insecure_tcp = false;
  // Of a tcp endpoint: whom it lets in, and its own key; both or none.
  std::string authorized_keys;
  std::string key;
  double drain_seconds = 0;  // that sessions have left once a signal asks for the end
  std::string metrics;       // HOST:PORT; empty: none
  std::string stats_json;
  double stats_interval_s = 0;  // 0: none
};

/// The GPUs of "cuda:0,2", as the driver counts, each once; nullopt of anything else.
std::optional<std::vector<std::size_t>> listed_devices(std::string_view device);

/// nullopt: --help or --version was asked for and printed. kUsage: printed already, with what to
/// do.
Result<std::optional<ServerOptions>> parse_server_options(int argc, const char* const* argv);

}  // namespace airlock
