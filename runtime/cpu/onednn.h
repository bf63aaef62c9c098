#pragma once

#include <omp.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>

#include "base/dtype.h"
#include "base/status.h"
#include "proto/op.h"

/// oneDNN's products, what differs between its versions 2.x and 3.x, and what turns its exceptions
/// into a Status. Internal to runtime/cpu.
namespace airlock::onednn {

/// A product, ready to run with any memory of these layouts. The scratchpad is the caller's.
struct Product {
  dnnl::matmul primitive;
  dnnl::memory::desc a;
  dnnl::memory::desc b;
  dnnl::memory::desc c;
  std::size_t scratchpad_bytes = 0;
};

/// Everything that tells one product from another within one model.
struct ProductKey {
  // 0: x [m, k] times a weight; else batches of a product of two operands.
  std::int64_t groups = 0;
  // Over 1 only where a lies transposed: else a group's heads are rows of one matrix.
  std::int64_t heads_per_group = 1;
  std::int64_t m = 0;
  std::int64_t k = 0;
  std::int64_t n = 0;
  Transpose transpose = Transpose::kNone;
  // The weight lies in oneDNN's layout.
  bool packed = false;
  DType result = DType::kF32;
  auto operator<=>(const ProductKey&) const = default;
};

/// The products of one Compute, made when first needed; the least recently used go first. One
/// thread.
class ProductCache {
 public:
  ProductCache(const dnnl::engine& engine, DType held) : engine_(engine), held_(held) {}
  /// `weight` is the layout of b where key.groups is 0, else null. Valid until the next call.
  /// Throws dnnl::error.
  const Product& get(const ProductKey& key, const dnnl::memory::desc* weight);

 private:
  using Entry = std::pair<ProductKey, Product>;
  Product make(const ProductKey& key, const dnnl::memory::desc* weight) const;

  dnnl::engine engine_;
  DType held_;
  std::list<Entry> entries_;  // most recently used first
  std::map<ProductKey, std::list<Entry>::iterator> index_;
};

/// The layout that oneDNN picks for b of format `any`, or where `b` names one, `b`; throws
/// dnnl::error, also where only the reference implementation (a thousand times slower) would take
/// it.
dnnl::memory::desc pick_layout(const dnnl::engine& engine, const dnnl::memory::desc& a,
                               const dnnl::memory::desc& b, const dnnl::memory::desc& c);
/// kF32 or kBF16.
dnnl::memory::data_type data_type(DType dtype);
/// Whether this CPU multiplies bf16 itself (AVX-512); else bf16 weights are multiplied in fp32
/// after rounding.
bool has_bf16();

/// Whether OpenMP's settings let oneDNN have the threads that it asks for. It takes for granted
/// that it gets them: with fewer, parts of a product are never written, and what lay there before
/// is the result. kResourceExhausted, with advice.
Status check_threads(std::size_t count);

/// How many threads oneDNN uses for what this thread creates and runs, while this lives.
class ThreadCount {
 public:
  explicit ThreadCount(std::size_t count) : before_(omp_get_max_threads()) {
    // OMP_DYNAMIC in the environment must not change the split, and so the bits.
    omp_set_dynamic(0);
    omp_set_num_threads(static_cast<int>(count));
  }
  ~ThreadCount() { omp_set_num_threads(before_); }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

/// Runs `body`, which returns a Status, and turns what oneDNN and the allocator throw into one.
template <typename Body>
Status guarded(const Body& body) {
  try {
    return body();
  } catch (const dnnl::error& error) {
    const bool memory = error.status == dnnl_out_of_memory;
    return {memory ? StatusCode::kResourceExhausted : StatusCode::kInternal, "oneDNN: {}",
            error.what()};
  } catch (const std::bad_alloc&) {
    return {StatusCode::kResourceExhausted, "out of memory"};
  }
}

}  // namespace airlock::onednn
