#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/convert.h"
#include "proto/op.h"
#include "runtime/cpu/few_rows_order.h"
#include "runtime/cpu/panel_packer.h"
#include "runtime/cpu/weights.h"
#include "runtime/placement/placement.h"

namespace airlock {

namespace {

using Tag = dnnl::memory::format_tag;

/// A tensor of the model and where it is held.
struct Target {
  std::string name;
  std::int64_t first_row = 0;  // that is held
  std::int64_t columns = 0;
  // Its panels; null: its rows as they are, of `dtype`, at `rows`.
  const HeldWeight* weight = nullptr;
  std::byte* rows = nullptr;
  DType dtype = DType::kF32;
  // Of the full panels, and of the narrower one.
  PanelForm form;
  PanelForm last_form;
  std::size_t blocks_left = 0;
};

/// Some rows of a target, counted from its first, on their way there.
struct Block {
  std::size_t target = 0;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
};

constexpr std::int64_t kBlockBytes = std::int64_t{8} << 20;
/// Read at a time: what was read is still near when it is packed.
constexpr std::int64_t kReadBytes = std::int64_t{128} << 10;
static_assert(kPlacedColumns % kPanelColumns == 0, "a share's rows begin with a panel");

std::int64_t rows_per_block(std::int64_t columns) {
  const std::int64_t rows = kBlockBytes / (columns * 4);
  return std::max(kPanelColumns, rows / kPanelColumns * kPanelColumns);
}

std::int64_t rows_per_read(std::int64_t columns, DType dtype) {
  const std::int64_t rows = kReadBytes / (columns * static_cast<std::int64_t>(dtype_bytes(dtype)));
  return std::max(kPackedRows, rows / kPackedRows * kPackedRows);
}

/// How a panel is held.
struct PanelLayout {
  dnnl::memory::desc desc;
  bool packed = false;
  PanelForm form;
  few_rows::Order order;
};

/// As oneDNN wants a panel k x n, if one layout serves every number of rows; else W's own rows as
/// they are. Throws dnnl::error where it cannot try that one.
PanelLayout choose_layout(const dnnl::engine& engine, DType held, std::int64_t k, std::int64_t n) {
  const auto type = onednn::data_type(held);
  const dnnl::memory::desc plain({k, n}, type, Tag::ba);
  dnnl::memory::desc layout({k, n}, type, Tag::any);
  try {
    for (const std::int64_t m : {128, 1, 4, 16, 64, 1024, 4096}) {
      for (const auto result : {type, dnnl::memory::data_type::f32}) {
        layout =
            onednn::pick_layout(engine, {{m, k}, type, Tag::ab}, layout, {{m, n}, result, Tag::ab});
      }
    }
  } catch (const dnnl::error&) {
    return {plain, false, {}, {}};
  }
  if (layout == plain) return {plain, false, {}, {}};
  return {layout, true, find_panel_form(held, k, n, layout),
          few_rows::find_order(engine, held, k, n, layout)};
}

std::byte* with_room(std::vector<std::byte>& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) buffer.resize(bytes);
  return buffer.data();
}

/// Memory that a thread uses again and again.
struct Buffers {
  std::vector<std::byte> read;
  std::vector<std::byte> held;
};

/// Loads all that a share has of a model. Blocks run on every thread of the pool, which take them
/// as they come; `mutex_` guards what they share.
class Loader {
 public:
  Loader(const ModelSource& model, const Numerics& numerics, const dnnl::engine& engine,
         const LoadOptions& options)
      : model_(model),
        numerics_(numerics),
        engine_(engine),
        options_(options),
        share_(options.share != nullptr ? *options.share : ModelShare::whole(model.config().dims)) {
  }

  Result<Weights> load(ThreadPool& pool) {
    Weights weights;
    weights.numerics = numerics_;
    {
      const onednn::OneThread alone;
      RETURN_IF_ERROR(onednn::guarded([&] { return plan(weights); }));
    }
    // Relaxed: it only hands out indices; the pool orders what the blocks wrote.
    std::atomic<std::size_t> next{0};
    pool.parallel_for(pool.thread_count(), [&](std::size_t, std::size_t) { run_blocks(next); });
    if (!first_error_.ok()) return first_error_;
    if (options_.progress) options_.progress(total_bytes_, total_bytes_);
    return weights;
  }

