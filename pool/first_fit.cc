#include "pool/first_fit.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace airlock {

void FirstFit::make_spare() {
  spare_.reserve(node_count_ + 1);
  Runs one;
  one.emplace(0, 0);
  spare_.push_back(one.extract(one.begin()));
  ++node_count_;
}

std::optional<std::uint64_t> FirstFit::take(std::uint64_t length) {
  length = round_up(length);
  CHECK(length > 0);
  // All that was taken, each by itself, and what was never taken.
  if (node_count_ < runs_.size() + taken_count_ + 1) make_spare();
  const auto run =
      std::ranges::find_if(runs_, [length](const auto& free) { return free.second >= length; });
  if (run == runs_.end()) return std::nullopt;
  const std::uint64_t begin = run->first;
  const auto behind = std::next(run);
  Runs::node_type node = runs_.extract(run);
  if (node.mapped() > length) {
    node.key() += length;
    node.mapped() -= length;
    runs_.insert(behind, std::move(node));
  } else {
    spare_.push_back(std::move(node));
  }
  free_length_ -= length;
  ++taken_count_;
  return begin;
}

void FirstFit::put(std::uint64_t begin, std::uint64_t length) {
  CHECK(length > 0 && length % unit_ == 0);
  auto next = runs_.lower_bound(begin);
  CHECK(next == runs_.end() || begin + length <= next->first);
  const bool is_first = next == runs_.begin();
  const auto before = is_first ? runs_.end() : std::prev(next);
  CHECK(is_first || before->first + before->second <= begin);
  free_length_ += length;
  if (next != runs_.end() && begin + length == next->first) {
    length += next->second;
    const auto joined = next++;
    spare_.push_back(runs_.extract(joined));
  }
  if (!is_first && before->first + before->second == begin) {
    before->second += length;
    return;
  }
  Runs::node_type node = std::move(spare_.back());
  spare_.pop_back();
  node.key() = begin;
  node.mapped() = length;
  runs_.insert(next, std::move(node));
}

std::uint64_t FirstFit::longest_run() const {
  std::uint64_t longest = 0;
  for (const auto& [begin, length] : runs_) longest = std::max(longest, length);
  return longest;
}

}  // namespace airlock
