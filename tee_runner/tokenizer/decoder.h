#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/json/reader.h"

namespace airlock {

/// The decoder of a tokenizer.json: how the texts of tokens become text. Thread-safe.
class Decoder {
 public:
  /// `root` is the whole file. What is wrong, or not supported, is told to the reader.
  static Decoder read(const JsonReader& root);

  class Stream;

 private:
  enum class Kind : std::uint8_t { kReplace, kByteFallback, kMetaspace, kStrip, kSpaceBetween };
  enum class Join : std::uint8_t { kNone, kTexts, kBytes };
  struct Step {
    Kind kind = Kind::kReplace;
    std::string pattern;  // or a kMetaspace's or kStrip's character
    std::string content;
    bool drops_first = false;  // of a kMetaspace
    std::size_t start = 0;     // of a kStrip
    std::size_t stop = 0;
  };

  void read_part(const JsonReader& part);
  void read_replace(const JsonReader& part);
  void read_metaspace(const JsonReader& part);
  void read_strip(const JsonReader& part);
  void add(const JsonReader& part, Step step);

  // Token by token.
  std::vector<Step> steps_;
  Join join_ = Join::kNone;
  // What is stripped from the beginning of the whole, one after the other.
  std::vector<Step> strips_;
};

/// One run of tokens on its way to text. What it gives out is UTF-8, whole characters. One thread;
/// the Decoder outlives it.
class Decoder::Stream {
 public:
  explicit Stream(const Decoder& decoder);

  /// Appends to `out` what is certain now. A token may be all of a character, a part of one, or
  /// undecided until the next: bytes of a run of byte tokens are told only when it ends, for one
  /// that is bad makes each of them a U+FFFD.
  void push(std::string_view token, std::string& out);
  /// The rest; an incomplete character is a U+FFFD. The next token begins a new run.
  void flush(std::string& out);

 private:
  struct StepState {
    bool begun = false;
    std::string bytes;
  };
  void reset();
  void give(std::size_t step, std::string_view token, std::string& out);
  void release(std::size_t step, std::string& out);
  void finish(std::string_view token, std::string& out);
  void strip(std::string_view text, std::string& out);

  const Decoder& decoder_;
  std::vector<StepState> states_;
  // Bytes of a character that is not whole yet.
  std::string bytes_;
  // How many characters each strip may still take.
  std::vector<std::size_t> strips_;
};

}  // namespace airlock
