#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tee_runner/llama/block_cache.h"

namespace airlock {

/// The keys and values of answers that are over, for prompts that begin in the same way: a
/// conversation's next turn. Each is its owner's alone. The one that was used last goes last, where
/// memory is wanted. One thread.
class PrefixStore {
 public:
  /// `tokens` are those that `cache` holds.
  void keep(const std::string& owner, std::vector<std::int32_t> tokens, SequenceCache cache);
  /// The longest prefix of `prompt` that `owner` has, in a cache of its own: taken out where it is
  /// all of what is kept there, else copied, which promises as much memory; nullopt: none, or none
  /// that is worth a copy for which there is room.
  std::optional<SequenceCache> take(const std::string& owner, std::span<const std::int32_t> prompt);
  /// Forgets the one that was used longest ago. False: there is none.
  bool drop_oldest();
  void clear() { kept_.clear(); }
  std::size_t size() const { return kept_.size(); }
  /// Of memory, that all of them have.
  std::size_t blocks() const;

 private:
  struct Kept {
    std::string owner;
    std::vector<std::int32_t> tokens;
    SequenceCache cache;
  };

  std::list<Kept> kept_;  // the last used first
};

}  // namespace airlock
