#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/stats/counters_reader.h"
#include "runtime/text/output_form.h"
#include "tools/airlock_pool/options.h"

namespace airlock::pool_tool {

enum class Level : std::uint8_t { kOk, kNote, kProblem };
constexpr std::string_view name_of(Level level) {
  switch (level) {
    case Level::kOk:
      return "ok";
    case Level::kNote:
      return "note";
    case Level::kProblem:
      return "problem";
  }
  return {};
}

/// One line of what was found.
struct Finding {
  Level level = Level::kOk;
  std::string what;                   // in a word: "socket"
  std::string text;                   // how it is, and what to do
  StatusCode code = StatusCode::kOk;  // of a problem
};
using Findings = std::vector<Finding>;

/// The folder and the socket of `endpoint`, which must be ipc for a pool.
Findings check_endpoint(const Endpoint& endpoint);
/// What a server's file says, for one more session. `available_bytes`: of memory, where known.
Findings check_server(const CountersSnapshot& snapshot, const std::optional<PoolShape>& expected,
                      std::optional<std::uint64_t> available_bytes);
/// A session with a small lease, and products in it. `has_pool`: there is one by the file.
Findings check_session(const Options& options, bool has_pool);

/// "ok|note|problem: WHAT: TEXT" each, or one object.
std::string show_findings(const Findings& findings, OutputForm form);
/// The first problem's code, and how many there are.
Status verdict(const Findings& findings);

/// All of it, printed.
Status run_check(const Options& options);

}  // namespace airlock::pool_tool
