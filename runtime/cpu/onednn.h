#pragma once

#include <omp.h>

#include <cstddef>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>

#include "base/dtype.h"
#include "base/status.h"

/// What differs between oneDNN 2.x and 3.x, and what turns its exceptions into a Status.
/// Internal to runtime/cpu.
namespace airlock::onednn {

/// A product, ready to run with any memory of these layouts. The scratchpad is the caller's.
struct Product {
  dnnl::matmul primitive;
  dnnl::memory::desc a;
  dnnl::memory::desc b;
  dnnl::memory::desc c;
  std::size_t scratchpad_bytes = 0;
};

/// Throws dnnl::error.
Product make_product(const dnnl::engine& engine, const dnnl::memory::desc& a,
                     const dnnl::memory::desc& b, const dnnl::memory::desc& c);
/// The layout that oneDNN picks for b of format `any`, or where `b` names one, `b`; throws
/// dnnl::error, also where only the reference implementation (a thousand times slower) would take
/// it.
dnnl::memory::desc pick_layout(const dnnl::engine& engine, const dnnl::memory::desc& a,
                               const dnnl::memory::desc& b, const dnnl::memory::desc& c);
/// kF32 or kBF16.
dnnl::memory::data_type data_type(DType dtype);

/// How many threads oneDNN uses for what this thread creates and runs, while this lives.
class ThreadCount {
 public:
  explicit ThreadCount(std::size_t count) : before_(omp_get_max_threads()) {
    omp_set_dynamic(
        0);  // OMP_DYNAMIC in the environment must not change the split, and so the bits
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
    return {memory ? StatusCode::kResourceExhausted : StatusCode::kInternal,
            std::string("oneDNN: ") + error.what()};
  } catch (const std::bad_alloc&) {
    return {StatusCode::kResourceExhausted, "out of memory"};
  }
}

}  // namespace airlock::onednn
