#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/json/reader.h"
#include "tee_runner/tokenizer/text_hash.h"

namespace airlock {

inline constexpr std::int64_t kMaxTokenBytes = 4096;
inline constexpr std::int32_t kNoToken = -1;

/// The tokens of a tokenizer.json, the added ones among them: texts and ids, each once. Thread-safe
/// while nobody adds.
class Vocabulary {
 public:
  Vocabulary() = default;
  // Its index views its texts.
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  /// The object from texts to ids that is model.vocab. What is wrong with it is told to the reader.
  void read(const JsonReader& vocab);
  /// An added token that is not there yet.
  void add(std::string_view text, std::int32_t id);

  /// kNoToken where there is none.
  std::int32_t find(std::string_view text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? kNoToken : found->second;
  }
  /// The same among those of model.vocab.
  std::int32_t find_in_model(std::string_view text) const {
    const std::int32_t id = find(text);
    return id == kNoToken || is_added_[static_cast<std::size_t>(id)] ? kNoToken : id;
  }
  bool has(std::int64_t id) const {
    return id >= 0 && id < static_cast<std::int64_t>(texts_.size()) &&
           texts_[static_cast<std::size_t>(id)] != nullptr;
  }
  /// Of a token that is there.
  const std::string& text(std::int32_t id) const { return *texts_[static_cast<std::size_t>(id)]; }
  std::size_t count() const { return ids_.size(); }
  /// One more than the largest id.
  std::int32_t end() const { return static_cast<std::int32_t>(texts_.size()); }

 private:
  void insert(std::string_view text, std::int32_t id, bool is_added);

  // Stable addresses.
  std::deque<std::string> storage_;
  // By id; nullptr where ids have a gap.
  std::vector<const std::string*> texts_;
  std::vector<bool> is_added_;
  std::unordered_map<std::string_view, std::int32_t, TextHash> ids_;
};

}  // namespace airlock
