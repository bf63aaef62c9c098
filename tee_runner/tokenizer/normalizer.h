#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "runtime/json/reader.h"
#include "tee_runner/tokenizer/regex.h"

namespace airlock {

/// The longest text that is tokenized.
inline constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;

/// The normalizer of a tokenizer.json: what is put before a text and replaced in it. Thread-safe.
class Normalizer {
 public:
  /// `root` is the whole file. What is wrong, or not supported, is told to the reader.
  static Normalizer read(const JsonReader& root);

  /// `spans`, of `text`, ascending and apart, become the same spans of what it becomes; a character
  /// that was made from one outside of a span is in none. kInvalidInput where the text would become
  /// several times as long.
  Status apply(std::string& text, std::vector<TextRange>& spans) const;

 private:
  struct Step {
    // Of what is replaced; empty: `content` is put before the text.
    std::string pattern;
    std::string content;
  };
  static void prepend(std::string_view content, std::string& text, std::vector<TextRange>& spans);
  /// May leave the text half done once it is over `most_bytes`.
  static void replace(const Step& step, std::size_t most_bytes, std::string& text,
                      std::vector<TextRange>& spans);

  std::vector<Step> steps_;
};

}  // namespace airlock
