#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/json/reader.h"
#include "tee_runner/tokenizer/flat_map.h"
#include "tee_runner/tokenizer/normalizer.h"
#include "tee_runner/tokenizer/regex.h"
#include "tee_runner/tokenizer/vocabulary.h"

namespace airlock {

/// Finds which of a set of texts, not empty, another one goes on with: the longest of them.
/// Thread-safe while nobody adds.
class LongestMatch {
 public:
  /// The number of the last one of equal texts counts.
  void add(std::string_view text, std::uint32_t number);
  struct Found {
    std::uint32_t number = 0;
    std::size_t bytes = 0;
  };
  std::optional<Found> at(std::string_view text) const;
  bool empty() const { return node_count_ == 1; }

 private:
  struct Node {
    std::uint32_t node = 0;
  };
  struct Number {
    std::uint32_t number = 0;
  };
  // From a node and a byte to the next node; the first node is 0.
  FlatMap<Node> next_;
  FlatMap<Number> numbers_;
  std::array<bool, 256> begins_{};
  std::uint32_t node_count_ = 1;
};

/// A part of a text: an added token, or what lies between two.
struct TextPart {
  TextRange range;
  // kNoToken: text.
  std::int32_t id = kNoToken;
};

/// The added tokens of a tokenizer.json, which are found in a text before anything else is done
/// with it. Thread-safe.
class AddedTokens {
 public:
  static constexpr std::size_t kMaxCount = std::size_t{1} << 16;

  /// `root` is the whole file. Adds its tokens to `vocabulary`. What is wrong is told to the
  /// reader.
  static AddedTokens read(const JsonReader& root, const Normalizer& normalizer,
                          Vocabulary& vocabulary);

  /// Which are looked for: those found in a text as it is given, or in what the normalizer made of
  /// it.
  enum class Stage : std::uint8_t { kGiven, kNormalized };
  /// `text` as parts, in order. A token lies within one of `spans`, which are ascending and apart;
  /// the white space that it takes with it may lie outside.
  std::vector<TextPart> split(std::string_view text, std::span<const TextRange> spans,
                              Stage stage) const;
  bool any(Stage stage) const { return !matcher(stage).empty(); }

  /// By id: those that are special.
  std::vector<bool> special(const Vocabulary& vocabulary) const;

 private:
  struct Token {
    std::int32_t id = kNoToken;
    bool single_word = false;
    bool lstrip = false;
    bool rstrip = false;
    bool normalized = false;
    bool special = false;
  };
  class Splitter;
  const LongestMatch& matcher(Stage stage) const {
    return stage == Stage::kGiven ? given_ : normalized_;
  }
  void read_token(const JsonReader& item, const Normalizer& normalizer, Vocabulary& vocabulary,
                  std::int32_t model_tokens);
  bool is_word_character(std::string_view character) const;

  std::vector<Token> tokens_;
  std::int32_t largest_id_ = kNoToken;
  LongestMatch given_;
  LongestMatch normalized_;
  // Where a token is a single_word.
  std::optional<Regex> word_character_;
};

}  // namespace airlock
