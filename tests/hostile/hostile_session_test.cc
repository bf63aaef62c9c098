// A hostile peer on a live session, both ways: an honest side (serve(), or a RemoteBackend) over a
// real ring in shared memory and a real pair of sockets, and against it an end that speaks the
// protocol until it does one thing wrong. What must come of each such thing is known wherever the
// protocol can tell; else an answer, a refusal, or silence that ends with the peer's life.
//
//   hostile_session_test [--side client|server] [--mutations N] [--seed S] [--jobs J]
//
// A session mostly waits, for what may never come: J processes share the mutations, each with seeds
// of its own.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>

#include "base/check.h"
#include "base/deadline.h"
#include "tests/hostile/run.h"

namespace airlock::hostile {
namespace {

enum class Side : std::uint8_t { kClient, kServer };
constexpr std::string_view name_of(Side side) {
  switch (side) {
    case Side::kClient:
      return "client";
    case Side::kServer:
      return "server";
  }
  return {};
}

constexpr std::uint64_t kMostJobs = 64;
/// More seeds than a job ever uses.
constexpr std::uint64_t kSeedsOfJob = std::uint64_t{1} << 32;

struct Options {
  std::vector<Side> sides{kValuesOf<Side>.begin(), kValuesOf<Side>.end()};
  std::uint64_t mutations = 2000;
  std::uint64_t seed = 1;
  std::uint64_t jobs = 1;
};

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    const std::string_view value = argv[i + 1];
    if (name == "--side") {
      const auto side = from_name<Side>(value);
      if (!side) return std::nullopt;
      options.sides = {*side};
      continue;
    }
    std::uint64_t* number = nullptr;
    if (name == "--mutations") number = &options.mutations;
    if (name == "--seed") number = &options.seed;
    if (name == "--jobs") number = &options.jobs;
    if (number == nullptr) return std::nullopt;
    const auto [stop, error] = std::from_chars(value.data(), value.data() + value.size(), *number);
    if (error != std::errc() || stop != value.data() + value.size()) return std::nullopt;
  }
  const bool usable = argc % 2 == 1 && options.jobs > 0 && options.jobs <= kMostJobs;
  return usable ? std::optional(options) : std::nullopt;
}

/// What a session must not leave behind.
struct Things {
  std::size_t descriptors = 0;
  std::size_t threads = 0;
  std::size_t segments = 0;
  bool operator==(const Things&) const = default;

  static Things now() {
    const auto count = [](const char* directory, const std::string& prefix) {
      std::size_t found = 0;
      for (const auto& entry : std::filesystem::directory_iterator(directory))
        found += entry.path().filename().string().starts_with(prefix) ? 1 : 0;
      return found;
    };
    const std::string own =
        fmt::format("airlock-{}-{:08x}", ::geteuid(), static_cast<unsigned>(::getpid()));
    return {count("/proc/self/fd", ""), count("/proc/self/task", ""), count("/dev/shm", own)};
  }
};

int run_side(Side side, const Options& options, Note& note) {
  const Cases cases;
  Run run(cases, note);
  const auto session = side == Side::kClient ? hostile_client_session : hostile_server_session;
  std::uint64_t seed = options.seed;
  session(run, seed);  // the first one makes what all share
  const Things before = Things::now();
  const std::uint64_t start_ns = now_ns();
  while (run.mutations() < options.mutations) session(run, ++seed);
  const double seconds = static_cast<double>(now_ns() - start_ns) / 1e9;
  // A thread that was joined may still be listed for a moment.
  const Deadline deadline = Deadline::after(kWatchdog);
  while (Things::now() != before && !deadline.expired()) ::usleep(1000);
  const Things after = Things::now();
  run.demand(after == before,
             "left behind: {} descriptors, {} threads, {} segments, before {} {} {}",
             after.descriptors, after.threads, after.segments, before.descriptors, before.threads,
             before.segments);
  std::printf("hostile %s: %llu mutations in %llu sessions from seed %llu, %.1f s\n%s",
              std::string(name_of(side)).c_str(), static_cast<unsigned long long>(run.mutations()),
              static_cast<unsigned long long>(seed - options.seed + 1),
              static_cast<unsigned long long>(options.seed), seconds, run.table().c_str());
  // By now every word was rewritten.
  constexpr std::uint64_t kEnough = 20000;
  const auto untouched = run.words().untouched();
  run.demand(options.mutations < kEnough || untouched.empty(), "{} words were never rewritten: {}",
             untouched.size(), untouched.empty() ? "" : untouched.front());
  return 0;
}

/// In a process of its own, so that its end, whatever it is, can be told with the seed.
class Job {
 public:
  Job(Side side, const Options& options) : side_(side) {
    void* const page =
        ::mmap(nullptr, sizeof(Note), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    note_ = new (page) Note;
    std::fflush(stdout);
    child_ = ::fork();
    CHECK(child_ >= 0);
    if (child_ == 0) std::exit(run_side(side, options, *note_));
  }

  /// Whether all held.
  bool wait() const {
    int state = 0;
    CHECK(::waitpid(child_, &state, 0) == child_);
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0) return true;
    std::fprintf(
        stderr,
        "hostile_session_test: FAILED (%s %d) in the session of seed %llu, at \"%s\"; again: "
        "hostile_session_test --side %s --mutations 1 --seed %llu\n",
        WIFSIGNALED(state) ? "signal" : "exit",
        WIFSIGNALED(state) ? WTERMSIG(state) : WEXITSTATUS(state),
        static_cast<unsigned long long>(note_->seed), std::string(name_of(note_->mutation)).c_str(),
        std::string(name_of(side_)).c_str(), static_cast<unsigned long long>(note_->seed));
    return false;
  }

 private:
  const Side side_;
  Note* note_ = nullptr;  // until this process ends
  pid_t child_ = -1;
};

bool run_jobs(Side side, Options options) {
  options.mutations = (options.mutations + options.jobs - 1) / options.jobs;
  std::vector<Job> jobs;
  for (std::uint64_t left = options.jobs; left > 0; --left) {
    jobs.emplace_back(side, options);
    options.seed += kSeedsOfJob;
  }
  bool held = true;
  for (const Job& job : jobs) held = job.wait() && held;
  return held;
}

}  // namespace
}  // namespace airlock::hostile

int main(int argc, char** argv) {
  using namespace airlock::hostile;
  const auto options = parse(argc, argv);
  if (!options) {
    std::fprintf(stderr, "usage: %s [--side client|server] [--mutations N] [--seed S] [--jobs J]\n",
                 argv[0]);
    return 2;
  }
  for (const Side side : options->sides) {
    if (!run_jobs(side, *options)) return 1;
  }
  return 0;
}
