#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/thread_pool.h"
#include "proto/op.h"
#include "runtime/cpu/onednn.h"
#include "runtime/cpu/weights.h"
#include "runtime/exact/int8_weights.h"

/// Internal to runtime/cpu.
namespace airlock {

/// What multiplies int8.
enum class Int8Way {
  // oneDNN, s8 x s8 to s32.
  kOneDnn,
  // fp64 products: oneDNN's are wrong on this CPU (without VNNI its sums saturate), or slow.
  kF64,
};

/// Columns of a panel as kOneDnn holds it: with zeros up to whole blocks, which take no more memory
/// there, since oneDNN uses AMX for few rows only where there are many columns.
constexpr std::int64_t padded_columns(std::int64_t n) { return (n + 63) / 64 * 64; }

/// How panels of int8 weights k x n are held on this machine, n being kPanelColumns or what a last
/// panel has; `shapes` are all that a model has.
class Int8Layouts {
 public:
  using Shapes = std::vector<std::array<std::int64_t, 2>>;  // k, n
  /// Tries oneDNN's product of each shape on extreme values, for the row counts that ops make, and
  /// compares it with sums of integers. Under OneThread. Throws dnnl::error.
  Int8Layouts(const dnnl::engine& engine, const Shapes& shapes);

  Int8Way way() const { return way_; }
  /// Of kDigitRowCounts: what oneDNN takes for all of these layouts, and all above it. With fewer
  /// rows it leaves AMX, and the layout, for another kernel.
  std::int64_t least_digit_rows() const { return least_digit_rows_; }
  /// Of padded_columns(n). kF64: of W's own rows as they are.
  const dnnl::memory::desc& of(std::int64_t k, std::int64_t n) const { return descs_.at({k, n}); }

 private:
  bool choose(const dnnl::engine& engine, const Shapes& shapes);

  Int8Way way_ = Int8Way::kOneDnn;
  std::int64_t least_digit_rows_ = 1;
  std::map<std::array<std::int64_t, 2>, dnnl::memory::desc> descs_;
};

/// A plane of a weight W [n, k] = `shape`, with room for its panels and nothing in them.
Result<std::shared_ptr<HeldWeight>> make_int8_room(const Int8Layouts& layouts, const Shape& shape);
/// Fills the panels of some rows of W, dense; `first_row` begins one. Under OneThread. Throws
/// dnnl::error.
void pack_int8(const dnnl::engine& engine, const HeldWeight& weight, std::int64_t first_row,
               std::int64_t row_count, std::span<const std::int8_t> rows);

/// The int8 planes that there are, one of each weight or two. Never changes once ops see it.
struct HeldInt8 {
  // Shared with what was held before and with what comes after; null: not made.
  using Planes = std::array<std::shared_ptr<const HeldWeight>, kMaxInt8Planes>;

  Int8Way way = Int8Way::kOneDnn;
  std::int64_t least_digit_rows = 1;
  std::vector<PerValue<WeightKind, Planes>> layers;
  Planes lm_head;

  const Planes& planes(const WeightId& id) const { return layers[id.layer][id.kind]; }
};

/// Makes the int8 weights of one model when they are first asked for, and keeps them. Thread-safe.
class Int8Keeper {
 public:
  using Progress = std::function<void(std::size_t done_bytes, std::size_t total_bytes)>;

  explicit Int8Keeper(const dnnl::engine& engine) : engine_(engine) {}

  /// As ComputeModel::prepare_int8() or, of a `share` (which is always the same; null: all),
  /// prepare_int8_share(): what was made, which lives as long as this. `pool` is used until it
  /// returns; null: one of `threads` is made, where there is something to do. `also` gets every
  /// block too and may be empty. What is made is held where an earlier choice has not made it, and
  /// ops see it all at once, at the end. kResourceExhausted: the machine has less memory than that
  /// takes.
  Result<const Int8Model*> prepare(const ModelSource& model, Int8Weights choice,
                                   const ModelShare* share, std::size_t threads, ThreadPool* pool,
                                   const Int8Sink& also, const Progress& progress);
  /// Null: none yet.
  std::shared_ptr<const HeldInt8> held() const;
  /// Of the last choice made; null before. Lives as long as this.
  const Int8Model* facts() const;

 private:
  Status lay_out(const ModelDims& dims);

  const dnnl::engine& engine_;
  // One makes, and others who ask wait. Guards made_ and layouts_.
  std::mutex making_;
  std::map<Int8Weights, Int8Model> made_;
  std::unique_ptr<const Int8Layouts> layouts_;
  // Guards what follows.
  mutable std::mutex mutex_;
  std::shared_ptr<const HeldInt8> held_;
  const Int8Model* facts_ = nullptr;
};

}  // namespace airlock