 private:
  Status plan(Weights& weights) {
    const LlamaConfig& config = model_.config();
    const ModelDims& dims = config.dims;
    weights.layers.resize(static_cast<std::size_t>(dims.layers));
    const Shape table{dims.vocab, dims.hidden};
    const bool tied = config.tie_word_embeddings;
    const bool packs_tied = tied && order_of(dims.hidden, dims.vocab).known();
    const bool is_head = packs_tied && share_.lm_head.count() == dims.vocab;
    if (share_.embedding && !is_head) RETURN_IF_ERROR(plan_table(weights, tied));
    if (packs_tied)
      RETURN_IF_ERROR(plan_weight(kEmbedName, table, share_.lm_head, weights.lm_head));
    if (tied && !packs_tied) RETURN_IF_ERROR(plan_head_as_rows(weights));
    for (std::size_t layer = 0; layer < weights.layers.size(); ++layer) {
      for (const WeightKind kind : kValuesOf<WeightKind>) {
        const WeightId id{kind, static_cast<std::uint16_t>(layer)};
        RETURN_IF_ERROR(plan_weight(weight_name(id), weight_shape(dims, kind), share_.rows(id),
                                    weights.layers[layer][kind]));
      }
    }
    if (tied) return {};
    return plan_weight(kLmHeadName, table, share_.lm_head, weights.lm_head);
  }

  Status plan_table(Weights& weights, bool tied) {
    const ModelDims& dims = model_.config().dims;
    const TensorDesc desc{tied ? numerics_.held : numerics_.dtype, Shape{dims.vocab, dims.hidden}};
    ASSIGN_OR_RETURN(weights.table_pages, PageBuffer::allocate(desc.bytes()));
    std::byte* rows = weights.table_pages.data();
    weights.table = {rows, desc};
    plan_blocks({kEmbedName, 0, dims.hidden, nullptr, rows, desc.dtype, {}, {}}, dims.vocab);
    return {};
  }

  /// lm_head of a tied model as rows of the table: that which is held, or rows of its own.
  Status plan_head_as_rows(Weights& weights) {
    HeldWeight& head = weights.lm_head;
    const std::int64_t first = share_.lm_head.begin;
    head.n = share_.lm_head.count();
    head.k = model_.config().dims.hidden;
    if (head.n == 0) return {};
    const TensorDesc row{numerics_.held, Shape{head.k}};
    head.panel_bytes = static_cast<std::size_t>(kPanelColumns) * row.bytes();
    if (share_.embedding) {
      head.data = weights.table_pages.data() + static_cast<std::size_t>(first) * row.bytes();
      return {};
    }
    ASSIGN_OR_RETURN(head.pages,
                     PageBuffer::allocate(static_cast<std::size_t>(head.n) * row.bytes()));
    head.data = head.pages.data();
    plan_blocks({kEmbedName, first, head.k, nullptr, head.data, row.dtype, {}, {}}, head.n);
    return {};
  }

  Status plan_weight(const std::string& name, const Shape& shape, const RowRange& held,
                     HeldWeight& weight) {
    weight.n = held.count();
    weight.k = shape[1];
    if (held.empty()) return {};
    const std::int64_t full = weight.n / kPanelColumns;
    const std::int64_t rest = weight.n % kPanelColumns;
    std::size_t bytes = 0;
    Target target{name, held.begin, weight.k, &weight, nullptr, numerics_.held, {}, {}};
    if (full > 0) {
      const PanelLayout& chosen = layout_of(weight.k, kPanelColumns);
      weight.layout = chosen.desc;
      weight.packed = chosen.packed;
      target.form = chosen.form;
      weight.panel_bytes = aligned(weight.layout.get_size());
      bytes += static_cast<std::size_t>(full) * weight.panel_bytes;
    }
    if (rest > 0) {
      const PanelLayout& chosen = layout_of(weight.k, rest);
      weight.last_layout = chosen.desc;
      weight.last_packed = chosen.packed;
      target.last_form = chosen.form;
      bytes += weight.last_layout.get_size();
    }
    weight.order = order_of(shape[1], shape[0]);
    ASSIGN_OR_RETURN(weight.pages, PageBuffer::allocate(bytes));
    weight.data = weight.pages.data();
    plan_blocks(std::move(target), weight.n);
    return {};
  }

  static std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

  const PanelLayout& layout_of(std::int64_t k, std::int64_t n) {
    auto [entry, is_new] = layouts_.try_emplace({k, n});
    if (is_new) entry->second = choose_layout(engine_, numerics_.held, k, n);
    return entry->second;
  }

