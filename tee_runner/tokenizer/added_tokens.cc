#include "tee_runner/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "proto/limits.h"
#include "tee_runner/tokenizer/file_parts.h"
#include "tee_runner/tokenizer/split_pattern.h"
#include "tee_runner/tokenizer/utf8.h"

namespace airlock {

void LongestMatch::add(std::string_view text, std::uint32_t number) {
  std::uint32_t node = 0;
  for (const char byte : text) {
    Node& next = next_[pair_key(node, static_cast<std::uint8_t>(byte))];
    if (next.node == 0) next.node = node_count_++;
    node = next.node;
  }
  numbers_[node] = {number};
  begins_[static_cast<std::uint8_t>(text.front())] = true;
}

std::optional<LongestMatch::Found> LongestMatch::at(std::string_view text) const {
  std::optional<Found> found;
  if (text.empty() || !begins_[static_cast<std::uint8_t>(text.front())]) return found;
  std::uint32_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const Node* const next = next_.find(pair_key(node, static_cast<std::uint8_t>(text[i])));
    if (next == nullptr) break;
    node = next->node;
    if (const Number* const number = numbers_.find(node)) found = {number->number, i + 1};
  }
  return found;
}

AddedTokens AddedTokens::read(const JsonReader& root, const Normalizer& normalizer,
                              Vocabulary& vocabulary) {
  AddedTokens added;
  if (!root.has("added_tokens")) return added;
  const auto model_tokens = static_cast<std::int32_t>(vocabulary.count());
  for (const JsonReader& item : root.at("added_tokens").items(kMaxCount)) {
    added.read_token(item, normalizer, vocabulary, model_tokens);
    if (!item.ok()) break;
  }
  return added;
}

void AddedTokens::read_token(const JsonReader& item, const Normalizer& normalizer,
                             Vocabulary& vocabulary, std::int32_t model_tokens) {
  demand_keys(item, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  Token token;
  std::string content;
  item.read("id", token.id, {0, limits::kMaxVocab - 1});
  item.read("content", content, kMaxTokenBytes);
  item.maybe("single_word", token.single_word);
  item.maybe("lstrip", token.lstrip);
  item.maybe("rstrip", token.rstrip);
  item.maybe("special", token.special);
  token.normalized = !token.special;
  item.maybe("normalized", token.normalized);
  if (!item.ok()) return;
  if (content.empty()) return item.at("content").fail("is empty");
  const std::int32_t known = vocabulary.find(content);
  // Hugging Face counts on from the largest, whatever the file says; the two have to agree.
  const std::int32_t expected = known != kNoToken ? known : std::max(largest_id_ + 1, model_tokens);
  if (token.id != expected || (known == kNoToken && vocabulary.has(expected))) {
    return item.at("id").refuse(
        fmt::format("{}: the id in model.vocab, or the next one that is free", expected));
  }
  largest_id_ = std::max(largest_id_, token.id);
  if (known == kNoToken) vocabulary.add(content, token.id);
  if (token.single_word && !word_character_) {
    auto regex = Regex::compile(fmt::format(R"([{}\x{{200c}}\x{{200d}}])", word_characters()));
    if (!regex.ok()) return item.fail(regex.status().message());
    word_character_ = std::move(*regex);
  }
  if (token.normalized) {
    std::vector<TextRange> none;
    if (const Status status = normalizer.apply(content, none); !status.ok())
      return item.fail(status.message());
    if (content.empty()) return item.at("content").fail("is empty where it is normalized");
  }
  (token.normalized ? normalized_ : given_)
      .add(content, static_cast<std::uint32_t>(tokens_.size()));
  tokens_.push_back(token);
}

std::vector<bool> AddedTokens::special(const Vocabulary& vocabulary) const {
  std::vector<bool> special(static_cast<std::size_t>(vocabulary.end()));
  for (const Token& token : tokens_) {
    if (token.special) special[static_cast<std::size_t>(token.id)] = true;
  }
  return special;
}

bool AddedTokens::is_word_character(std::string_view character) const {
  Regex::Search search(*word_character_, Deadline::after(std::chrono::seconds(1)));
  search.start(character);
  const auto found = search.next();
  return found.ok() && found->has_value();
}

/// One text on its way into parts.
class AddedTokens::Splitter {
 public:
  Splitter(const AddedTokens& added, std::string_view text) : added_(added), text_(text) {}

  void find(TextRange span, const LongestMatch& matcher) {
    for (std::size_t at = span.begin; at < span.end;) {
      const auto found = matcher.at(text_.substr(at, span.end - at));
      const std::size_t end = at + (found ? found->bytes : 1);
      if (found) take(added_.tokens_[found->number], {at, end});
      at = end;
    }
  }
  std::vector<TextPart> finish() {
    if (end_ < text_.size()) parts_.push_back({{end_, text_.size()}, kNoToken});
    return std::move(parts_);
  }

 private:
  void take(const Token& token, TextRange range) {
    if (token.single_word && !stands_alone(range)) return;
    if (token.lstrip) range.begin = space_before(range.begin);
    if (token.rstrip) range.end = space_after(range.end);
    if (end_ < range.begin) parts_.push_back({{end_, range.begin}, kNoToken});
    parts_.push_back({range, token.id});
    // Less than it was where a token lies in the space that one before it has taken.
    end_ = range.end;
  }
  bool stands_alone(TextRange range) const {
    const std::string_view before = text_.substr(0, range.begin);
    const std::string_view after = text_.substr(range.end);
    return (before.empty() ||
            !added_.is_word_character(before.substr(last_character_at(before)))) &&
           (after.empty() ||
            !added_.is_word_character(after.substr(0, first_character(after).bytes)));
  }
  std::size_t space_before(std::size_t at) const {
    while (at > end_) {
      const std::size_t last = last_character_at(text_.substr(0, at));
      if (!is_white_space(first_character(text_.substr(last)).code)) break;
      at = last;
    }
    return std::max(at, end_);
  }
  std::size_t space_after(std::size_t at) {
    if (at >= space_.begin && at <= space_.end) return space_.end;
    space_ = {at, at};
    while (space_.end < text_.size()) {
      const Character character = first_character(text_.substr(space_.end));
      if (!is_white_space(character.code)) break;
      space_.end += character.bytes;
    }
    return space_.end;
  }

  const AddedTokens& added_;
  const std::string_view text_;
  std::vector<TextPart> parts_;
  std::size_t end_ = 0;
  // Seen last after a token: one that is space itself is found in it again and again.
  TextRange space_;
};

std::vector<TextPart> AddedTokens::split(std::string_view text, std::span<const TextRange> spans,
                                         Stage stage) const {
  Splitter splitter(*this, text);
  if (any(stage)) {
    for (const TextRange& span : spans) splitter.find(span, matcher(stage));
  }
  return splitter.finish();
}

}  // namespace airlock
