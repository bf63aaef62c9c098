#include "tests/hostile/segments.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <string>

#include "base/check.h"
#include "shm/ring_memory.h"
#include "tests/channel/channel_rigs.h"

namespace airlock::hostile {

using testing_rigs::kEpoch;
using testing_rigs::kGeometry;

namespace {

constexpr int kAttempts = 64;

std::string fresh_name() {
  static std::atomic<std::uint64_t> next{0};
  return make_segment_name(::geteuid(),
                           (static_cast<std::uint64_t>(::getpid()) << 32) | next.fetch_add(1),
                           SegmentDirection::kRequest);
}

}  // namespace

Segments::Guard::~Guard() { ::munmap(pages.data(), pages.size()); }

/// nullptr where something else lies there. Anywhere for a null address.
std::unique_ptr<Segments::Guard> Segments::guard_at(std::byte* address, std::size_t bytes) {
  void* const mapped =
      ::mmap(address, bytes, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | (address == nullptr ? 0 : MAP_FIXED_NOREPLACE), -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  return std::make_unique<Guard>(std::span(static_cast<std::byte*>(mapped), bytes));
}

/// The kernel maps from the top down: what is mapped right after the upper guard lies below it, as
/// soon as all larger gaps are filled. What came elsewhere is kept meanwhile, to fill them.
Segments::Guarded Segments::make_guarded() {
  const std::size_t bytes = ring_segment_bytes(kGeometry).value();
  std::vector<Guarded> elsewhere;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Guarded made;
    made.above = guard_at(nullptr, bytes);
    made.segment = Segment::create(fresh_name(), bytes).value();
    std::byte* const begin = made.segment->bytes().data();
    made.below = guard_at(begin - bytes, bytes);
    if (made.above && made.below && begin + bytes == made.above->pages.data()) return made;
    elsewhere.push_back(std::move(made));
  }
  CHECK(!"no place for a segment between two guards");
  return {};
}

Segments::Segments() {
  for (Pair& pair : pairs_) {
    pair.honest = make_guarded();
    Segment& segment = *pair.honest.segment;
    pair.hostile = Segment::open(segment.name(), segment.bytes().size()).value();
    pair.fd = UniqueFd(::open(("/dev/shm/" + segment.name()).c_str(), O_RDWR | O_CLOEXEC));
    CHECK(pair.fd.valid());
    segment.unlink();
  }
}

void Segments::format() {
  CHECK(!truncated_);
  for (const Pair& pair : pairs_) {
    std::memset(pair.hostile->bytes().data(), 0, ring_layout::ring_offsets(kGeometry)->header);
    CHECK(format_ring(*pair.honest.segment, kGeometry, kEpoch).ok());
  }
}

void Segments::truncate(Ring ring, std::size_t bytes) {
  CHECK(::ftruncate(pairs_[ring].fd.get(), static_cast<off_t>(bytes)) == 0);
  truncated_ = true;
}

}  // namespace airlock::hostile
