#include "tests/hostile/run.h"

#include <unistd.h>

#include <cstdio>

namespace airlock::hostile {

Segments& Run::begin_session(std::uint64_t seed) {
  note_.seed = seed;
  note_.mutation = Mutation::kNone;
  if (!segments_ || segments_->truncated()) {
    segments_.reset();
    segments_ = std::make_unique<Segments>();
  }
  segments_->format();
  words_.forget();
  return *segments_;
}

void Run::count(Mutation mutation, End end) {
  if (mutation != Mutation::kNone) ++mutations_;
  ++tally_[mutation][static_cast<std::size_t>(end)];
}

/// At once: other threads may be in the middle of anything. The process that watches says the seed.
void Run::fail(const std::string& what) const {
  std::fprintf(stderr, "hostile_session_test: %s\n", what.c_str());
  std::fflush(stderr);
  ::_exit(1);
}

std::string Run::table() const {
  std::string text =
      fmt::format("{:36} {:>8} {:>8} {:>8}\n", "mutation", "taken", "refused", "silent");
  for (const Mutation mutation : kValuesOf<Mutation>) {
    const auto& [taken, refused, silent] = tally_[mutation];
    text += fmt::format("{:36} {:>8} {:>8} {:>8}\n", name_of(mutation), taken, refused, silent);
  }
  return text;
}

Mutation choose_mutation(std::mt19937_64& random) {
  if (random() % 4 == 0) return Mutation::kNone;
  const Mutation mutation = kValuesOf<Mutation>[random() % kCountOf<Mutation>];
  // These cost new segments, or a wait: fewer of them.
  const bool dear = mutation == Mutation::kTruncation || mutation == Mutation::kUnread;
  return dear && random() % 8 != 0 ? Mutation::kFlag : mutation;
}

}  // namespace airlock::hostile
