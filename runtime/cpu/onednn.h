#pragma once

#include <omp.h>

#include <compare>
#include <cstddef>
#include <cstdint>
#include <future>
#include <list>
#include <map>
#include <new>
#include <oneapi/dnnl/dnnl.hpp>
#include <utility>
#include <vector>

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

/// Batches of dense products [m, k] x [k, n], ready to run on any memory. Each worker has handles
/// of its own, made once and pointed at one block after another: to make them takes as long as a
/// small product.
class Call {
 public:
  /// For workers 0 to `workers` - 1. Throws dnnl::error, as does what is below.
  Call(const dnnl::engine& engine, const dnnl::memory::desc& a, const dnnl::memory::desc& b,
       const dnnl::memory::desc& c, std::size_t workers);

  std::size_t scratchpad_bytes() const { return scratchpad_bytes_; }
  /// Writes all of `to`. Under OneThread. Several workers at once.
  void run(std::size_t worker, dnnl::stream& stream, const std::byte* left, const std::byte* right,
           std::byte* to, std::byte* scratchpad);

 private:
  struct Handles {
    dnnl::memory a;
    dnnl::memory b;
    dnnl::memory c;
    dnnl::memory scratchpad;
  };

  dnnl::engine engine_;
  dnnl::memory::desc a_;
  dnnl::memory::desc b_;
  dnnl::memory::desc c_;
  std::size_t scratchpad_bytes_ = 0;
  dnnl::matmul primitive_;
  // Made by their worker.
  std::vector<Handles> handles_;
};

/// The calls of one Compute, made when first needed; the least recently used go first. One thread.
class ProductCache {
 public:
  /// `held` is the type of both sides.
  ProductCache(const dnnl::engine& engine, dnnl::memory::data_type held, std::size_t workers)
      : engine_(engine), held_(held), workers_(workers) {}
  /// `packed` is the layout of b where key.b says so. Stays for kCachedCalls calls more. Throws
  /// dnnl::error.
  Call& get(const CallKey& key, const dnnl::memory::desc& packed);

  static constexpr std::size_t kCachedCalls = 256;

 private:
  using Entry = std::pair<CallKey, Call>;
  Call make(const CallKey& key, const dnnl::memory::desc& packed) const;

  dnnl::engine engine_;
  dnnl::memory::data_type held_;
  std::size_t workers_;
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
  } catch (const std::future_error&) {
    // oneDNN's cache has one thread make a primitive and others wait for a promise of it, which
    // breaks where the first finds no memory.
    return {StatusCode::kResourceExhausted, "out of memory in another thread of oneDNN"};
  }
}

}  // namespace airlock::onednn
