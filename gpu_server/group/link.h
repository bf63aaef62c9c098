#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace airlock {

/// `rows` times `width` bytes, each row `pitch` bytes after the one before.
struct ByteRows {
  std::byte* data = nullptr;
  std::size_t width = 0;
  std::size_t rows = 0;
  std::size_t pitch = 0;

  static ByteRows dense(std::byte* data, std::size_t bytes) { return {data, bytes, 1, bytes}; }
  std::size_t bytes() const { return width * rows; }
};

/// What is larger crosses in pieces: while a slow link carries them, each that arrives is a sign of
/// life.
inline constexpr std::size_t kMaxLinkBytes = std::size_t{2} << 20;

/// Carries bytes among the ranks of a group: the processes of one host's owner, who trust each
/// other. All calls on the thread that opened it. What one rank sends another with one tag arrives
/// in the order in which it was sent, and receives with one tag are filled in the order in which
/// they were posted. Both sides give the same width and number of rows, at most kMaxLinkBytes in
/// all unless that is one row, but a receive of one row may have room for more than is sent.
class GroupLink {
 public:
  /// Of one send or receive, the caller's to choose.
  using Ticket = std::uint64_t;
  static constexpr int kMaxTag = 32767;  // all that MPI promises

  virtual ~GroupLink() = default;
  virtual std::size_t rank() const = 0;
  virtual std::size_t ranks() const = 0;
  /// Of this rank's machine.
  virtual std::string host() const = 0;
  /// What carries the bytes, for people: "Open MPI 4.1.4, pml ob1".
  virtual std::string what() const = 0;
  /// Begins to send; the memory is only read, until poll() gives the ticket. kDevice: the link is
  /// of no use any more, here and below.
  virtual Status send(std::size_t to, int tag, const ByteRows& rows, Ticket ticket) = 0;
  /// Begins to receive; the memory may be written until poll() gives the ticket.
  virtual Status receive(std::size_t from, int tag, const ByteRows& rows, Ticket ticket) = 0;
  /// Moves on what is under way, and appends the tickets of what is over. Never waits.
  virtual Status poll(std::vector<Ticket>& over) = 0;
  /// Parts from the others, who do likewise; what is still under way is given up. May wait for
  /// them, so somebody has to watch. Once, the last call.
  virtual void finish() = 0;
  /// Ends all ranks at once, this process with `exit_code`.
  [[noreturn]] virtual void abort(int exit_code) = 0;
};

}  // namespace airlock
