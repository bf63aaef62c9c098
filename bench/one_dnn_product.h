#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "base/deadline.h"
#include "runtime/cpu/onednn.h"

namespace airlock::bench {

namespace one_dnn {

using Type = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;
using Desc = dnnl::memory::desc;

/// Throws dnnl::error where oneDNN has no kernel of its own for this CPU.
inline dnnl::matmul::primitive_desc described(const dnnl::engine& engine, const Desc& a,
                                              const Desc& b, const Desc& c,
                                              const dnnl::primitive_attr& attributes = {}) {
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc description(engine, a, b, c, attributes);
#else
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, c), attributes, engine);
#endif
  if (std::string_view(description.impl_info_str()).starts_with("ref"))
    throw dnnl::error(dnnl_unimplemented, "only a reference implementation of this product");
  return description;
}

/// Of 0.25 everywhere.
inline dnnl::memory filled(const dnnl::engine& engine, const Desc& desc, Type type) {
  dnnl::memory memory(desc, engine);
  if (type == Type::bf16) {
    std::fill_n(static_cast<std::uint16_t*>(memory.get_data_handle()), desc.get_size() / 2,
                std::uint16_t{0x3e80});
  } else {
    std::fill_n(static_cast<float*>(memory.get_data_handle()), desc.get_size() / 4, 0.25F);
  }
  return memory;
}

}  // namespace one_dnn

/// c [m, n] = a [m, k] * b [k, n] by oneDNN alone, b in the layout that it asks for or in `right`.
/// One thread asks; oneDNN takes as many as OpenMP gives it. Throws dnnl::error where it has no
/// kernel of its own for this CPU.
class OneDnnProduct {
 public:
  using Type = one_dnn::Type;
  using Tag = one_dnn::Tag;

  OneDnnProduct(std::int64_t m, std::int64_t k, std::int64_t n, Type type, Tag right = Tag::any) {
    const one_dnn::Desc a({m, k}, type, Tag::ab);
    const one_dnn::Desc c({m, n}, type, Tag::ab);
    const auto description = one_dnn::described(engine_, a, one_dnn::Desc({k, n}, type, right), c);
    primitive_ = dnnl::matmul(description);
    arguments_ = {{DNNL_ARG_SRC, one_dnn::filled(engine_, a, type)},
                  {DNNL_ARG_WEIGHTS, one_dnn::filled(engine_, description.weights_desc(), type)},
                  {DNNL_ARG_DST, one_dnn::filled(engine_, c, type)}};
  }
  double ms() {
    const std::uint64_t start_ns = now_ns();
    primitive_.execute(stream_, arguments_);
    stream_.wait();
    return static_cast<double>(now_ns() - start_ns) * 1e-6;
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul primitive_;
  std::unordered_map<int, dnnl::memory> arguments_;
};

/// The same product in calls of at most 128 rows and 256 columns, which OpenMP's threads take in
/// turn: each call is on one of them. n is a multiple of 256. Throws as OneDnnProduct.
class OneDnnCutProduct {
 public:
  using Type = one_dnn::Type;
  using Tag = one_dnn::Tag;

  OneDnnCutProduct(std::int64_t m, std::int64_t k, std::int64_t n, Type type)
      : m_(m), k_(k), n_(n), type_(type), threads_(omp_get_max_threads()) {
    CHECK(n % kColumns == 0);
    const onednn::OneThread one;  // what is described now runs on one
    describe();
  }
  double ms() {
    const std::uint64_t start_ns = now_ns();
    const std::int64_t row_parts = (m_ + kRows - 1) / kRows;
    const std::int64_t parts = row_parts * (n_ / kColumns);
    std::atomic<bool> failed{false};
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t part = 0; part < parts; ++part) {
      try {
        multiply(part % row_parts * kRows, part / row_parts);
      } catch (const dnnl::error&) {
        failed = true;
      }
    }
    if (failed) throw dnnl::error(dnnl_runtime_error, "a call of a product failed");
    return static_cast<double>(now_ns() - start_ns) * 1e-6;
  }

 private:
  static constexpr std::int64_t kRows = 128;
  static constexpr std::int64_t kColumns = 256;

  one_dnn::Desc row_desc(std::int64_t rows, std::int64_t columns) const {
    return {{rows, columns}, type_, Tag::ab};
  }
  one_dnn::Desc result_desc(std::int64_t rows) const {
    return {{rows, kColumns}, type_, dnnl::memory::dims{n_, 1}};
  }
  /// The call of so many rows, and room of its own for each thread.
  dnnl::matmul::primitive_desc add_call(std::int64_t rows, const one_dnn::Desc& panel) {
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    auto description =
        one_dnn::described(engine_, row_desc(rows, k_), panel, result_desc(rows), attributes);
    Call& call = calls_[rows];
    call.primitive = dnnl::matmul(description);
    for (int thread = 0; thread < threads_; ++thread)
      call.scratchpads.emplace_back(description.scratchpad_desc(), engine_);
    return description;
  }
  void describe() {
    const std::int64_t rows = std::min(m_, kRows);
    const auto panel = add_call(rows, {{k_, kColumns}, type_, Tag::any}).weights_desc();
    if (m_ % rows > 0) add_call(m_ % rows, panel);
    a_ = one_dnn::filled(engine_, row_desc(m_, k_), type_);
    c_ = one_dnn::filled(engine_, row_desc(m_, n_), type_);
    for (std::int64_t column = 0; column < n_; column += kColumns)
      panels_.push_back(one_dnn::filled(engine_, panel, type_));
  }
  void multiply(std::int64_t row, std::int64_t panel) {
    const std::int64_t rows = std::min(kRows, m_ - row);
    const auto at = [&](const dnnl::memory& memory, std::int64_t element) {
      const std::size_t bytes = dnnl::memory::data_type_size(type_);
      return static_cast<std::byte*>(memory.get_data_handle()) +
             static_cast<std::size_t>(element) * bytes;
    };
    const Call& call = calls_.at(rows);
    dnnl::stream stream(engine_);
    call.primitive.execute(
        stream,
        {{DNNL_ARG_SRC, dnnl::memory(row_desc(rows, k_), engine_, at(a_, row * k_))},
         {DNNL_ARG_WEIGHTS, panels_[static_cast<std::size_t>(panel)]},
         {DNNL_ARG_DST,
          dnnl::memory(result_desc(rows), engine_, at(c_, row * n_ + panel * kColumns))},
         {DNNL_ARG_SCRATCHPAD, call.scratchpads[static_cast<std::size_t>(omp_get_thread_num())]}});
    stream.wait();
  }

  struct Call {
    dnnl::matmul primitive;
    std::vector<dnnl::memory> scratchpads;  // by thread
  };

  std::int64_t m_;
  std::int64_t k_;
  std::int64_t n_;
  Type type_;
  int threads_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  std::map<std::int64_t, Call> calls_;  // by rows
  dnnl::memory a_;
  dnnl::memory c_;
  std::vector<dnnl::memory> panels_;
};

}  // namespace airlock::bench