  /// Known where it is known, and the same, for all panels.
  few_rows::Order order_of(std::int64_t k, std::int64_t n) {
    const std::int64_t rest = n % kPanelColumns;
    const few_rows::Order order = layout_of(k, n < kPanelColumns ? rest : kPanelColumns).order;
    const bool agree = rest == 0 || layout_of(k, rest).order == order;
    return agree ? order : few_rows::Order{};
  }

  void plan_blocks(Target target, std::int64_t rows) {
    const std::int64_t step = rows_per_block(target.columns);
    for (std::int64_t row = 0; row < rows; row += step) {
      blocks_.push_back({targets_.size(), row, std::min(step, rows - row)});
      ++target.blocks_left;
    }
    total_bytes_ += static_cast<std::size_t>(rows * target.columns) * dtype_bytes(numerics_.dtype);
    targets_.push_back(std::move(target));
  }

  void run_blocks(std::atomic<std::size_t>& next) {
    const onednn::OneThread alone;
    Buffers buffers;
    for (std::size_t index = 0;
         (index = next.fetch_add(1, std::memory_order_relaxed)) < blocks_.size();) {
      {
        const std::lock_guard lock(mutex_);
        if (!first_error_.ok()) return;
      }
      const Block& block = blocks_[index];
      finish_block(block, onednn::guarded([&] { return run_block(block, buffers); }));
    }
  }

  Status run_block(const Block& block, Buffers& buffers) const {
    const Target& target = targets_[block.target];
    if (target.weight == nullptr) return load_rows(target, block, buffers);
    const Cut panels{block.rows, kPanelColumns};
    for (std::int64_t i = 0; i < panels.parts(); ++i) {
      const std::int64_t rows = panels.size(i);
      const PanelForm& form = rows == kPanelColumns ? target.form : target.last_form;
      const Block panel{block.target, block.first_row + panels.begin(i), rows};
      RETURN_IF_ERROR(form.known() ? pack(target, panel, form, buffers)
                                   : reorder(target, panel, buffers));
    }
    return {};
  }

  /// Some rows of a target, rounded to numerics.dtype.
  Status read(const Target& target, std::int64_t first_row, std::int64_t rows,
              std::byte* to) const {
    return model_.read_rows(target.name, target.first_row + first_row,
                            {to, {numerics_.dtype, Shape{rows, target.columns}}});
  }

  std::size_t bytes_of(const Target& target, std::int64_t rows, DType dtype) const {
    return static_cast<std::size_t>(rows * target.columns) * dtype_bytes(dtype);
  }

  /// Rows that stay rows.
  Status load_rows(const Target& target, const Block& block, Buffers& buffers) const {
    std::byte* const first = target.rows + bytes_of(target, block.first_row, target.dtype);
    if (target.dtype == numerics_.dtype) return read(target, block.first_row, block.rows, first);
    const Cut parts{block.rows, rows_per_read(target.columns, numerics_.dtype)};
    for (std::int64_t i = 0; i < parts.parts(); ++i) {
      const std::int64_t rows = parts.size(i);
      std::byte* const from = with_room(buffers.read, bytes_of(target, rows, numerics_.dtype));
      std::byte* const to = first + bytes_of(target, parts.begin(i), target.dtype);
      RETURN_IF_ERROR(read(target, block.first_row + parts.begin(i), rows, from));
      hold_block(numerics_, numerics_.dtype, from, to,
                 static_cast<std::size_t>(rows * target.columns));
    }
    return {};
  }

  /// Some rows of a target in the held type, in one of the buffers.
  Result<std::byte*> held_rows(const Target& target, std::int64_t first_row, std::int64_t rows,
                               Buffers& buffers) const {
    std::byte* const from = with_room(buffers.read, bytes_of(target, rows, numerics_.dtype));
    RETURN_IF_ERROR(read(target, first_row, rows, from));
    if (numerics_.dtype == numerics_.held) return from;
    std::byte* const to = with_room(buffers.held, bytes_of(target, rows, numerics_.held));
    hold_block(numerics_, numerics_.dtype, from, to,
               static_cast<std::size_t>(rows * target.columns));
    return to;
  }

