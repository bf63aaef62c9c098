#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/status.h"
#include "runtime/json/reader.h"
#include "tee_runner/tokenizer/regex.h"

namespace airlock {

/// A text and the words that it was split into, as the model gets them.
struct Words {
  std::string text;
  std::vector<TextRange> ranges;
  // Whether the whole text that is tokenized begins here.
  bool at_start = false;
};

/// The pre-tokenizer of a tokenizer.json: splits a text into words, and writes bytes or spaces in
/// the vocabulary's way. Thread-safe.
class PreTokenizer {
 public:
  /// `root` is the whole file. What is wrong, or not supported, is told to the reader.
  static PreTokenizer read(const JsonReader& root);

  /// Words that are empty go. kInvalidInput where a pattern gives up on the text, or does not
  /// end before the deadline.
  Status apply(Words& words, Deadline deadline) const;

 private:
  enum class Kind : std::uint8_t { kSplit, kPrefixSpace, kBytes, kMetaspace };
  /// Of a kSplit: what becomes words.
  enum class Keep : std::uint8_t { kAll, kMatches, kRest };
  enum class Prepend : std::uint8_t { kAlways, kFirst, kNever };
  struct Step {
    Kind kind = Kind::kSplit;
    std::optional<Regex> regex;
    Keep keep = Keep::kAll;
    // Of a kMetaspace.
    std::string replacement{};
    Prepend prepend = Prepend::kAlways;
    bool split = true;
  };

  void read_part(const JsonReader& part);
  void read_split(const JsonReader& part);
  void read_byte_level(const JsonReader& part);
  void read_metaspace(const JsonReader& part);
  /// `pattern` is PCRE2's.
  void add_split(const JsonReader& place, std::string_view pattern, Keep keep = Keep::kAll);
  static Status split(const Step& step, Deadline deadline, Words& words);
  static void prefix_space(Words& words);
  static void write_bytes(Words& words);
  static void write_metaspace(const Step& step, Words& words);

  std::vector<Step> steps_;
};

}  // namespace airlock
