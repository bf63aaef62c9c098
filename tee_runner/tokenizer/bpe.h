#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/json/reader.h"
#include "tee_runner/tokenizer/flat_map.h"
#include "tee_runner/tokenizer/specials.h"
#include "tee_runner/tokenizer/text_hash.h"
#include "tee_runner/tokenizer/vocabulary.h"

namespace airlock {

/// What encoding uses from word to word: memory, and the words that were seen. One thread; of one
/// Bpe and one Specials.
class BpeScratch {
 private:
  friend class Bpe;
  struct Symbol {
    std::int32_t id;
    // kNoSymbol at the ends.
    std::uint32_t before;
    std::uint32_t after;
  };

  std::vector<Symbol> symbols_;
  // Merges that can be done, the first one on top: its rank, then where its left symbol is.
  std::vector<std::uint64_t> heap_;
  std::unordered_map<std::string, std::vector<std::int32_t>, TextHash, std::equal_to<>> seen_;
};

/// The model of a tokenizer.json: byte pair encoding of words, with or without byte fallback.
/// Thread-safe.
class Bpe {
 public:
  static constexpr std::size_t kMaxMerges = std::size_t{1} << 20;

  /// Reads `model` and adds its tokens to `vocabulary`, which outlives this. What is wrong, or not
  /// supported, is told to the reader, and what is returned is of no use then.
  static Bpe read(const JsonReader& model, Vocabulary& vocabulary);
  /// These tokens come from no plain text. Their number is that of the ids; 1: special.
  void set_special(std::vector<bool> special) { special_ = std::move(special); }

  /// Appends the ids of one word, UTF-8, of less than 2^32 bytes. A character that is no token and
  /// for which the file has neither bytes nor an unknown token is left out, as Hugging Face does.
  void encode(std::string_view word, Specials specials, BpeScratch& scratch,
              std::vector<std::int32_t>& ids) const;

 private:
  struct Merge {
    std::uint32_t rank = 0;
    std::int32_t id = kNoToken;
  };
  /// A token that is one character.
  struct CharToken {
    std::int32_t id = kNoToken;
  };

  void read_merges(const JsonReader& merges);
  void index_vocabulary();
  bool is_special(std::int32_t id) const {
    return static_cast<std::size_t>(id) < special_.size() && special_[static_cast<std::size_t>(id)];
  }
  const Merge* find_merge(const BpeScratch& scratch, std::uint32_t left, Specials specials) const;
  void encode_part(std::string_view part, Specials specials, BpeScratch& scratch,
                   std::vector<std::int32_t>& ids) const;
  void split_symbols(std::string_view part, BpeScratch& scratch) const;
  void push(BpeScratch& scratch, std::uint32_t left, Specials specials) const;
  void merge_all(BpeScratch& scratch, Specials specials) const;
  std::size_t end_of_part(std::string_view word) const;
  bool bytes_of(std::string_view character, std::vector<std::int32_t>& ids) const;

  const Vocabulary* vocabulary_ = nullptr;
  FlatMap<Merge> merges_;
  FlatMap<CharToken> characters_;
  // Pairs of characters between which a merge may join two tokens.
  FlatMap<bool> joints_;
  // Of <0x00> to <0xFF>; kNoToken.
  std::vector<std::int32_t> byte_tokens_;
  std::vector<bool> special_;
  std::int32_t unknown_ = kNoToken;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
};

}  // namespace airlock
