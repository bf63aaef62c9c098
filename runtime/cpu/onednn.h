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

/// How the right side [k, n] of a call lies.
enum class Right {
  // Row by row.
  kRows,
  // Column by column: a weight's own rows.
  kColumns,
  // As oneDNN wants it.
  kPacked,
};

/// Everything that tells one call from another within one model.
struct CallKey {
  std::int64_t batches = 1;
  std::int64_t m = 0;
  std::int64_t k = 0;
  std::int64_t n = 0;
  Right b = Right::kRows;
  DType result = DType::kF32;
  auto operator<=>(const CallKey&) const = default;
};

/// Batches of dense products [m, k] x [k, n], ready to run on any memory. A cheap copy.
struct Call {
  dnnl::matmul primitive;
  dnnl::memory::desc a;
  dnnl::memory::desc b;
  dnnl::memory::desc c;
  std::size_t scratchpad_bytes = 0;
};

/// One thread's handles for a Call, made once and pointed at one block after another: to make them
/// takes as long as a small product.
class Runner {
 public:
  Runner() = default;
  Runner(const Call& call, const dnnl::engine& engine, std::byte* scratchpad);
  explicit operator bool() const { return static_cast<bool>(primitive_); }
  /// Writes all of `to`. Under OneThread. Throws dnnl::error, as does what is above.
  void run(dnnl::stream& stream, const std::byte* left, const std::byte* right, std::byte* to);

 private:
  dnnl::matmul primitive_;
  dnnl::memory a_;
  dnnl::memory b_;
  dnnl::memory c_;
  dnnl::memory scratchpad_;
};

/// The calls of one Compute, made when first needed; the least recently used go first. One thread.
class ProductCache {
 public:
  ProductCache(const dnnl::engine& engine, DType held) : engine_(engine), held_(held) {}
  /// `packed` is the layout of b where key.b says so. Throws dnnl::error.
  Call get(const CallKey& key, const dnnl::memory::desc& packed);

 private:
  using Entry = std::pair<CallKey, Call>;
  Call make(const CallKey& key, const dnnl::memory::desc& packed) const;

  dnnl::engine engine_;
  DType held_;
  std::list<Entry> entries_;  // most recently used first
  std::map<CallKey, std::list<Entry>::iterator> index_;
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

// Another threading runtime would need another OneThread.
static_assert(DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP ||
              DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_SEQ);

/// While this lives, what this thread creates and runs of oneDNN uses this thread alone, whatever
/// OpenMP's settings say: asked for one thread, oneDNN opens no parallel region.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

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
