#include "runtime/cpu/onednn.h"

#include <limits>
#include <string_view>

#include "base/check.h"

namespace airlock::onednn {

namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

constexpr std::size_t kCachedProducts = 256;

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const Desc& a, const Desc& b,
                                      const Desc& c) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  // ONEDNN_DEFAULT_FPMATH_MODE in the environment must not turn fp32 into something coarser.
  attributes.set_fpmath_mode(dnnl::fpmath_mode::strict);
#if DNNL_VERSION_MAJOR >= 3
  return {engine, a, b, c, attributes};
#else
  return {dnnl::matmul::desc(a, b, c), attributes, engine};
#endif
}

Product make_product(const dnnl::engine& engine, const Desc& a, const Desc& b, const Desc& c) {
  const auto description = describe(engine, a, b, c);
  return {dnnl::matmul(description), a, description.weights_desc(), c,
          description.scratchpad_desc().get_size()};
}

}  // namespace

const Product& ProductCache::get(const ProductKey& key, const Desc* weight) {
  if (const auto found = index_.find(key); found != index_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front().second;
  }
  entries_.emplace_front(key, make(key, weight));
  index_[key] = entries_.begin();
  if (entries_.size() > kCachedProducts) {
    index_.erase(entries_.back().first);
    entries_.pop_back();
  }
  return entries_.front().second;
}

Product ProductCache::make(const ProductKey& key, const Desc* weight) const {
  const auto type = data_type(held_);
  const auto result = data_type(key.result);
  if (key.groups == 0) {
    CHECK(weight != nullptr);
    return make_product(engine_, {{key.m, key.k}, type, Tag::ab}, *weight,
                        {{key.m, key.n}, result, Tag::ab});
  }
  if (key.transpose == Transpose::kA) {
    // b has one matrix a group, which oneDNN broadcasts to the heads of the group.
    return make_product(engine_,
                        Desc({key.groups, key.heads_per_group, key.m, key.k}, type, Tag::abdc),
                        Desc({key.groups, 1, key.k, key.n}, type, Tag::abcd),
                        Desc({key.groups, key.heads_per_group, key.m, key.n}, result, Tag::abcd));
  }
  return make_product(
      engine_, Desc({key.groups, key.m, key.k}, type, Tag::abc),
      Desc({key.groups, key.k, key.n}, type, key.transpose == Transpose::kB ? Tag::acb : Tag::abc),
      Desc({key.groups, key.m, key.n}, result, Tag::abc));
}

Desc pick_layout(const dnnl::engine& engine, const Desc& a, const Desc& b, const Desc& c) {
  const auto description = describe(engine, a, b, c);
  if (std::string_view(description.impl_info_str()).starts_with("ref")) {
    throw dnnl::error(dnnl_unimplemented, "only a reference implementation of this product");
  }
  return description.weights_desc();
}

dnnl::memory::data_type data_type(DType dtype) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  return dtype == DType::kF32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

Status check_threads(std::size_t count) {
  if (count == 1) return {};
  // A limit counts the threads of all sessions together, so that any limit may be met one day.
  if (omp_get_thread_limit() < std::numeric_limits<int>::max()) {
    return {
        StatusCode::kResourceExhausted,
        "OMP_THREAD_LIMIT is {}: OpenMP may give fewer threads than are asked for, and products "
        "would be wrong; unset it, or compute with --threads 1",
        omp_get_thread_limit()};
  }
  if (omp_get_max_active_levels() == 0) {
    return {StatusCode::kResourceExhausted,
            "OMP_MAX_ACTIVE_LEVELS is 0: OpenMP gives one thread where more are asked for, and "
            "products would be wrong; unset it, or compute with --threads 1"};
  }
  return {};
}

bool has_bf16() {
  // oneDNN knows best, also under ONEDNN_MAX_CPU_ISA: it is asked for a product.
  static const bool has = [] {
    try {
      const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
      const Desc square({64, 64}, dnnl::memory::data_type::bf16, Tag::ab);
      pick_layout(engine, square, square, square);
      return true;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return has;
}

}  // namespace airlock::onednn
