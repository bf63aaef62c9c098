#include "runtime/cpu/int8_weights_held.h"

#include <fmt/format.h>

#include <utility>

#include "base/available_memory.h"
#include "base/deadline.h"
#include "base/log.h"
#include "runtime/cpu/pieces.h"

namespace airlock {

namespace {

using Tag = dnnl::memory::format_tag;

Shape shape_of(const ModelDims& dims, Linear linear, std::size_t weight) {
  if (linear == Linear::kLmHead) return {dims.vocab, dims.hidden};
  return weight_shape(dims, kinds_of(linear)[weight]);
}

Int8Layouts::Shapes panel_shapes(const ModelDims& dims) {
  Int8Layouts::Shapes shapes;
  const auto add = [&shapes](const Shape& shape) {
    if (shape[0] >= kPanelColumns) shapes.push_back({shape[1], kPanelColumns});
    if (shape[0] % kPanelColumns != 0) shapes.push_back({shape[1], shape[0] % kPanelColumns});
  };
  for (const WeightKind kind : kValuesOf<WeightKind>) add(weight_shape(dims, kind));
  add(shape_of(dims, Linear::kLmHead, 0));
  return shapes;
}

// Blocks begin where panels do.
static_assert(kInt8BlockRows % kPanelColumns == 0);

/// The sink of one making: packs what is of the share and not held yet into planes that are.
class Packer {
 public:
  Packer(const dnnl::engine& engine, const Int8Layouts& layouts, const ModelDims& dims,
         const ModelShare* share, const HeldInt8* before)
      : engine_(engine),
        layouts_(layouts),
        share_(share != nullptr ? *share : ModelShare::whole(dims)) {
    if (before != nullptr) held_ = *before;
    held_.way = layouts.way();
    held_.least_digit_rows = layouts.least_digit_rows();
    held_.layers.resize(static_cast<std::size_t>(dims.layers));
  }

  /// Any thread.
  Status take(const Int8Rows& rows) {
    const RowRange& mine = share_rows(rows);
    if (rows.first_row < mine.begin || rows.first_row >= mine.end) return {};
    ASSIGN_OR_RETURN(HeldWeight* const weight, target(rows, mine.count()));
    if (weight == nullptr) return {};
    return onednn::guarded([&]() -> Status {
      const onednn::OneThread alone;
      pack_int8(engine_, *weight, rows.first_row - mine.begin, rows.row_count, rows.values);
      return {};
    });
  }

  std::shared_ptr<const HeldInt8> finished() const { return std::make_shared<HeldInt8>(held_); }
  std::size_t bytes() const { return bytes_; }

 private:
  HeldInt8::Planes& planes(const Int8Rows& rows) {
    if (rows.linear == Linear::kLmHead) return held_.lm_head;
    return held_.layers[rows.layer][kinds_of(rows.linear)[rows.weight]];
  }
  /// Of their weight.
  const RowRange& share_rows(const Int8Rows& rows) const {
    if (rows.linear == Linear::kLmHead) return share_.lm_head;
    return share_.rows({kinds_of(rows.linear)[rows.weight], rows.layer});
  }

  /// Where the rows go, for so many of their weight; made by the first that come. Null: an earlier
  /// making has them.
  Result<HeldWeight*> target(const Int8Rows& rows, std::int64_t row_count) {
    const std::lock_guard lock(mutex_);
    auto& place = planes(rows)[rows.plane];
    if (place != nullptr && !targets_.contains(&place)) return nullptr;
    auto& target = targets_[&place];
    if (target == nullptr) {
      ASSIGN_OR_RETURN(target, make_int8_room(layouts_, {row_count, rows.columns}));
      bytes_ += target->pages.bytes();
      place = target;
    }
    return target.get();
  }

