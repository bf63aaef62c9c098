#include "runtime/cpu/onednn.h"

#include <string_view>

#include "base/check.h"
#include "runtime/cpu/cpu_model.h"

namespace airlock {
namespace onednn {
namespace {

dnnl::matmul::primitive_desc describe(const dnnl::engine& engine, const dnnl::memory::desc& a,
                                      const dnnl::memory::desc& b, const dnnl::memory::desc& c) {
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

Product make_product(const dnnl::engine& engine, const dnnl::memory::desc& a,
                     const dnnl::memory::desc& b, const dnnl::memory::desc& c) {
  const auto description = describe(engine, a, b, c);
  return {dnnl::matmul(description), a, description.weights_desc(), c,
          description.scratchpad_desc().get_size()};
}

dnnl::memory::desc pick_layout(const dnnl::engine& engine, const dnnl::memory::desc& a,
                               const dnnl::memory::desc& b, const dnnl::memory::desc& c) {
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

}  // namespace onednn

bool cpu_has_bf16() {
  // oneDNN knows best, also under ONEDNN_MAX_CPU_ISA: it is asked for a product.
  static const bool has = [] {
    try {
      const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
      const dnnl::memory::desc square({64, 64}, dnnl::memory::data_type::bf16,
                                      dnnl::memory::format_tag::ab);
      onednn::pick_layout(engine, square, square, square);
      return true;
    } catch (const dnnl::error&) {
      return false;
    }
  }();
  return has;
}

}  // namespace airlock
