#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/unique_fd.h"
#include "shm/segment.h"

namespace airlock::hostile {

/// The two rings' segments of a session, each mapped twice: once for the honest side, between pages
/// that nobody may touch, so that one byte beside it ends the process; and once for the hostile
/// side. Made once for many sessions.
class Segments {
 public:
  enum Ring : std::size_t { kRequest, kReply };
  Segments();

  /// For a new session: both superblocks written, all control words zero.
  void format();
  const std::shared_ptr<Segment>& honest(Ring ring) const { return pairs_[ring].honest.segment; }
  Segment& hostile(Ring ring) const { return *pairs_[ring].hostile; }
  /// Cuts the file; the segments are of no use to the next session.
  void truncate(Ring ring, std::size_t bytes);
  bool truncated() const { return truncated_; }

 private:
  /// A mapping that nobody may touch.
  struct Guard {
    explicit Guard(std::span<std::byte> mapping) : pages(mapping) {}
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    ~Guard();
    std::span<std::byte> pages;
  };
  struct Guarded {
    std::unique_ptr<Guard> below;
    std::unique_ptr<Guard> above;
    std::shared_ptr<Segment> segment;
  };
  struct Pair {
    Guarded honest;
    std::unique_ptr<Segment> hostile;
    UniqueFd fd;
  };
  static Guarded make_guarded();
  static std::unique_ptr<Guard> guard_at(std::byte* address, std::size_t bytes);

  std::array<Pair, 2> pairs_;
  bool truncated_ = false;
};

}  // namespace airlock::hostile
