#include "tools/airlock_pool/check.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/available_memory.h"
#include "base/file.h"
#include "base/safe_text.h"
#include "client/pool_client.h"
#include "runtime/json/writer.h"
#include "runtime/program/program.h"
#include "runtime/text/figures.h"
#include "tools/airlock_pool/list.h"
#include "tools/airlock_stat/show.h"
#include "tools/airlock_stat/source.h"

namespace airlock::pool_tool {
namespace {

Finding ok(std::string what, std::string text) {
  return {Level::kOk, std::move(what), std::move(text)};
}
Finding note(std::string what, std::string text) {
  return {Level::kNote, std::move(what), std::move(text)};
}
Finding problem(std::string what, StatusCode code, std::string text) {
  return {Level::kProblem, std::move(what), std::move(text), code};
}
Finding problem(std::string what, const Status& status) {
  return problem(std::move(what), status.code(), status.message());
}

/// As the file has them, for one more session.
void check_room(const CountersSnapshot& snapshot, Findings& findings) {
  const PoolShape& shape = snapshot.server.pool;
  if (snapshot.sessions_active >= snapshot.server.max_clients) {
    // Some of them may be ending, and hold no place: a session of one's own tells.
    findings.push_back(
        note("sessions", fmt::format("{} are under way or ending, and {} have a place: "
                                     "gpu_server's --max-clients",
                                     snapshot.sessions_active, snapshot.server.max_clients)));
  }
  bool has_all = true;
  PoolFigures::Free spare = snapshot.pool.spare;
  for (const PoolUse use : kValuesOf<PoolUse>) {
    const PoolFigures::Free& own = snapshot.pool.own[use];
    const std::uint64_t longest = std::max(own.longest_run, spare.longest_run);
    // Nobody has to have scratch.
    const bool is_needed = use != PoolUse::kScratch;
    const std::uint64_t free_slots = own.slots + spare.slots;
    // A session takes one use after the other, and what it takes of the spare ones the next has
    // not.
    if (const std::uint64_t taken = std::min(longest, shape.quota(use)); taken > own.longest_run) {
      spare.slots -= taken;
      spare.longest_run -= taken;
    }
    if (longest >= shape.quota(use) && (longest > 0 || !is_needed)) continue;
    has_all = false;
    std::string text = fmt::format(
        "of {} slots ({}), {} of them spare, {} are free, {} of them in a row; a session may have "
        "{}: wait for one to end (airlock_pool list says who has what), or give gpu_server a "
        "larger --pool or --pool-slots",
        shape.slots[use] + shape.spare_slots, name_of(use), shape.spare_slots, free_slots, longest,
        shape.quota(use));
    const bool is_full = longest == 0 && is_needed;
    findings.push_back(is_full ? problem("room", StatusCode::kResourceExhausted, std::move(text))
                               : note("room", std::move(text)));
  }
  if (!has_all) return;
  findings.push_back(
      ok("room", fmt::format("one more session finds {} in, {} out, {} scratch",
                             size_text(shape.quota(PoolUse::kInput) * shape.slot_bytes),
                             size_text(shape.quota(PoolUse::kOutput) * shape.slot_bytes),
                             size_text(shape.quota(PoolUse::kScratch) * shape.slot_bytes))));
}

void check_memory(const CountersSnapshot& snapshot, std::optional<std::uint64_t> available_bytes,
                  Findings& findings) {
  if (snapshot.server.pool_commit == PoolCommit::kAll) {
    findings.push_back(ok("memory", "all of it was taken at start"));
    return;
  }
  if (!available_bytes) {
    findings.push_back(note("memory", "the system does not say how much is available"));
    return;
  }
  // What is leased may have been touched already.
  const std::uint64_t needed =
      snapshot.server.pool.bytes() -
      std::min(snapshot.server.pool.bytes(), snapshot.pool.leased_all_bytes());
  if (needed <= *available_bytes) {
    findings.push_back(ok("memory", fmt::format("{} are available for the {} that nobody has",
                                                size_text(*available_bytes), size_text(needed))));
    return;
  }
  findings.push_back(problem(
      "memory", StatusCode::kResourceExhausted,
      fmt::format("{} are available, and the pool takes {} more when all of it is touched: use a "
                  "smaller gpu_server --pool, or free some",
                  size_text(*available_bytes), size_text(needed))));
}

/// Two matrices of small whole numbers, of which every type has the product exactly.
template <typename T>
Status multiply(const std::shared_ptr<PoolClient>& client, DType dtype, bool& is_inside) {
  constexpr std::int64_t kSide = 64;
  const TensorDesc desc{dtype, Shape{kSide, kSide}};
  ASSIGN_OR_RETURN(const auto a, client->alloc(PoolUse::kInput, desc));
  ASSIGN_OR_RETURN(const auto b, client->alloc(PoolUse::kInput, desc));
  ASSIGN_OR_RETURN(const auto result, client->alloc(PoolUse::kOutput, desc));
  is_inside = a->is_inside() && b->is_inside() && result->is_inside();
  constexpr std::size_t kCount = kSide * kSide;
  std::vector<T> left(kCount), right(kCount), product(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    left[i] = static_cast<T>(static_cast<int>(i * 7 % 17) - 8);
    right[i] = static_cast<T>(static_cast<int>(i * 5 % 13) - 6);
  }
  std::memcpy(a->bytes().data(), left.data(), a->bytes().size());
  std::memcpy(b->bytes().data(), right.data(), b->bytes().size());
  ASSIGN_OR_RETURN(const auto job, client->start_matmul(*a, *b, Transpose::kNone, *result));
  RETURN_IF_ERROR(job->wait());
  RETURN_IF_ERROR(client->copy_out(*result, 0, std::as_writable_bytes(std::span(product))));
  for (std::size_t row = 0; row < kSide; ++row) {
    for (std::size_t column = 0; column < kSide; ++column) {
      T expected = 0;
      for (std::size_t k = 0; k < kSide; ++k)
        expected += left[row * kSide + k] * right[k * kSide + column];
      const T got = product[row * kSide + column];
      if (got == expected) continue;
      return {StatusCode::kMismatch,
              "row {}, column {} of the product is {}, expected {}",
              row,
              column,
              got,
              expected};
    }
  }
  return {};
}

template <typename T>
Finding check_product(const std::shared_ptr<PoolClient>& client, DType dtype, bool has_pool) {
  std::string what(name_of(dtype));
  bool is_inside = false;
  const Status status = multiply<T>(client, dtype, is_inside);
  if (!status.ok()) return problem(std::move(what), status);
  if (is_inside) return ok(std::move(what), "a product is computed in place, and is right");
  std::string text = "a product is right, and its arrays crossed instead of lying in the pool";
  return has_pool ? problem(std::move(what), StatusCode::kInvalidInput, std::move(text))
                  : note(std::move(what), std::move(text));
}

}  // namespace

Findings check_endpoint(const Endpoint& endpoint) {
  if (endpoint.kind != Endpoint::Kind::kIpc) {
    return {problem("endpoint", StatusCode::kInvalidInput,
                    "over tcp no memory is shared: start gpu_server with an ipc:// endpoint, and "
                    "give that")};
  }
  if (const Status status = check_endpoint_directory(endpoint.directory(), IfMissing::kRefuse);
      !status.ok()) {
    return {problem("folder", status)};
  }
  Findings findings = {ok("folder", endpoint.directory() + " is your own alone")};
  struct stat info {};
  if (::lstat(endpoint.path.c_str(), &info) != 0) {
    if (errno != ENOENT) {
      findings.push_back(problem("socket", os_error("look at " + endpoint.path, errno)));
      return findings;
    }
    if (const auto absent = no_server(endpoint)) {
      findings.push_back(problem("server", *absent));
      return findings;
    }
  }
  const auto wrong = [&](const std::string& fault) {
    findings.push_back(problem("socket", StatusCode::kInvalidInput,
                               fmt::format("{} {}: end the server, remove it, start the server "
                                           "again",
                                           endpoint.path, fault)));
    return findings;
  };
  if (!S_ISSOCK(info.st_mode)) return wrong("is no socket");
  if (info.st_uid != ::geteuid())
    return wrong(fmt::format("belongs to user {}, not to {}", info.st_uid, ::geteuid()));
  if ((info.st_mode & 0777) != 0600)
    return wrong(fmt::format("has mode {:04o}, not 0600", info.st_mode & 07777));
  findings.push_back(ok("socket", endpoint.path + " is your own alone"));
  return findings;
}

Findings check_server(const CountersSnapshot& snapshot, const std::optional<PoolShape>& expected,
                      std::optional<std::uint64_t> available_bytes) {
  if (const ServerState state = state_of(snapshot); state != ServerState::kServing) {
    return {problem("server", StatusCode::kUnavailable,
                    fmt::format("pid {} {}", snapshot.pid,
                                state == ServerState::kEnded
                                    ? "was killed: start another"
                                    : "hangs or was stopped: wait, or end it and start another"))};
  }
  Findings findings = {ok("server", describe_state(snapshot))};
  const PoolShape& shape = snapshot.server.pool;
  if (shape.slot_count() == 0) {
    findings.push_back(problem("pool", StatusCode::kInvalidInput,
                               "there is none: " + why_no_pool(snapshot.server) +
                                   "; start it with --pool PROFILE or a size"));
    return findings;
  }
  if (expected && expected->bytes() != shape.bytes()) {
    findings.push_back(
        problem("pool", StatusCode::kMismatch,
                fmt::format("it has {} ({}), not {} ({}): start gpu_server with that --pool",
                            size_text(shape.bytes()), shape.to_string(),
                            size_text(expected->bytes()), expected->to_string())));
  } else {
    findings.push_back(
        ok("pool", fmt::format("{} in {}", size_text(shape.bytes()), shape.to_string())));
  }
  check_room(snapshot, findings);
  check_memory(snapshot, available_bytes, findings);
  const std::string& device = snapshot.server.host.device;
  findings.push_back(device.starts_with("cuda")
                         ? ok("device", device + ", which pins each lease when its session begins")
                         : note("device", device + ": nothing is pinned, as there is no GPU; "
                                                   "nothing to do"));
  return findings;
}

Findings check_session(const Options& options, bool has_pool) {
  PoolClientOptions wanted;
  wanted.endpoint = options.endpoint;
  wanted.client = "airlock_pool check";
  wanted.timeout = wanted.op_timeout = options.timeout;
  // Any slot has so much, and either product fits.
  wanted.lease = {{limits::kMinPoolSlotBytes, limits::kMinPoolSlotBytes, 0}};
  wanted.inline_bytes = 4096;
  const auto client = PoolClient::connect(wanted);
  if (!client.ok()) return {problem("session", client.status())};
  const PoolClientFigures figures = (*client)->figures();
  Findings findings;
  bool is_leased = true;
  for (const PoolUse use : {PoolUse::kInput, PoolUse::kOutput})
    is_leased &= figures.uses[use].leased_bytes > 0;
  if (is_leased) {
    findings.push_back(ok("session", "it got its lease"));
  } else if (has_pool) {
    findings.push_back(problem("session", StatusCode::kResourceExhausted,
                               "it got nothing of the pool for operands or for results: "
                               "airlock_pool list says who has it"));
  } else {
    findings.push_back(note("session", "it is served, without a pool"));
  }
  const bool should_be_inside = has_pool && is_leased;
  findings.push_back(check_product<float>(*client, DType::kF32, should_be_inside));
  findings.push_back((*client)->multiplies_fp64()
                         ? check_product<double>(*client, DType::kF64, should_be_inside)
                         : note("fp64",
                                "this server does not multiply it; nothing to do, unless "
                                "you need it"));
  (*client)->close();
  return findings;
}

std::string show_findings(const Findings& findings, OutputForm form) {
  const auto problems = std::ranges::count_if(
      findings, [](const auto& found) { return found.level == Level::kProblem; });
  if (form == OutputForm::kJson) {
    std::vector<JsonObject> all;
    for (const Finding& found : findings)
      all.push_back({{"level", found.level}, {"what", found.what}, {"text", found.text}});
    return JsonObject{{"problems", problems}, {"findings", all}}.line();
  }
  std::string text;
  for (const Finding& found : findings) {
    text += fmt::format("{}: {}: {}\n", name_of(found.level), found.what,
                        without_controls(found.text, "?"));
  }
  return text;
}

Status verdict(const Findings& findings) {
  const Finding* first = nullptr;
  std::size_t count = 0;
  for (const Finding& found : findings) {
    if (found.level != Level::kProblem) continue;
    if (first == nullptr) first = &found;
    ++count;
  }
  if (first == nullptr) return {};
  return {first->code, "{} {}, the first: {}", count, count == 1 ? "problem" : "problems",
          first->what};
}

Status run_check(const Options& options) {
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(options.endpoint));
  Findings findings = check_endpoint(endpoint);
  const auto add = [&findings](Findings more) {
    findings.insert(findings.end(), std::make_move_iterator(more.begin()),
                    std::make_move_iterator(more.end()));
  };
  // Where nobody can be reached, or one's own trust would be misplaced, the rest says nothing.
  if (verdict(findings).ok()) {
    const auto snapshot = look(endpoint);
    bool has_pool = false;
    bool is_there = true;
    if (snapshot.ok()) {
      has_pool = snapshot->server.pool.slot_count() > 0;
      is_there = state_of(*snapshot) == ServerState::kServing;
      add(check_server(*snapshot, options.expected, memory_available_bytes()));
    } else if (snapshot.status().code() == StatusCode::kUnavailable) {
      // The session tells whether there is a server.
      findings.push_back(options.expected
                             ? problem("counters", snapshot.status())
                             : note("counters", std::string(snapshot.status().message())));
    } else {
      findings.push_back(problem("counters", snapshot.status()));
    }
    if (is_there) add(check_session(options, has_pool));
  }
  RETURN_IF_ERROR(print(show_findings(findings, options.form)));
  return verdict(findings);
}

}  // namespace airlock::pool_tool
