#include "runtime/cpu/gemm_cache.h"

#include "base/check.h"

namespace airlock {

const onednn::Product& GemmCache::get(const GemmKey& key, const HeldWeight* weight) {
  if (const auto found = index_.find(key); found != index_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front().second;
  }
  entries_.emplace_front(key, make(key, weight));
  index_[key] = entries_.begin();
  if (entries_.size() > kCapacity) {
    index_.erase(entries_.back().first);
    entries_.pop_back();
  }
  return entries_.front().second;
}

onednn::Product GemmCache::make(const GemmKey& key, const HeldWeight* weight) const {
  using Desc = dnnl::memory::desc;
  using Tag = dnnl::memory::format_tag;
  const auto type = onednn::data_type(held_);
  const auto result = onednn::data_type(key.result);
  if (key.groups == 0) {
    CHECK(weight != nullptr);
    return onednn::make_product(engine_, {{key.m, key.k}, type, Tag::ab}, weight->layout,
                                {{key.m, key.n}, result, Tag::ab});
  }
  if (key.transpose == Transpose::kA) {
    // b has one matrix a group, which oneDNN broadcasts to the heads of the group.
    return onednn::make_product(
        engine_, Desc({key.groups, key.heads_per_group, key.m, key.k}, type, Tag::abdc),
        Desc({key.groups, 1, key.k, key.n}, type, Tag::abcd),
        Desc({key.groups, key.heads_per_group, key.m, key.n}, result, Tag::abcd));
  }
  return onednn::make_product(
      engine_, Desc({key.groups, key.m, key.k}, type, Tag::abc),
      Desc({key.groups, key.k, key.n}, type, key.transpose == Transpose::kB ? Tag::acb : Tag::abc),
      Desc({key.groups, key.m, key.n}, result, Tag::abc));
}

}  // namespace airlock
