#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/convert.h"
#include "proto/op.h"
#include "runtime/cpu/few_rows_order.h"
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
  std::size_t blocks_left = 0;
};

/// Some rows of a target, counted from its first, on their way there.
struct Block {
  std::size_t target = 0;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
};

constexpr std::int64_t kBlockBytes = std::int64_t{8} << 20;
static_assert(kPlacedColumns % kPanelColumns == 0, "a share's rows begin with a panel");

std::int64_t rows_per_block(std::int64_t columns) {
  const std::int64_t rows = kBlockBytes / (columns * 4);
  return std::max(kPanelColumns, rows / kPanelColumns * kPanelColumns);
}

/// How a panel is held.
struct PanelLayout {
  dnnl::memory::desc desc;
  bool packed = false;
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
    return {plain, false, {}};
  }
  if (layout == plain) return {plain, false, {}};
  return {layout, true, few_rows::find_order(engine, held, k, n, layout)};
}

std::byte* with_room(std::vector<std::byte>& buffer, std::size_t bytes) {
  if (buffer.size() < bytes) buffer.resize(bytes);
  return buffer.data();
}

/// Loads all that a share has of a model. Blocks run on every thread of the pool; `mutex_` guards
/// what they share.
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
    pool.parallel_for(blocks_.size(),
                      [this](std::size_t begin, std::size_t end) { run_blocks(begin, end); });
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
    plan_blocks({kEmbedName, 0, dims.hidden, nullptr, rows, desc.dtype}, dims.vocab);
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
    plan_blocks({kEmbedName, first, head.k, nullptr, head.data, row.dtype}, head.n);
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
    if (full > 0) {
      const PanelLayout& chosen = layout_of(weight.k, kPanelColumns);
      weight.layout = chosen.desc;
      weight.packed = chosen.packed;
      weight.panel_bytes = aligned(weight.layout.get_size());
      bytes += static_cast<std::size_t>(full) * weight.panel_bytes;
    }
    if (rest > 0) {
      const PanelLayout& chosen = layout_of(weight.k, rest);
      weight.last_layout = chosen.desc;
      weight.last_packed = chosen.packed;
      bytes += weight.last_layout.get_size();
    }
    weight.order = order_of(shape[1], shape[0]);
    ASSIGN_OR_RETURN(weight.pages, PageBuffer::allocate(bytes));
    weight.data = weight.pages.data();
    plan_blocks({name, held.begin, weight.k, &weight, nullptr, numerics_.held}, weight.n);
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

  void run_blocks(std::size_t begin, std::size_t end) {
    const onednn::OneThread alone;
    std::vector<std::byte> read;
    std::vector<std::byte> held;
    for (std::size_t index = begin; index < end; ++index) {
      {
        const std::lock_guard lock(mutex_);
        if (!first_error_.ok()) return;
      }
      const Block& block = blocks_[index];
      finish_block(block, onednn::guarded([&] { return run_block(block, read, held); }));
    }
  }

  // `read` and `held` are memory that this thread uses again and again.
  Status run_block(const Block& block, std::vector<std::byte>& read,
                   std::vector<std::byte>& held) const {
    const Target& target = targets_[block.target];
    const TensorDesc desc{numerics_.dtype, Shape{block.rows, target.columns}};
    const bool converts = target.dtype != numerics_.dtype;
    std::byte* plain = nullptr;
    if (target.weight == nullptr) {
      plain = target.rows + static_cast<std::size_t>(block.first_row * target.columns) *
                                dtype_bytes(target.dtype);
    }
    std::byte* rows = plain != nullptr && !converts ? plain : with_room(read, desc.bytes());
    RETURN_IF_ERROR(
        model_.read_rows(target.name, target.first_row + block.first_row, {rows, desc}));
    if (converts) {
      std::byte* to =
          plain != nullptr ? plain : with_room(held, desc.elements() * dtype_bytes(target.dtype));
      hold_block(numerics_, numerics_.dtype, rows, to, desc.elements());
      rows = to;
    }
    if (plain != nullptr) return {};
    pack(*target.weight, block, rows);
    return {};
  }

  // The panels of a block, which begins with one, from its rows.
  void pack(const HeldWeight& weight, const Block& block, std::byte* rows) const {
    dnnl::stream stream(engine_);
    const auto type = onednn::data_type(numerics_.held);
    const Cut panels{block.rows, kPanelColumns};
    for (std::int64_t i = 0; i < panels.parts(); ++i) {
      const HeldWeight::Panel panel = weight.panel(block.first_row + panels.begin(i));
      dnnl::memory from({{weight.k, panels.size(i)}, type, Tag::ba}, engine_,
                        rows + static_cast<std::size_t>(panels.begin(i) * weight.k) *
                                   dtype_bytes(numerics_.held));
      // The pages are the loader's until the weights are loaded.
      dnnl::memory packed(*panel.layout, engine_, const_cast<std::byte*>(panel.data));
      dnnl::reorder(from, packed).execute(stream, from, packed);
      stream.wait();
    }
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
