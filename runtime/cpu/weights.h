#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/page_buffer.h"
#include "base/tensor.h"
#include "base/thread_pool.h"
#include "proto/op.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/cpu/few_rows.h"
#include "runtime/cpu/numerics.h"
#include "runtime/cpu/onednn.h"
#include "runtime/cpu/pieces.h"

namespace airlock {

/// A weight W [n, k] as the right side of a product, k x n, in panels of kPanelColumns columns, the
/// last one perhaps narrower. The panels lie one behind the other; each serves every number of
/// rows. Of a share W are the rows that it has of the weight: they begin with a panel, so it is as
/// if there were no others.
struct HeldWeight {
  struct Panel {
    // Of k x the panel's columns. Not packed: W's own rows, as they are.
    const dnnl::memory::desc* layout = nullptr;
    bool packed = false;
    const std::byte* data = nullptr;
  };

  std::int64_t k = 0;
  std::int64_t n = 0;  // 0: nothing is held
  // Of the full panels, where there are any, and of the narrower one.
  dnnl::memory::desc layout;
  dnnl::memory::desc last_layout;
  bool packed = false;
  bool last_packed = false;
  // From one panel to the next.
  std::size_t panel_bytes = 0;
  // Known: all panels together are blocks as few_rows::Layout says. Of a share what it is of the
  // whole weight, so that bits are the same.
  few_rows::Order order;
  // In `pages`, or in the embedding table where that lies row by row and the model is tied.
  std::byte* data = nullptr;
  PageBuffer pages;

  /// The panel that begins with this column.
  Panel panel(std::int64_t column) const {
    const bool full = column + kPanelColumns <= n;
    return {full ? &layout : &last_layout, full ? packed : last_packed,
            data + static_cast<std::size_t>(column / kPanelColumns) * panel_bytes};
  }
};

/// Every weight of a model, or a share of them, rounded to numerics.dtype. Never changes once
/// loaded.
struct Weights {
  Numerics numerics;
  std::vector<PerValue<WeightKind, HeldWeight>> layers;
  PageBuffer table_pages;
  // [vocab, hidden]; tied: of numerics.held, else of numerics.dtype. Without data where it is not
  // held, or the model is tied and all of lm_head is held and packed: its columns are the rows.
  TensorView table;
  HeldWeight lm_head;

  const HeldWeight& weight(const WeightId& id) const { return layers[id.layer][id.kind]; }
  /// Rows of the embedding table, converted to out's type [ids, hidden]; every id lies in it.
  void gather(std::span<const std::int32_t> ids, MutableTensorView out) const;
};

/// Reads what options.share has of `model`, in blocks of rows, so that it is never in memory twice.
/// Errors are the model's, or no memory.
Result<Weights> load_weights(const ModelSource& model, const Numerics& numerics,
                             const dnnl::engine& engine, const LoadOptions& options,
                             ThreadPool& pool);

}  // namespace airlock
