#include "tee_runner/generate/prefix_store.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace airlock {

namespace {

constexpr std::size_t kMaxKept = 256;
/// Fewer positions are computed about as soon as they are copied.
constexpr std::size_t kWorthACopy = 16;

std::size_t common_prefix(std::span<const std::int32_t> a, std::span<const std::int32_t> b) {
  const auto [end, other] = std::ranges::mismatch(a, b);
  return static_cast<std::size_t>(end - a.begin());
}

}  // namespace

void PrefixStore::keep(const std::string& owner, std::vector<std::int32_t> tokens,
                       SequenceCache cache) {
  CHECK(tokens.size() == static_cast<std::size_t>(cache.length()));
  if (tokens.empty()) return;
  cache.shrink();
  kept_.push_front({owner, std::move(tokens), std::move(cache)});
  if (kept_.size() > kMaxKept) kept_.pop_back();
}

std::optional<SequenceCache> PrefixStore::take(const std::string& owner,
                                               std::span<const std::int32_t> prompt) {
  // The last token is computed in any case: its logits are wanted.
  const auto usable = prompt.first(prompt.empty() ? 0 : prompt.size() - 1);
  auto best = kept_.end();
  std::size_t longest = 0;
  for (auto kept = kept_.begin(); kept != kept_.end(); ++kept) {
    if (kept->owner != owner) continue;
    const std::size_t common = common_prefix(usable, kept->tokens);
    if (common <= longest) continue;
    longest = common;
    best = kept;
  }
  if (best == kept_.end()) return std::nullopt;
  if (longest == best->tokens.size()) {
    SequenceCache taken = std::move(best->cache);
    kept_.erase(best);
    return taken;
  }
  if (longest < kWorthACopy) return std::nullopt;
  auto copy = best->cache.copy_of_first(static_cast<std::int64_t>(longest));
  if (!copy.ok()) return std::nullopt;
  kept_.splice(kept_.begin(), kept_, best);
  return std::move(copy).value();
}

std::size_t PrefixStore::blocks() const {
  std::size_t count = 0;
  for (const Kept& kept : kept_) count += kept.cache.promised_blocks();
  return count;
}

bool PrefixStore::drop_oldest() {
  if (kept_.empty()) return false;
  kept_.pop_back();
  return true;
}

}  // namespace airlock