  const dnnl::engine& engine_;
  const Int8Layouts& layouts_;
  const ModelShare share_;
  std::mutex mutex_;
  // Guarded by mutex_.
  HeldInt8 held_;
  std::map<const void*, std::shared_ptr<HeldWeight>> targets_;
  std::size_t bytes_ = 0;
};

std::string_view name_of(Int8Way way) {
  return way == Int8Way::kOneDnn ? "int8 products"
                                 : "fp64 products, as this CPU's of int8 are wrong";
}

/// Before anything is taken: a process that takes too much is killed, and others with it.
Status check_int8_memory(const ModelDims& dims, Int8Weights choice, const ModelShare* share,
                         bool has_first_plane) {
  std::size_t bytes = most_int8_bytes(dims, choice, share);
  if (has_first_plane) bytes -= most_int8_bytes(dims, Int8Weights::kW8, share);
  const auto available = memory_available_bytes();
  if (!available || bytes <= *available) return {};
  return {StatusCode::kResourceExhausted,
          "int8 weights ({}) may take {} bytes, and {} are available", name_of(choice), bytes,
          *available};
}

}  // namespace

Result<std::shared_ptr<HeldWeight>> make_int8_room(const Int8Layouts& layouts, const Shape& shape) {
  auto weight = std::make_shared<HeldWeight>();
  weight->n = shape[0];
  weight->k = shape[1];
  const std::int64_t full = weight->n / kPanelColumns;
  const std::int64_t rest = weight->n % kPanelColumns;
  weight->packed = weight->last_packed = layouts.way() == Int8Way::kOneDnn;
  std::size_t bytes = 0;
  if (full > 0) {
    weight->layout = layouts.of(weight->k, kPanelColumns);
    weight->panel_bytes = (weight->layout.get_size() + 63) / 64 * 64;
    bytes += static_cast<std::size_t>(full) * weight->panel_bytes;
  }
  if (rest > 0) {
    weight->last_layout = layouts.of(weight->k, rest);
    bytes += weight->last_layout.get_size();
  }
  ASSIGN_OR_RETURN(weight->pages, PageBuffer::allocate(bytes));
  weight->data = weight->pages.data();
  return weight;
}

void pack_int8(const dnnl::engine& engine, const HeldWeight& weight, std::int64_t first_row,
               std::int64_t row_count, std::span<const std::int8_t> rows) {
  dnnl::stream stream(engine);
  const Cut panels{row_count, kPanelColumns};
  for (std::int64_t i = 0; i < panels.parts(); ++i) {
    const HeldWeight::Panel panel = weight.panel(first_row + panels.begin(i));
    const std::int8_t* from = rows.data() + panels.begin(i) * weight.k;
    std::int64_t columns = panels.size(i);
    std::vector<std::int8_t> padded;
    if (panel.packed && columns != padded_columns(columns)) {
      padded.assign(from, from + columns * weight.k);
      columns = padded_columns(columns);
      padded.resize(static_cast<std::size_t>(columns * weight.k));
      from = padded.data();
    }
    // oneDNN's handles are not const: it reads the first, and the second's pages are the caller's
    // to fill.
    dnnl::memory plain({{weight.k, columns}, dnnl::memory::data_type::s8, Tag::ba}, engine,
                       const_cast<std::int8_t*>(from));
    dnnl::memory packed(*panel.layout, engine, const_cast<std::byte*>(panel.data));
    dnnl::reorder(plain, packed).execute(stream, plain, packed);
    stream.wait();
  }
}

Status Int8Keeper::lay_out(const ModelDims& dims) {
  if (layouts_) return {};
  return onednn::guarded([&]() -> Status {
    const onednn::OneThread alone;
    layouts_ = std::make_unique<Int8Layouts>(engine_, panel_shapes(dims));
    return {};
  });
}

Result<const Int8Model*> Int8Keeper::prepare(const ModelSource& model, Int8Weights choice,
                                             const ModelShare* share, std::size_t threads,
                                             ThreadPool* pool, const Int8Sink& also,
                                             const Progress& progress) {
  if (choice == Int8Weights::kNone)
    return Status(StatusCode::kInvalidInput, "no int8 weights were asked for");
  const std::lock_guard making(making_);
  if (const auto made = made_.find(choice); made != made_.end() && !also) return &made->second;
  const std::uint64_t start_ns = now_ns();
  const ModelDims& dims = model.config().dims;
  // Of two planes of all there is nothing more to take.
  if (!made_.contains(Int8Weights::kW16))
    RETURN_IF_ERROR(check_int8_memory(dims, choice, share, held() != nullptr));
  std::unique_ptr<ThreadPool> own;
  if (pool == nullptr) {
    ASSIGN_OR_RETURN(own, ThreadPool::create(threads));
    pool = own.get();
  }
  RETURN_IF_ERROR(lay_out(dims));
  Packer packer(engine_, *layouts_, dims, share, held().get());
  const auto sink = [&](const Int8Rows& rows) -> Status {
    RETURN_IF_ERROR(packer.take(rows));
    return also ? also(rows) : Status();
  };
  ASSIGN_OR_RETURN(Int8Model facts, make_int8_weights(model, choice, *pool, sink, progress, share));
  // Those of an earlier making have the same bits, and facts() may have given them away.
  const Int8Model& kept = made_.emplace(choice, std::move(facts)).first->second;
  log_info(fmt::format("int8 weights ({}): {:.0f} MB in {:.1f} s, for {}", name_of(choice),
                       static_cast<double>(packer.bytes()) / 1e6,
                       static_cast<double>(now_ns() - start_ns) / 1e9, name_of(layouts_->way())));
  const std::lock_guard lock(mutex_);
  held_ = packer.finished();
  facts_ = &kept;
  return &kept;
}

std::shared_ptr<const HeldInt8> Int8Keeper::held() const {
  const std::lock_guard lock(mutex_);
  return held_;
}

const Int8Model* Int8Keeper::facts() const {
  const std::lock_guard lock(mutex_);
  return facts_;
}

}  // namespace airlock
