#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "tests/hostile/draft.h"
#include "tests/hostile/segments.h"

namespace airlock::hostile {

/// The hostile hand on the words of both rings, and a record of which words it wrote. One thread.
class SharedWords {
 public:
  /// Rewrites what `mutation` says, in either ring; nullopt where it is none of shared memory.
  /// `out` is the ring that the hostile side sends by.
  std::optional<Outcome> rewrite(Mutation mutation, Segments& segments, Segments::Ring out,
                                 std::mt19937_64& random);
  /// Remembers a slot's header, to replay it.
  void remember(Segments& segments, Segments::Ring ring, std::mt19937_64& random);
  void forget() { kept_.clear(); }

  /// Words of superblocks and slots that were never written: "reply slot 3 word 2".
  std::vector<std::string> untouched() const;

 private:
  // Of one ring: the identity, the bells and the waiting words, and each slot's flag and header.
  static constexpr std::size_t kIdentityWords = 16;
  static constexpr std::size_t kBellWords = 4;
  static constexpr std::size_t kSlotWords = 17;
  static constexpr std::size_t kSlots = 8;
  static constexpr std::size_t kWords = kIdentityWords + kBellWords + kSlots * kSlotWords;
  static std::size_t offset_of(std::size_t word);

  void write(Segments& segments, Segments::Ring ring, std::size_t word, std::mt19937_64& random);

  std::array<std::array<std::uint64_t, kWords>, 2> written_{};
  struct Kept {
    Segments::Ring ring;
    std::size_t slot;
    std::array<std::uint32_t, kSlotWords> words;
  };
  std::vector<Kept> kept_;
};

}  // namespace airlock::hostile
