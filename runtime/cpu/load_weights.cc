#include <algorithm>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "proto/op.h"
#include "runtime/cpu/weights.h"

namespace airlock {

namespace {

using Tag = dnnl::memory::format_tag;

/// Some rows of one tensor, on their way to where they are held.
struct Block {
  const std::string* name = nullptr;
  std::int64_t columns = 0;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  const HeldWeight* weight = nullptr;  // packed into this one; null: rows of the plain `table`
  std::byte* table = nullptr;
  DType table_dtype = DType::kF32;
  std::size_t tensor = 0;  // index of the tensor, to know its last block
};

// A block of rows is cut where every block size oneDNN packs columns by (16 to 128, 48, 96, 192) is
// cut too.
constexpr std::int64_t kRowUnit = 384;
constexpr std::int64_t kBlockBytes = std::int64_t{8} << 20;

std::int64_t rows_per_block(std::int64_t columns) {
  const std::int64_t rows = kBlockBytes / (columns * 4);
  return std::max(kRowUnit, rows / kRowUnit * kRowUnit);
}

/// The layout in which oneDNN wants k x n, if one serves every number of rows; else W's own rows as
/// they are.
std::pair<dnnl::memory::desc, bool> choose_layout(const dnnl::engine& engine, DType held,
                                                  std::int64_t k, std::int64_t n) {
  const auto type = onednn::data_type(held);
  const dnnl::memory::desc plain({k, n}, type, Tag::ba);
  try {
    dnnl::memory::desc layout({k, n}, type, Tag::any);
    for (const std::int64_t m : {128, 1, 4, 16, 64, 1024, 4096}) {
      for (const auto result : {type, dnnl::memory::data_type::f32}) {
        layout =
            onednn::pick_layout(engine, {{m, k}, type, Tag::ab}, layout, {{m, n}, result, Tag::ab});
      }
    }
    // Blocks of rows must be packable by themselves.
    for (std::int64_t row = 0; row < n; row += kRowUnit) {
      (void)layout.submemory_desc({k, std::min(kRowUnit, n - row)}, {0, row});
    }
    return {layout, !(layout == plain)};
  } catch (const dnnl::error&) {
    return {plain, false};
  }
}

/// Loads all tensors of a model. Blocks run on every thread of the pool; `mutex` guards what they
/// share.
class Loader {
 public:
  Loader(const ModelSource& model, const Numerics& numerics, const dnnl::engine& engine,
         const CpuOptions& options)
      : model_(model), numerics_(numerics), engine_(engine), options_(options) {}

  Result<Weights> load(ThreadPool& pool);

 private:
  Status plan(Weights& weights);
  Status plan_weight(const std::string& name, const Shape& shape, HeldWeight& weight);
  Status plan_table(Weights& weights, bool tied);
  void plan_blocks(const Block& whole, std::int64_t rows);
  void run_blocks(std::size_t begin, std::size_t end);
  Status run_block(const Block& block, std::vector<std::byte>& read,
                   std::vector<std::byte>& held) const;
  void finish_block(const Block& block, const Status& status);

  const ModelSource& model_;
  const Numerics numerics_;
  const dnnl::engine& engine_;
  const CpuOptions& options_;
  const std::thread::id caller_ = std::this_thread::get_id();
  std::map<std::pair<std::int64_t, std::int64_t>, std::pair<dnnl::memory::desc, bool>> layouts_;
  std::vector<std::string> names_;
  std::vector<Block> blocks_;
  std::size_t total_bytes_ = 0;

