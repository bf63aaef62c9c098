#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "proto/limits.h"

namespace airlock {

/// Writes msgpack arrays, unsigned numbers and texts. One thread.
class WireWriter {
 public:
  explicit WireWriter(std::span<const std::byte> head = {}) : bytes_(head.begin(), head.end()) {}
  void array(std::size_t count);
  void number(std::uint64_t value);
  /// At most `max_bytes` of `value`, cut between UTF-8 characters; control characters become '?',
  /// so that no text of ours is refused by the reader.
  void text(std::string_view value, std::size_t max_bytes);
  /// Any but kBusy (CHECKed), which is this process's own word: no peer makes a caller try again.
  void status_code(StatusCode code);
  /// [dtype, [extents]]
  void tensor(const TensorDesc& desc);
  std::vector<std::byte> take() && { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Reads what WireWriter writes, from bytes that a peer sent: allocates nothing that a peer can
/// size, and keeps the first error. After an error each call gives the least value it may, so that
/// a caller can read on and look at finish() once. Views lie in the bytes given, which must be
/// private memory and outlive the reader. One thread.
class WireReader {
 public:
  explicit WireReader(std::span<const std::byte> bytes);

  /// The element count of an array, in [least, most]. 0 after an error.
  std::size_t array(std::string_view what, std::size_t least, std::size_t most);
  std::uint64_t number(std::string_view what, std::uint64_t least, std::uint64_t most);
  std::string_view text(std::string_view what, std::size_t max_bytes);
  /// A code that may travel, from `least` on.
  StatusCode status_code(StatusCode least);
  /// A tensor of at most limits::kMaxTensorBytes.
  TensorDesc tensor(std::string_view what);
  /// Fails the whole, unless it failed already.
  void fail(std::string message);
  bool ok() const { return status_.ok(); }

  enum class Rest : std::uint8_t { kRefuse, kIgnore };
  /// kProtocolError with the first thing that was wrong, or for values left over unless they are to
  /// be ignored.
  Status finish(Rest rest) const;

 private:
  struct Collector;
  enum class Kind : std::uint8_t { kNumber, kText, kArray, kOther };
  struct Token {
    Kind kind = Kind::kOther;
    std::uint64_t number = 0;  // of kArray: the element count
    std::string_view text;
  };
  const Token* next(std::string_view what, Kind kind);

  std::array<Token, limits::kMaxWireTokens> tokens_;
  std::size_t count_ = 0;
  std::size_t at_ = 0;
  Status status_;
};

}  // namespace airlock
