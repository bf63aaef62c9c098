#pragma once

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <string_view>

#include "base/enum.h"
#include "tests/hostile/cases.h"
#include "tests/hostile/draft.h"
#include "tests/hostile/segments.h"
#include "tests/hostile/shared_words.h"

namespace airlock::hostile {

/// How long an honest side may take to do what it must, on a machine that does other things. A
/// watchdog, not a bound.
inline constexpr std::chrono::seconds kWatchdog{30};
/// How long the hostile side waits for what may never come.
inline constexpr std::chrono::milliseconds kPatience{5};

/// What came of one mutation.
enum class End : std::uint8_t { kTaken, kRefused, kSilent };

/// What this process does now, in memory that the process which watches it reads when it died.
struct Note {
  std::uint64_t seed = 0;
  Mutation mutation = Mutation::kNone;
};

/// Many sessions, one after the other, each of its own seed.
class Run {
 public:
  Run(const Cases& cases, Note& note) : cases_(cases), note_(note) {}

  const Cases& cases() const { return cases_; }
  SharedWords& words() { return words_; }
  /// Of a new session, formatted.
  Segments& begin_session(std::uint64_t seed);
  void begin(Mutation mutation) { note_.mutation = mutation; }
  void count(Mutation mutation, End end);
  /// Prints what was wrong and how to see it again, and ends the process, unless `holds`.
  template <typename... Args>
  void demand(bool holds, fmt::format_string<Args...> format, Args&&... args) {
    if (!holds) fail(fmt::format(format, std::forward<Args>(args)...));
  }
  std::uint64_t mutations() const { return mutations_; }
  std::string table() const;

  Segments* segments() const { return segments_.get(); }

 private:
  [[noreturn]] void fail(const std::string& what) const;

  const Cases& cases_;
  Note& note_;
  SharedWords words_;
  std::unique_ptr<Segments> segments_;
  PerValue<Mutation, std::array<std::uint64_t, 3>> tally_;
  std::uint64_t mutations_ = 0;
};

/// Any but kNone, which is one in four.
Mutation choose_mutation(std::mt19937_64& random);

/// One session in which the client is hostile: serve() against a RawEnd.
void hostile_client_session(Run& run, std::uint64_t seed);
/// One session in which the server is hostile: a RemoteBackend against a RawEnd.
void hostile_server_session(Run& run, std::uint64_t seed);

}  // namespace airlock::hostile
