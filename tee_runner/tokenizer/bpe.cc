#include "tee_runner/tokenizer/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <optional>

#include "tee_runner/tokenizer/file_parts.h"
#include "tee_runner/tokenizer/utf8.h"

namespace airlock {
namespace {

constexpr std::uint32_t kNoSymbol = std::numeric_limits<std::uint32_t>::max();
/// Longer words are looked through for places where they fall apart.
constexpr std::size_t kLongWordBytes = 32;
constexpr std::size_t kMaxSeenWordBytes = 64;
constexpr std::size_t kMaxSeenWords = std::size_t{1} << 15;

/// The two tokens of a merge: "a b" or ["a","b"].
std::optional<std::pair<std::string_view, std::string_view>> halves_of(const Json& merge) {
  if (merge.kind == Json::Kind::kArray && merge.items.size() == 2 && merge.items[0].is_string() &&
      merge.items[1].is_string())
    return std::pair<std::string_view, std::string_view>(merge.items[0].text, merge.items[1].text);
  if (!merge.is_string()) return std::nullopt;
  const std::string_view text = merge.text;
  const std::size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos)
    return std::nullopt;
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

}  // namespace

Bpe Bpe::read(const JsonReader& model, Vocabulary& vocabulary) {
  Bpe bpe;
  bpe.vocabulary_ = &vocabulary;
  demand_type(model, {"BPE"}, TypeIs::kOptional);
  demand_keys(model,
              {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
               "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (!model.ok()) return bpe;
  if (model.has("dropout")) {
    const Json& dropout = model.at("dropout").json();
    const bool is_zero = (dropout.kind == Json::Kind::kNumber && dropout.number == 0) ||
                         (dropout.kind == Json::Kind::kInteger && dropout.integer == 0);
    if (!is_zero) model.at("dropout").refuse("null: nothing else is supported");
  }
  for (const std::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (model.has(key) && !(model.at(key).json().is_string() && model.at(key).json().text.empty()))
      model.at(key).refuse("null: nothing else is supported");
  }
  model.maybe("fuse_unk", bpe.fuse_unknown_);
  model.maybe("byte_fallback", bpe.byte_fallback_);
  model.maybe("ignore_merges", bpe.ignore_merges_);
  vocabulary.read(model.at("vocab"));
  std::string unknown;
  model.maybe("unk_token", unknown);
  if (!model.ok()) return bpe;
  if (!unknown.empty()) {
    bpe.unknown_ = vocabulary.find(unknown);
    if (bpe.unknown_ == kNoToken) model.at("unk_token").refuse("a token of model.vocab");
  }
  bpe.index_vocabulary();
  bpe.read_merges(model.at("merges"));
  return bpe;
}

void Bpe::index_vocabulary() {
  for (std::int32_t id = 0; id < vocabulary_->end(); ++id) {
    if (!vocabulary_->has(id)) continue;
    const std::string& text = vocabulary_->text(id);
    if (text.empty()) continue;
    const Character character = first_character(text);
    if (character.bytes == text.size()) characters_[character.code] = {id};
  }
  if (!byte_fallback_) return;
  for (int byte = 0; byte < 256; ++byte)
    byte_tokens_.push_back(vocabulary_->find(fmt::format("<0x{:02X}>", byte)));
}

void Bpe::read_merges(const JsonReader& merges) {
  const std::vector<JsonReader> items = merges.items(kMaxMerges);
  merges_ = FlatMap<Merge>(items.size());
  std::string joined;
  for (std::size_t rank = 0; rank < items.size(); ++rank) {
    const auto halves = halves_of(items[rank].json());
    if (!halves) return items[rank].refuse("two tokens: \"a b\" or [\"a\",\"b\"]");
    const auto [left, right] = *halves;
    joined = left;
    joined += right;
    const std::int32_t left_id = vocabulary_->find(left);
    const std::int32_t right_id = vocabulary_->find(right);
    const std::int32_t id = vocabulary_->find(joined);
    if (left_id == kNoToken || right_id == kNoToken || id == kNoToken || left.empty() ||
        right.empty()) {
      return items[rank].fail(
          fmt::format("merges '{}' and '{}': both, and both together, have to "
                      "be tokens of model.vocab",
                      printable(left), printable(right)));
    }
    // Of two of the same pair the later one counts.
    merges_[pair_key(static_cast<std::uint32_t>(left_id), static_cast<std::uint32_t>(right_id))] = {
        static_cast<std::uint32_t>(rank), id};
    joints_[pair_key(first_character(left.substr(last_character_at(left))).code,
                     first_character(right).code)] = true;
  }
}

void Bpe::encode(std::string_view word, Specials specials, BpeScratch& scratch,
                 std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    const std::int32_t id = vocabulary_->find_in_model(word);
    if (id != kNoToken && !(specials == Specials::kPlain && is_special(id))) {
      ids.push_back(id);
      return;
    }
  }
  while (!word.empty()) {
    const std::size_t end = word.size() > kLongWordBytes ? end_of_part(word) : word.size();
    encode_part(word.substr(0, end), specials, scratch, ids);
    word.remove_prefix(end);
  }
}

/// Where the first part of a word ends which no merge joins with what comes after it: two
/// characters that are tokens, and no merge has a left side that ends with the one and a right side
/// that begins with the other. So what is encoded apart is as it is in the word.
std::size_t Bpe::end_of_part(std::string_view word) const {
  Character before = first_character(word);
  bool before_is_token = characters_.find(before.code) != nullptr;
  std::size_t at = before.bytes;
  while (at < word.size()) {
    const Character character = first_character(word.substr(at));
    const bool is_token = characters_.find(character.code) != nullptr;
    if (before_is_token && is_token &&
        joints_.find(pair_key(before.code, character.code)) == nullptr)
      return at;
    before = character;
    before_is_token = is_token;
    at += character.bytes;
  }
  return at;
}

void Bpe::encode_part(std::string_view part, Specials specials, BpeScratch& scratch,
                      std::vector<std::int32_t>& ids) const {
  const bool is_short = part.size() <= kMaxSeenWordBytes;
  if (is_short) {
    const auto found = scratch.seen_.find(part);
    if (found != scratch.seen_.end()) {
      ids.insert(ids.end(), found->second.begin(), found->second.end());
      return;
    }
  }
  split_symbols(part, scratch);
  merge_all(scratch, specials);
  const auto begin = static_cast<std::ptrdiff_t>(ids.size());
  const auto& symbols = scratch.symbols_;
  for (std::uint32_t at = symbols.empty() ? kNoSymbol : 0; at != kNoSymbol; at = symbols[at].after)
    ids.push_back(symbols[at].id);
  if (is_short && scratch.seen_.size() < kMaxSeenWords)
    scratch.seen_.emplace(part, std::vector<std::int32_t>(ids.begin() + begin, ids.end()));
}

/// The byte tokens of a character; false, and none, where one of them is missing.
bool Bpe::bytes_of(std::string_view character, std::vector<std::int32_t>& ids) const {
  ids.clear();
  if (!byte_fallback_) return false;
  for (const char byte : character) {
    const std::int32_t id = byte_tokens_[static_cast<std::uint8_t>(byte)];
    if (id == kNoToken) return false;
    ids.push_back(id);
  }
  return true;
}

void Bpe::split_symbols(std::string_view part, BpeScratch& scratch) const {
  auto& symbols = scratch.symbols_;
  symbols.clear();
  const auto add = [&](std::int32_t id) { symbols.push_back({id, 0, 0}); };
  std::vector<std::int32_t> bytes;
  // An unknown token that waits for whether the next character joins it. Bytes pass it by.
  bool unknown_waits = false;
  const auto add_unknown = [&] {
    if (unknown_waits) add(unknown_);
    unknown_waits = false;
  };
  while (!part.empty()) {
    const Character character = first_character(part);
    const CharToken* const token = characters_.find(character.code);
    if (token != nullptr) {
      add_unknown();
      add(token->id);
    } else if (bytes_of(part.substr(0, character.bytes), bytes)) {
      for (const std::int32_t byte : bytes) add(byte);
    } else if (unknown_ != kNoToken) {
      if (!fuse_unknown_) add_unknown();
      unknown_waits = true;
    }
    part.remove_prefix(character.bytes);
  }
  add_unknown();
  for (std::uint32_t i = 0; i < symbols.size(); ++i) {
    symbols[i].before = i == 0 ? kNoSymbol : i - 1;
    symbols[i].after = i + 1 == symbols.size() ? kNoSymbol : i + 1;
  }
}

const Bpe::Merge* Bpe::find_merge(const BpeScratch& scratch, std::uint32_t left,
                                  Specials specials) const {
  const auto& symbols = scratch.symbols_;
  const std::uint32_t right = symbols[left].after;
  if (right == kNoSymbol) return nullptr;
  const Merge* const merge = merges_.find(pair_key(static_cast<std::uint32_t>(symbols[left].id),
                                                   static_cast<std::uint32_t>(symbols[right].id)));
  if (merge == nullptr || (specials == Specials::kPlain && is_special(merge->id))) return nullptr;
  return merge;
}

void Bpe::push(BpeScratch& scratch, std::uint32_t left, Specials specials) const {
  const Merge* const merge = find_merge(scratch, left, specials);
  if (merge == nullptr) return;
  scratch.heap_.push_back(pair_key(merge->rank, left));
  std::ranges::push_heap(scratch.heap_, std::greater<>());
}

/// The merge of the lowest rank first, of equal ones the leftmost.
void Bpe::merge_all(BpeScratch& scratch, Specials specials) const {
  auto& symbols = scratch.symbols_;
  auto& heap = scratch.heap_;
  heap.clear();
  for (std::uint32_t i = 0; i < symbols.size(); ++i) {
    if (const Merge* const merge = find_merge(scratch, i, specials))
      heap.push_back(pair_key(merge->rank, i));
  }
  std::ranges::make_heap(heap, std::greater<>());
  while (!heap.empty()) {
    const std::uint64_t top = heap.front();
    std::ranges::pop_heap(heap, std::greater<>());
    heap.pop_back();
    const auto left = static_cast<std::uint32_t>(top);
    if (symbols[left].id == kNoToken) continue;
    // One of the two may have become another since.
    const Merge* const merge = find_merge(scratch, left, specials);
    if (merge == nullptr || merge->rank != top >> 32U) continue;
    const std::uint32_t right = symbols[left].after;
    const std::uint32_t next = symbols[right].after;
    symbols[left].id = merge->id;
    symbols[left].after = next;
    symbols[right].id = kNoToken;
    if (next != kNoSymbol) symbols[next].before = left;
    if (symbols[left].before != kNoSymbol) push(scratch, symbols[left].before, specials);
    push(scratch, left, specials);
  }
}

}  // namespace airlock
