#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "base/deadline.h"
#include "base/status.h"

namespace airlock {

/// Bytes of a text, from the first to the one behind the last.
struct TextRange {
  std::size_t begin = 0;
  std::size_t end = 0;

  std::size_t size() const { return end - begin; }
  std::string_view of(std::string_view text) const { return text.substr(begin, end - begin); }
  bool operator==(const TextRange&) const = default;
};

/// A compiled regular expression, over PCRE2. Thread-safe.
class Regex {
 public:
  class Search;

  /// `pattern` is PCRE2's, as split_pattern.h makes it. kInvalidInput where it is none.
  static Result<Regex> compile(std::string_view pattern);

 private:
  struct Code;
  explicit Regex(std::shared_ptr<const Code> code) : code_(std::move(code)) {}

  // Shared by copies; never changes.
  std::shared_ptr<const Code> code_;
};

/// Finds a Regex in texts, one after the other, from left to right. One thread.
class Regex::Search {
 public:
  /// After `deadline` no match is looked for.
  Search(const Regex& regex, Deadline deadline);
  ~Search();
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;

  /// A text, UTF-8, which outlives the search in it.
  void start(std::string_view text);
  /// The next match; nullopt: no more. An empty one at the end of the one before it is none.
  /// kInvalidInput where it takes more steps than any use of it needs, or the deadline was reached.
  Result<std::optional<TextRange>> next();

 private:
  struct State;
  int match(std::size_t last_start);
  /// Of the first match that begins at `at_` or later, what the library says. kInvalidInput where
  /// the deadline was reached before.
  Result<int> find();

  const std::unique_ptr<State> state_;
  std::string_view text_;
  std::size_t at_ = 0;
  bool ended_ = true;
  // Where the match before ended.
  std::optional<std::size_t> last_end_;
  std::size_t round_ = 0;
};

}  // namespace airlock