  /// The same as they are packed: of the held type, or bf16.
  Result<std::pair<const std::byte*, DType>> rows_to_pack(const Target& target,
                                                          std::int64_t first_row, std::int64_t rows,
                                                          Buffers& buffers) const {
    if (numerics_.dtype != DType::kBF16) {
      ASSIGN_OR_RETURN(const std::byte* held, held_rows(target, first_row, rows, buffers));
      return std::pair<const std::byte*, DType>{held, numerics_.held};
    }
    std::byte* const from = with_room(buffers.read, bytes_of(target, rows, numerics_.dtype));
    RETURN_IF_ERROR(read(target, first_row, rows, from));
    return std::pair<const std::byte*, DType>{from, numerics_.dtype};
  }

  /// A panel, in parts that stay in a cache while they are read and packed.
  Status pack(const Target& target, const Block& panel, const PanelForm& form,
              Buffers& buffers) const {
    // The pages are the loader's until the weights are loaded.
    auto* const to = const_cast<std::byte*>(target.weight->panel(panel.first_row).data);
    const Cut parts{panel.rows, rows_per_read(target.columns, numerics_.dtype)};
    for (std::int64_t i = 0; i < parts.parts(); ++i) {
      const std::int64_t first = parts.begin(i);
      ASSIGN_OR_RETURN(const auto rows,
                       rows_to_pack(target, panel.first_row + first, parts.size(i), buffers));
      pack_rows(form, rows.second, numerics_.held, rows.first, first, parts.size(i), to);
    }
    return {};
  }

  /// A panel of a form that oneDNN alone knows.
  Status reorder(const Target& target, const Block& block, Buffers& buffers) const {
    const HeldWeight::Panel panel = target.weight->panel(block.first_row);
    ASSIGN_OR_RETURN(std::byte* const rows,
                     held_rows(target, block.first_row, block.rows, buffers));
    dnnl::stream stream(engine_);
    dnnl::memory from({{target.columns, block.rows}, onednn::data_type(numerics_.held), Tag::ba},
                      engine_, rows);
    // As above.
    dnnl::memory packed(*panel.layout, engine_, const_cast<std::byte*>(panel.data));
    dnnl::reorder(from, packed).execute(stream, from, packed);
    stream.wait();
    return {};
  }

  void finish_block(const Block& block, const Status& status) {
    Target& target = targets_[block.target];
    std::size_t done_bytes = 0;
    bool is_last = false;
    {
      const std::lock_guard lock(mutex_);
      if (!status.ok()) {
        if (first_error_.ok()) first_error_ = status.with_context(target.name);
        return;
      }
      done_bytes_ +=
          static_cast<std::size_t>(block.rows * target.columns) * dtype_bytes(numerics_.dtype);
      done_bytes = done_bytes_;
      is_last = --target.blocks_left == 0;
    }
    if (is_last) model_.release(target.name);
    if (options_.progress && std::this_thread::get_id() == caller_)
      options_.progress(done_bytes, total_bytes_);
  }

  const ModelSource& model_;
  const Numerics numerics_;
  const dnnl::engine& engine_;
  const LoadOptions& options_;
  const ModelShare share_;
  const std::thread::id caller_ = std::this_thread::get_id();
  std::map<std::pair<std::int64_t, std::int64_t>, PanelLayout> layouts_;
  std::vector<Target> targets_;  // blocks_left of each is guarded by mutex_
  std::vector<Block> blocks_;
  std::size_t total_bytes_ = 0;

  std::mutex mutex_;
  Status first_error_;
  std::size_t done_bytes_ = 0;
};

}  // namespace

void Weights::gather(std::span<const std::int32_t> ids, MutableTensorView out) const {
  if (table.data != nullptr) return gather_rows(table, ids, out);
  const auto layout = few_rows::Layout::of(numerics.held, lm_head.k);
  const Shape row_shape{lm_head.k};
  std::vector<std::byte> row(TensorDesc{numerics.held, row_shape}.bytes());
  const std::size_t out_bytes = TensorDesc{out.desc.dtype, row_shape}.bytes();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    few_rows::copy_column(layout, lm_head.data, ids[i], row.data());
    convert({row.data(), {numerics.held, row_shape}},
            {out.data + i * out_bytes, {out.desc.dtype, row_shape}});
  }
}

Result<Weights> load_weights(const ModelSource& model, const Numerics& numerics,
                             const dnnl::engine& engine, const LoadOptions& options,
                             ThreadPool& pool) {
  return Loader(model, numerics, engine, options).load(pool);
}

}  // namespace airlock
