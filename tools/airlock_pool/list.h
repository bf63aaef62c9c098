#pragma once

#include <string>

#include "base/status.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/stats/counters_reader.h"
#include "runtime/text/output_form.h"

namespace airlock::pool_tool {

/// What the server at `endpoint` counts, from its file on this machine. kUnavailable: there is no
/// server, and what to do; else as check_endpoint_directory() and read_counters_file().
Result<CountersSnapshot> look(const Endpoint& endpoint);

/// Why a server without a pool has none, as far as its file tells.
std::string why_no_pool(const ServerInfo& server);

/// The pool and its holders: lines and tables, or one object.
std::string show_pool(const CountersSnapshot& snapshot, OutputForm form);

}  // namespace airlock::pool_tool