  std::mutex mutex_;
  Status first_error_;
  std::vector<std::size_t> blocks_left_;  // by tensor
  std::size_t done_bytes_ = 0;
};

Result<Weights> Loader::load(ThreadPool& pool) {
  Weights weights;
  weights.numerics = numerics_;
  {
    const onednn::ThreadCount threads(
        options_.threads);  // the layout is picked for the threads that will use it
    RETURN_IF_ERROR(onednn::guarded([&] { return plan(weights); }));
  }
  pool.parallel_for(blocks_.size(),
                    [this](std::size_t begin, std::size_t end) { run_blocks(begin, end); });
  if (!first_error_.ok()) return first_error_;
  if (options_.progress) options_.progress(total_bytes_, total_bytes_);
  return weights;
}

Status Loader::plan(Weights& weights) {
  const LlamaConfig& config = model_.config();
  const ModelDims& dims = config.dims;
  names_.reserve(static_cast<std::size_t>(dims.layers) * kCountOf<WeightKind> +
                 2);  // blocks point into it
  weights.layers.resize(static_cast<std::size_t>(dims.layers));
  RETURN_IF_ERROR(plan_table(weights, config.tie_word_embeddings));
  for (std::size_t layer = 0; layer < weights.layers.size(); ++layer) {
    for (std::size_t kind = 0; kind < kCountOf<WeightKind>; ++kind) {
      const WeightId id{static_cast<WeightKind>(kind + 1), static_cast<std::uint16_t>(layer)};
      RETURN_IF_ERROR(
          plan_weight(weight_name(id), weight_shape(dims, id.kind), weights.layers[layer][kind]));
    }
  }
  if (config.tie_word_embeddings) return {};
  return plan_weight(kLmHeadName, Shape{dims.vocab, dims.hidden}, weights.lm_head);
}

Status Loader::plan_table(Weights& weights, bool tied) {
  const ModelDims& dims = model_.config().dims;
  const TensorDesc desc{tied ? numerics_.held : numerics_.dtype, Shape{dims.vocab, dims.hidden}};
  ASSIGN_OR_RETURN(weights.table_pages, PageBuffer::allocate(desc.bytes()));
  weights.table = {weights.table_pages.data(), desc};
  if (tied) {
    HeldWeight& head = weights.lm_head;
    head.k = dims.hidden;
    head.n = dims.vocab;
    head.layout = dnnl::memory::desc({head.k, head.n}, onednn::data_type(numerics_.held), Tag::ba);
    head.data = weights.table_pages.data();
  }
  names_.emplace_back(kEmbedName);
  Block whole;
  whole.columns = dims.hidden;
  whole.table = weights.table_pages.data();
  whole.table_dtype = desc.dtype;
  plan_blocks(whole, dims.vocab);
  return {};
}

Status Loader::plan_weight(const std::string& name, const Shape& shape, HeldWeight& weight) {
  weight.n = shape[0];
  weight.k = shape[1];
  auto [entry, is_new] = layouts_.try_emplace({weight.k, weight.n});
  if (is_new) entry->second = choose_layout(engine_, numerics_.held, weight.k, weight.n);
  weight.layout = entry->second.first;
  weight.packed = entry->second.second;
  ASSIGN_OR_RETURN(weight.pages, PageBuffer::allocate(weight.layout.get_size()));
  weight.data = weight.pages.data();
  names_.push_back(name);
  Block whole;
  whole.columns = weight.k;
  if (weight.packed) {
    whole.weight = &weight;
  } else {
    whole.table = weight.data;
    whole.table_dtype = numerics_.held;
  }
  plan_blocks(whole, weight.n);
  return {};
}

void Loader::plan_blocks(const Block& whole, std::int64_t rows) {
  const std::int64_t step = rows_per_block(whole.columns);
  blocks_left_.push_back(0);
  for (std::int64_t row = 0; row < rows; row += step) {
    Block block = whole;
    block.name = &names_.back();
    block.tensor = names_.size() - 1;
    block.first_row = row;
    block.rows = std::min(step, rows - row);
    blocks_.push_back(block);
    ++blocks_left_.back();
  }
  total_bytes_ += static_cast<std::size_t>(rows * whole.columns) * dtype_bytes(numerics_.dtype);
}

void Loader::run_blocks(std::size_t begin, std::size_t end) {
  const onednn::ThreadCount one_thread(1);
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

Status Loader::run_block(const Block& block, std::vector<std::byte>& read,
                         std::vector<std::byte>& held) const {
  const TensorDesc desc{numerics_.dtype, Shape{block.rows, block.columns}};
  const auto count = static_cast<std::size_t>(block.rows * block.columns);
  if (block.weight == nullptr) {
    std::byte* to = block.table + static_cast<std::size_t>(block.first_row * block.columns) *
                                      dtype_bytes(block.table_dtype);
    if (block.table_dtype == numerics_.dtype)
      return model_.read_rows(*block.name, block.first_row, {to, desc});
    read.resize(std::max(read.size(), desc.bytes()));
    RETURN_IF_ERROR(model_.read_rows(*block.name, block.first_row, {read.data(), desc}));
    hold_block(numerics_, numerics_.dtype, read.data(), to, count);
    return {};
  }
  read.resize(std::max(read.size(), desc.bytes()));
  RETURN_IF_ERROR(model_.read_rows(*block.name, block.first_row, {read.data(), desc}));
  std::byte* from = read.data();
  if (numerics_.held != numerics_.dtype) {
    held.resize(std::max(held.size(), count * dtype_bytes(numerics_.held)));
    hold_block(numerics_, numerics_.dtype, read.data(), held.data(), count);
    from = held.data();
  }
  const dnnl::memory rows({{block.columns, block.rows}, onednn::data_type(numerics_.held), Tag::ba},
                          engine_, from);
  const dnnl::memory packed(
      block.weight->layout.submemory_desc({block.columns, block.rows}, {0, block.first_row}),
      engine_, block.weight->data);
  dnnl::stream stream(engine_);
  dnnl::memory source = rows;
  dnnl::memory target = packed;
  dnnl::reorder(rows, packed).execute(stream, source, target);
  stream.wait();
  return {};
}

void Loader::finish_block(const Block& block, const Status& status) {
  std::size_t done_bytes = 0;
  bool is_last = false;
  {
    const std::lock_guard lock(mutex_);
    if (!status.ok()) {
      if (first_error_.ok()) first_error_ = status.with_context(*block.name);
      return;
    }
    done_bytes_ +=
        static_cast<std::size_t>(block.rows * block.columns) * dtype_bytes(numerics_.dtype);
    done_bytes = done_bytes_;
    is_last = --blocks_left_[block.tensor] == 0;
  }
  if (is_last) model_.release(*block.name);
  if (options_.progress && std::this_thread::get_id() == caller_)
    options_.progress(done_bytes, total_bytes_);
}

}  // namespace

Result<Weights> load_weights(const ModelSource& model, const Numerics& numerics,
                             const dnnl::engine& engine, const CpuOptions& options,
                             ThreadPool& pool) {
  Loader loader(model, numerics, engine, options);
  ASSIGN_OR_RETURN(Weights weights, loader.load(pool));
  return weights;
}

}  // namespace airlock
