#include "runtime/cpu/onednn.h"

#include <iterator>
#include <string_view>

#include "base/check.h"

namespace airlock::onednn {

namespace {

using Desc = dnnl::memory::desc;
using Tag = dnnl::memory::format_tag;

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

}  // namespace

Call::Call(const dnnl::engine& engine, const Desc& a, const Desc& b, const Desc& c,
           std::size_t workers)
    : engine_(engine), a_(a), c_(c), handles_(workers) {
  const auto description = describe(engine, a, b, c);
  b_ = description.weights_desc();
  scratchpad_bytes_ = description.scratchpad_desc().get_size();
  primitive_ = dnnl::matmul(description);
}

void Call::run(std::size_t worker, dnnl::stream& stream, const std::byte* left,
               const std::byte* right, std::byte* to, std::byte* scratchpad) {
  Handles& handles = handles_[worker];
  if (!handles.a) {
    const Desc bytes({static_cast<dnnl::memory::dim>(scratchpad_bytes_)},
                     dnnl::memory::data_type::u8, Tag::a);
    handles = {dnnl::memory(a_, engine_, DNNL_MEMORY_NONE),
               dnnl::memory(b_, engine_, DNNL_MEMORY_NONE),
               dnnl::memory(c_, engine_, DNNL_MEMORY_NONE),
               dnnl::memory(bytes, engine_, DNNL_MEMORY_NONE)};
  }
  // Handles are not const; oneDNN writes to the last two only.
  handles.a.set_data_handle(const_cast<std::byte*>(left));
  handles.b.set_data_handle(const_cast<std::byte*>(right));
  handles.c.set_data_handle(to);
  handles.scratchpad.set_data_handle(scratchpad);
  const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, handles.a.get()},
                                       {DNNL_ARG_WEIGHTS, handles.b.get()},
                                       {DNNL_ARG_DST, handles.c.get()},
                                       {DNNL_ARG_SCRATCHPAD, handles.scratchpad.get()}};
  dnnl::error::wrap_c_api(
      dnnl_primitive_execute(primitive_.get(), stream.get(), std::size(arguments), arguments),
      "could not execute a product");
  stream.wait();
}

Call& ProductCache::get(const CallKey& key, const Desc& packed) {
  if (const auto found = index_.find(key); found != index_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front().second;
  }
  entries_.emplace_front(key, make(key, packed));
  index_[key] = entries_.begin();
  if (entries_.size() > kCachedCalls) {
    index_.erase(entries_.back().first);
    entries_.pop_back();
  }
  return entries_.front().second;
}

Call ProductCache::make(const CallKey& key, const Desc& packed) const {
  const auto type = held_;
  const auto result = data_type(key.result);
  if (key.batches == 1) {
    const Desc plain({key.k, key.n}, type, key.b == Right::kRows ? Tag::ab : Tag::ba);
    return Call(engine_, {{key.m, key.k}, type, Tag::ab}, key.b == Right::kPacked ? packed : plain,
                {{key.m, key.n}, result, Tag::ab}, workers_);
  }
  CHECK(key.b != Right::kPacked);
  return Call(engine_, {{key.batches, key.m, key.k}, type, Tag::abc},
              {{key.batches, key.k, key.n}, type, key.b == Right::kRows ? Tag::abc : Tag::acb},
              {{key.batches, key.m, key.n}, result, Tag::abc}, workers_);
}

Desc pick_layout(const dnnl::engine& engine, const Desc& a, const Desc& b, const Desc& c) {
  const auto description = describe(engine, a, b, c);
  if (std::string_view(description.impl_info_str()).starts_with("ref")) {
    throw dnnl::error(dnnl_unimplemented, "only a reference implementation of this product");
  }
  return description.weights_desc();
}

dnnl::memory::data_type data_type(DType dtype) {
  if (dtype == DType::kI32) return dnnl::memory::data_type::s32;
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  return dtype == DType::kF32 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

bool has_bf16() {
  // oneDNN knows best, also under ONEDNN_MAX_CPU_ISA: it is asked for a product.
  static const bool has = [] {
    try {
      const OneThread alone;
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
