#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/deadline.h"

namespace airlock::bench {

/// c [m, n] = a [m, k] * b [k, n] by oneDNN alone, b in the layout that it asks for or in `right`.
/// One thread asks; oneDNN takes as many as OpenMP gives it. Throws dnnl::error where it has no
/// kernel of its own for this CPU.
class OneDnnProduct {
 public:
  using Type = dnnl::memory::data_type;
  using Tag = dnnl::memory::format_tag;

  OneDnnProduct(std::int64_t m, std::int64_t k, std::int64_t n, Type type, Tag right = Tag::any) {
    const dnnl::memory::desc a({m, k}, type, Tag::ab);
    const dnnl::memory::desc b({k, n}, type, right);
    const dnnl::memory::desc c({m, n}, type, Tag::ab);
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc description(engine_, a, b, c);
#else
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), engine_);
#endif
    if (std::string_view(description.impl_info_str()).starts_with("ref"))
      throw dnnl::error(dnnl_unimplemented, "only a reference implementation of this product");
    primitive_ = dnnl::matmul(description);
    arguments_ = {{DNNL_ARG_SRC, filled(a, type)},
                  {DNNL_ARG_WEIGHTS, filled(description.weights_desc(), type)},
                  {DNNL_ARG_DST, filled(c, type)}};
  }
  double ms() {
    const std::uint64_t start_ns = now_ns();
    primitive_.execute(stream_, arguments_);
    stream_.wait();
    return static_cast<double>(now_ns() - start_ns) * 1e-6;
  }

 private:
  /// Of 0.25 everywhere.
  dnnl::memory filled(const dnnl::memory::desc& desc, Type type) {
    dnnl::memory memory(desc, engine_);
    if (type == Type::bf16) {
      std::fill_n(static_cast<std::uint16_t*>(memory.get_data_handle()), desc.get_size() / 2,
                  std::uint16_t{0x3e80});
    } else {
      std::fill_n(static_cast<float*>(memory.get_data_handle()), desc.get_size() / 4, 0.25F);
    }
    return memory;
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul primitive_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

}  // namespace airlock::bench
