#include "tests/hostile/shared_words.h"

#include <fmt/format.h>

#include <atomic>

#include "shm/ring_layout.h"
#include "tests/channel/channel_rigs.h"

namespace airlock::hostile {
namespace {

using ring_layout::SlotControl;
using ring_layout::Superblock;
using testing_rigs::kGeometry;

constexpr auto kOffsets = *ring_layout::ring_offsets(kGeometry);
static_assert(kGeometry.slot_count == 8);

/// The honest side reads at the same time: a whole word at once, as its own peer would write it.
std::atomic_ref<std::uint32_t> word_at(Segment& segment, std::size_t offset) {
  return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(segment.bytes().data() + offset));
}

void spoil(Segment& segment, std::size_t begin, std::size_t bytes, std::mt19937_64& random) {
  const std::size_t offset = begin + random() % (bytes / 4) * 4;
  word_at(segment, offset).store(static_cast<std::uint32_t>(random()), std::memory_order_relaxed);
}

}  // namespace

std::size_t SharedWords::offset_of(std::size_t word) {
  if (word < kIdentityWords) return word * 4;
  word -= kIdentityWords;
  static constexpr std::size_t kBells[] = {
      offsetof(Superblock, published_bell), offsetof(Superblock, consumer_waiting),
      offsetof(Superblock, freed_bell), offsetof(Superblock, producer_waiting)};
  if (word < kBellWords) return kBells[word];
  word -= kBellWords;
  const std::size_t control = kOffsets.control + word / kSlotWords * sizeof(SlotControl);
  const std::size_t part = word % kSlotWords;
  return control + (part == 0 ? 0 : offsetof(SlotControl, header) + (part - 1) * 4);
}

void SharedWords::write(Segments& segments, Segments::Ring ring, std::size_t word,
                        std::mt19937_64& random) {
  const auto place = word_at(segments.hostile(ring), offset_of(word));
  const std::uint32_t was = place.load(std::memory_order_relaxed);
  std::uint32_t now = was;
  while (now == was) now = static_cast<std::uint32_t>(odd_number(was, random));
  place.store(now, std::memory_order_release);
  ++written_[ring][word];
}

std::optional<Outcome> SharedWords::rewrite(Mutation mutation, Segments& segments,
                                            Segments::Ring out, std::mt19937_64& random) {
  const auto ring = static_cast<Segments::Ring>(random() % 2);
  Segment& segment = segments.hostile(ring);
  const std::size_t first_slot_word = kIdentityWords + kBellWords;
  const std::size_t slot = random() % kSlots;
  switch (mutation) {
    case Mutation::kSuperblock:
      write(segments, ring, random() % kIdentityWords, random);
      return Outcome::kRefused;
    case Mutation::kBell:
      write(segments, ring, kIdentityWords + random() % kBellWords, random);
      return Outcome::kTaken;
    case Mutation::kFlag:
      write(segments, ring, first_slot_word + slot * kSlotWords, random);
      return Outcome::kAny;
    case Mutation::kSlotHeader:
      // Low slots are in use most.
      write(segments, ring,
            first_slot_word + random() % (random() % 2 == 0 ? 2 : kSlots) * kSlotWords + 1 +
                random() % (kSlotWords - 1),
            random);
      return Outcome::kAny;
    case Mutation::kSlotHeaderReplayed: {
      if (kept_.empty()) return std::nullopt;
      const Kept& kept = kept_[random() % kept_.size()];
      for (std::size_t i = 1; i < kSlotWords; ++i) {
        const std::size_t word = first_slot_word + kept.slot * kSlotWords + i;
        word_at(segments.hostile(kept.ring), offset_of(word))
            .store(kept.words[i], std::memory_order_relaxed);
      }
      if (random() % 2 == 0) {
        word_at(segments.hostile(kept.ring), offset_of(first_slot_word + kept.slot * kSlotWords))
            .store(kept.words[0], std::memory_order_release);
      }
      return Outcome::kAny;
    }
    case Mutation::kHeaderArea:
      spoil(segment, kOffsets.header + slot * limits::kHeaderBytes, 128, random);
      return Outcome::kAny;
    case Mutation::kPayload:
      spoil(segment, kOffsets.payload + random() % 2 * kGeometry.slot_bytes, 1024, random);
      return Outcome::kTakenAsItIs;
    case Mutation::kManyWords:
      for (std::size_t left = 1 + random() % 200; left > 0; --left) {
        const auto any = static_cast<Segments::Ring>(random() % 2);
        write(segments, any, kIdentityWords + random() % (kWords - kIdentityWords), random);
      }
      return Outcome::kAny;
    case Mutation::kTruncation: {
      const bool all = random() % 2 == 0;
      segments.truncate(out, all ? 0 : random() % segment.bytes().size());
      return Outcome::kAny;
    }
    default:
      return std::nullopt;
  }
}

void SharedWords::remember(Segments& segments, Segments::Ring ring, std::mt19937_64& random) {
  Kept kept{ring, random() % 2, {}};
  for (std::size_t i = 0; i < kSlotWords; ++i) {
    kept.words[i] = word_at(segments.hostile(ring),
                            offset_of(kIdentityWords + kBellWords + kept.slot * kSlotWords + i))
                        .load(std::memory_order_relaxed);
  }
  kept_.push_back(kept);
}

std::vector<std::string> SharedWords::untouched() const {
  std::vector<std::string> words;
  for (std::size_t ring = 0; ring < 2; ++ring) {
    for (std::size_t word = 0; word < kWords; ++word) {
      if (written_[ring][word] == 0)
        words.push_back(
            fmt::format("{} byte {}", ring == 0 ? "requests" : "replies", offset_of(word)));
    }
  }
  return words;
}

}  // namespace airlock::hostile
