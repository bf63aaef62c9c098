#include "tee_runner/tokenizer/vocabulary.h"

#include <fmt/format.h>

#include "proto/limits.h"

namespace airlock {

void Vocabulary::read(const JsonReader& vocab) {
  const auto members = vocab.members(limits::kMaxVocab);
  ids_.reserve(members.size());
  for (const auto& [text, value] : members) {
    std::int32_t id = 0;
    value.get(id, {0, limits::kMaxVocab - 1});
    if (!value.ok()) return;
    if (text.size() > static_cast<std::size_t>(kMaxTokenBytes))
      return value.fail(fmt::format("is a token of over {} bytes", kMaxTokenBytes));
    if (has(id)) return value.fail(fmt::format("is {}, which is another token's id, too", id));
    insert(text, id, false);
  }
}

void Vocabulary::add(std::string_view text, std::int32_t id) { insert(text, id, true); }

void Vocabulary::insert(std::string_view text, std::int32_t id, bool is_added) {
  const auto place = static_cast<std::size_t>(id);
  const std::string& stored = storage_.emplace_back(text);
  if (place >= texts_.size()) {
    texts_.resize(place + 1);
    is_added_.resize(place + 1);
  }
  texts_[place] = &stored;
  is_added_[place] = is_added;
  ids_.emplace(stored, id);
}

}  // namespace airlock
