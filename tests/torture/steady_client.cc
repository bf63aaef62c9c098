// Clients of the good kind, which measure what others do to them.
//
//   steady_client ENDPOINT victim
//     A ping and a small product, again and again, until SIGTERM. At that and at SIGUSR1 it prints
//     the times since the last one as JSON. The first op that fails, or gives other bits than the
//     first one gave, ends it with 1.
//   steady_client ENDPOINT fair SESSIONS SECONDS
//     So many sessions, each computing equal ops as fast as it can; prints the counts.
//   steady_client ENDPOINT row COUNT
//     So many sessions, one after the other, each with a ping and a small product.

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/thread.h"
#include "runtime/rpc/client.h"

namespace airlock::torture {
namespace {

// A watchdog, no bound on speed.
constexpr std::chrono::seconds kOpTime{5};
// Rows of a saturating op: a few milliseconds of one core with the tiny model.
constexpr std::int64_t kRows = 1024;

volatile std::sig_atomic_t asked = 0;
volatile std::sig_atomic_t ended = 0;

Result<std::unique_ptr<ClientSession>> connect(const std::string& endpoint) {
  ConnectOptions options;
  options.endpoint = endpoint;
  options.client = "steady_client";
  options.timeout = std::chrono::seconds(10);
  return ClientSession::connect(options);
}

/// Rows of one times gate and up; the bytes of the first result, where `result` is given.
Status multiply(ClientSession& session, std::int64_t rows, std::vector<std::byte>* result) {
  RemoteBackend& backend = session.backend();
  const TensorDesc x{DType::kF32, {rows, backend.info().dims.hidden}};
  const OpSpec spec = linear_spec({{WeightKind::kGate, 0}, {WeightKind::kUp, 0}}, x, DType::kF32);
  ASSIGN_OR_RETURN(const auto pending, backend.prepare(spec, Deadline::after(kOpTime)));
  auto* const values = reinterpret_cast<float*>(pending->input(0).data);
  std::fill_n(values, x.bytes() / sizeof(float), 1.0F);
  RETURN_IF_ERROR(pending->submit());
  RETURN_IF_ERROR(pending->wait());
  if (result == nullptr) return {};
  const auto bytes = pending->result(0).bytes();
  result->assign(bytes.begin(), bytes.end());
  return session.check();
}

class Times {
 public:
  void add(std::uint64_t ns) { ns_.push_back(ns); }
  /// Prints them, and begins anew.
  void tell() {
    std::ranges::sort(ns_);
    const auto at = [&](double part) {
      if (ns_.empty()) return 0.0;
      const auto index = static_cast<std::size_t>(part * static_cast<double>(ns_.size() - 1));
      return static_cast<double>(ns_[index]) / 1e6;
    };
    std::printf("%s\n", fmt::format(R"({{"ops": {}, "p50_ms": {:.3f}, "p99_ms": {:.3f}, )"
                                    R"("max_ms": {:.3f}}})",
                                    ns_.size(), at(0.5), at(0.99), at(1.0))
                            .c_str());
    std::fflush(stdout);
    ns_.clear();
  }

 private:
  std::vector<std::uint64_t> ns_;
};

Status be_a_victim(const std::string& endpoint) {
  ASSIGN_OR_RETURN(const auto session, connect(endpoint));
  std::vector<std::byte> first;
  RETURN_IF_ERROR(multiply(*session, 8, &first));
  std::printf("ready\n");
  std::fflush(stdout);
  Times times;
  std::vector<std::byte> result;
  while (ended == 0) {
    const std::uint64_t start_ns = now_ns();
    RETURN_IF_ERROR(session->backend().ping(Deadline::after(kOpTime)));
    RETURN_IF_ERROR(multiply(*session, 8, &result));
    times.add(now_ns() - start_ns);
    if (result != first) return {StatusCode::kInternal, "the same op gave another result"};
    if (asked != 0) {
      asked = 0;
      times.tell();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  times.tell();
  return {};
}

struct Worker {
  std::unique_ptr<ClientSession> session;
  std::thread thread;
  std::uint64_t count = 0;
  Status status;
};

Status be_fair(const std::string& endpoint, std::size_t sessions, double seconds) {
  std::vector<Worker> workers(sessions);
  for (Worker& worker : workers) {
    ASSIGN_OR_RETURN(worker.session, connect(endpoint));
    RETURN_IF_ERROR(multiply(*worker.session, kRows, nullptr));
  }
  std::atomic<bool> go{false};
  std::atomic<bool> stop{false};
  Status failed;
  for (Worker& worker : workers) {
    auto thread = start_thread("a session", [&worker, &go, &stop] {
      while (!go.load()) std::this_thread::yield();
      worker.status = without_exceptions([&]() -> Status {
        for (; !stop.load(); ++worker.count)
          RETURN_IF_ERROR(multiply(*worker.session, kRows, nullptr));
        return {};
      });
    });
    if (!thread.ok()) {
      failed = thread.status();
      break;
    }
    worker.thread = std::move(*thread);
  }
  go = true;
  if (failed.ok())
    std::this_thread::sleep_for(std::chrono::nanoseconds(static_cast<std::int64_t>(seconds * 1e9)));
  stop = true;
  std::string counts;
  for (Worker& worker : workers) {
    if (worker.thread.joinable()) worker.thread.join();
    if (failed.ok()) failed = worker.status;
    counts += fmt::format("{}{}", counts.empty() ? "" : ", ", worker.count);
  }
  std::printf("[%s]\n", counts.c_str());
  return failed;
}

Status come_in_a_row(const std::string& endpoint, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const auto session, connect(endpoint));
    RETURN_IF_ERROR(session->backend().ping(Deadline::after(kOpTime)));
    RETURN_IF_ERROR(multiply(*session, 8, nullptr));
  }
  return {};
}

int run(int argc, char** argv) {
  std::signal(SIGUSR1, [](int) { asked = 1; });
  std::signal(SIGTERM, [](int) { ended = 1; });
  const std::string endpoint = argc > 2 ? argv[1] : "";
  const std::string_view what = argc > 2 ? argv[2] : "";
  Status status(StatusCode::kUsage,
                "steady_client ENDPOINT victim | fair SESSIONS SECONDS | row COUNT");
  if (what == "victim") status = be_a_victim(endpoint);
  if (what == "fair" && argc == 5)
    status = be_fair(endpoint, std::strtoul(argv[3], nullptr, 10), std::atof(argv[4]));
  if (what == "row" && argc == 4)
    status = come_in_a_row(endpoint, std::strtoul(argv[3], nullptr, 10));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.to_string().c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace airlock::torture

int main(int argc, char** argv) { return airlock::torture::run(argc, argv); }
