#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "proto/limits.h"

namespace airlock {

/// Writes msgpack arrays, unsigned numbers and texts. Its calls are those of WireReader, so that
/// one function lists the fields of a message for both ways; names and bounds are for the reader.
/// One thread.
class WireWriter {
 public:
  explicit WireWriter(std::span<const std::byte> head = {}) : bytes_(head.begin(), head.end()) {}
  void array(std::string_view what, std::size_t count);
  void body(std::string_view what, std::size_t count) { array(what, count); }
  /// An unsigned number or bool.
  template <typename T>
  void number(std::string_view, T value, std::uint64_t = 0, std::uint64_t = 0) {
    pack_number(static_cast<std::uint64_t>(value));
  }
  template <typename E>
  void enumerator(std::string_view what, E value) {
    number(what, value);
  }
  /// At most `max_bytes` of `value`, cut between UTF-8 characters; what without_controls() replaces
  /// becomes '?', so that no text of ours is refused by the reader.
  void text(std::string_view what, std::string_view value, std::size_t max_bytes);
  /// Any but kBusy (CHECKed), which is this process's own word: no peer makes a caller try again.
  void status_code(StatusCode code, StatusCode least);
  /// [dtype, [extents]]
  void tensor(std::string_view what, const TensorDesc& desc);
  /// At most `most` values (CHECKed), each of which `field` writes.
  template <typename T, typename Field>
  void list(std::string_view what, const std::vector<T>& values, std::size_t most, Field field) {
    CHECK(values.size() <= most);
    array(what, values.size());
    for (const T& value : values) field(value);
  }
  /// What must hold is the reader's business.
  void demand(const auto&...) {}
  std::vector<std::byte> take() && { return std::move(bytes_); }

 private:
  void pack_number(std::uint64_t value);

  std::vector<std::byte> bytes_;
};

/// Reads what WireWriter writes, from bytes that a peer sent: allocates nothing that a peer can
/// size, and keeps the first error. After an error each call gives the least value it may, so that
/// a caller can read on and look at finish() once. The bytes must be private memory and outlive the
/// reader. One thread.
class WireReader {
 public:
  /// What a peer of a newer minor version may have put behind the elements that we know.
  enum class Rest : std::uint8_t { kRefuse, kIgnore };
  explicit WireReader(std::span<const std::byte> bytes, Rest rest = Rest::kRefuse);

  void array(std::string_view what, std::size_t count) { counted(what, count, count); }
  /// The array that is the whole message: it may have more elements where the rest is ignored.
  void body(std::string_view what, std::size_t count) {
    counted(what, count, rest_ == Rest::kIgnore ? limits::kMaxWireTokens : count);
  }
  /// An unsigned number or bool in [least, most].
  template <typename T>
  void number(std::string_view what, T& value, std::uint64_t least = 0,
              std::uint64_t most = std::numeric_limits<T>::max()) {
    value = static_cast<T>(next_number(what, least, most));
  }
  /// One that has a name.
  template <typename E>
  void enumerator(std::string_view what, E& value) {
    static_assert(index_of(kValuesOf<E>.back()) + 1 == kCountOf<E>);
    number(what, value, static_cast<std::uint64_t>(kValuesOf<E>.front()),
           static_cast<std::uint64_t>(kValuesOf<E>.back()));
  }
  void text(std::string_view what, std::string& value, std::size_t max_bytes);
  /// A code that may travel, from `least` on.
  void status_code(StatusCode& code, StatusCode least);
  /// A tensor of at most limits::kMaxTensorBytes.
  void tensor(std::string_view what, TensorDesc& desc);
  template <typename T, typename Field>
  void list(std::string_view what, std::vector<T>& values, std::size_t most, Field field) {
    values.resize(counted(what, 0, most));
    for (T& value : values) field(value);
  }
  /// Fails the whole, unless it failed already.
  template <typename... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    if (ok())
      status_ = {StatusCode::kProtocolError, fmt::format(format, std::forward<Args>(args)...)};
  }
  /// Fails the whole unless `holds`.
  template <typename... Args>
  void demand(bool holds, fmt::format_string<Args...> format, Args&&... args) {
    if (!holds) fail(format, std::forward<Args>(args)...);
  }
  void demand(const Status& status) { demand(status.ok(), "{}", status.message()); }
  bool ok() const { return status_.ok(); }
  /// kProtocolError with the first thing that was wrong, or for values left over unless they are to
  /// be ignored.
  Status finish() const;

 private:
  struct Collector;
  enum class Kind : std::uint8_t { kNumber, kText, kArray, kOther };
  struct Token {
    Kind kind = Kind::kOther;
    std::uint64_t number = 0;  // of kArray: the element count
    std::string_view text;
  };
  const Token* next(std::string_view what, Kind kind);
  std::uint64_t next_number(std::string_view what, std::uint64_t least, std::uint64_t most);
  /// The element count of an array, in [least, most]. 0 after an error.
  std::size_t counted(std::string_view what, std::size_t least, std::size_t most);

  const Rest rest_;
  std::array<Token, limits::kMaxWireTokens> tokens_;
  std::size_t count_ = 0;
  std::size_t at_ = 0;
  Status status_;
};

}  // namespace airlock
