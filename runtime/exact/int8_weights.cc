#include "runtime/exact/int8_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>

#include "runtime/exact/int8_rule.h"
#include "runtime/model/digest.h"

namespace airlock {

namespace {

static_assert(std::endian::native == std::endian::little, "digests hash fp32 as it lies in memory");

// A block is of a share, or is not: whoever holds a share stands on it.
static_assert(kPlacedColumns % kInt8BlockRows == 0);

// What the threads read before they add up columns, and what one reads at a time.
constexpr std::int64_t kBatchBytes = std::int64_t{8} << 20;
constexpr std::int64_t kReadRows = 16;
constexpr std::size_t kColumnsAtOnce = 128;

struct Weight {
  std::string name;
  std::int64_t rows = 0;
};

/// One linear, from its weights' names to its int8.
struct Part {
  Linear linear = Linear::kQkv;
  std::uint16_t layer = 0;
  std::vector<Weight> weights;
  Int8Linear made;
  std::vector<double> folds;               // 2^e_j [columns]
  std::vector<std::string> block_digests;  // in the order of weights, rows and planes

  std::size_t columns() const { return static_cast<std::size_t>(made.columns); }
};

/// Rows of a weight, dense fp32.
struct ReadRows {
  std::size_t first_row = 0;
  std::size_t row_count = 0;
  const float* values = nullptr;
};

/// A block of a part, all its planes.
struct Block {
  std::size_t part = 0;
  std::size_t weight = 0;
  std::int64_t first_row = 0;
  std::int64_t row_count = 0;
  std::size_t scale = 0;   // of its first row among the part's
  std::size_t digest = 0;  // of its first plane among the part's
};

/// A thread's own rows.
struct Room {
  std::vector<float> rows;
  std::vector<std::int8_t> planes;
};

template <typename T>
T* with_room(std::vector<T>& buffer, std::size_t count) {
  if (buffer.size() < count) buffer.resize(count);
  return buffer.data();
}

/// body(i, room) for each i below `count` on every thread of the pool, until one fails: that
/// failure.
template <typename Body>
Status for_each(ThreadPool& pool, std::size_t count, const Body& body) {
  // Relaxed: it hands out indices; the end of the loop publishes what was made of them.
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  Status failure;
  pool.parallel_for(std::min(count, pool.thread_count()), [&](std::size_t begin, std::size_t end) {
    if (begin == end) return;
    Room room;
    for (std::size_t i = 0; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      Status status = body(i, room);
      if (status.ok()) continue;
      const std::lock_guard lock(mutex);
      if (failure.ok()) failure = std::move(status);
      next.store(count, std::memory_order_relaxed);
    }
  });
  return failure;
}

Part make_part(Linear linear, std::uint16_t layer, std::vector<Weight> weights,
               std::int64_t columns) {
  Part part;
  part.linear = linear;
  part.layer = layer;
  part.weights = std::move(weights);
  part.made.columns = columns;
  for (const Weight& weight : part.weights) part.made.weight_rows.push_back(weight.rows);
  part.made.scales.resize(static_cast<std::size_t>(part.made.rows()));
  return part;
}

Part layer_part(const ModelDims& dims, Linear linear, std::uint16_t layer) {
  std::vector<Weight> weights;
  std::int64_t columns = 0;
  for (const WeightKind kind : kinds_of(linear)) {
    const Shape shape = weight_shape(dims, kind);
    weights.push_back({weight_name({.kind = kind, .layer = layer}), shape[0]});
    columns = shape[1];
  }
  return make_part(linear, layer, std::move(weights), columns);
}

Part head_part(const LlamaConfig& config) {
  const std::string name = config.tie_word_embeddings ? kEmbedName : kLmHeadName;
  return make_part(Linear::kLmHead, 0, {{name, config.dims.vocab}}, config.dims.hidden);
}

constexpr std::size_t kLinearsALayer = index_of(Linear::kLmHead);

/// Of a share the layers that it has some of, whole, and so lm_head; all without one.
ModelShare whole_linears(const ModelDims& dims, const ModelShare* share) {
  ModelShare whole = ModelShare::whole(dims);
  if (share == nullptr) return whole;
  for (std::size_t layer = 0; layer < whole.layers.size(); ++layer) {
    if (!share->holds_layer(layer)) whole.layers[layer] = {};
  }
  if (share->lm_head.empty()) whole.lm_head = {};
  return whole;
}

/// SHA-256 over, one behind the other,
///   the line "linear NAME layer LAYER columns COLUMNS planes PLANES rows ROWS..." and '\n',
///   the exponents, int8 [columns],
///   the scales, fp32 little endian [rows of all weights],
///   the 64 hex digits of the SHA-256 of every block of kInt8BlockRows rows, or what is left of its
///   weight, int8 [rows, columns]: weight by weight, block by block, plane 0 before plane 1.
std::string digest_of(const Part& part) {
  std::string head =
      fmt::format("linear {} layer {} columns {} planes {} rows", name_of(part.linear), part.layer,
                  part.made.columns, static_cast<int>(part.made.planes));
  for (const std::int64_t rows : part.made.weight_rows) head += fmt::format(" {}", rows);
  Sha256 hash;
  hash.add(head + "\n");
  hash.add(std::as_bytes(std::span(part.made.column_exponents)));
  hash.add(std::as_bytes(std::span(part.made.scales)));
  for (const std::string& digest : part.block_digests) hash.add(digest);
  return hash.finish();
}

/// Makes the linears of a model, layer by layer. All of its loops end before the next begins.
class Maker {
 public:
  using Progress = std::function<void(std::size_t, std::size_t)>;

  Maker(const ModelSource& model, Int8Weights choice, ThreadPool& pool, const Int8Sink& sink,
        const Progress& progress, const ModelShare* share)
      : model_(model),
        choice_(choice),
        pool_(pool),
        sink_(sink),
        progress_(progress),
        wanted_(whole_linears(model.config().dims, share)) {}

  Result<Int8Model> make() {
    const LlamaConfig& config = model_.config();
    total_bytes_ = most_int8_bytes(
        config.dims, choice_ == Int8Weights::kW16 ? choice_ : Int8Weights::kW8, &wanted_);
    ASSIGN_OR_RETURN(norms_, read_norms(model_));
    for (const float value : norms_.as<float>()) {
      if (!std::isfinite(value)) return not_finite("a norm's weight");
    }
    Int8Model made;
    made.layers.resize(static_cast<std::size_t>(config.dims.layers));
    for (std::size_t layer = 0; layer < made.layers.size(); ++layer) {
      if (!wanted_.holds_layer(layer)) continue;
      ASSIGN_OR_RETURN(std::vector<Part> parts, make_layer(static_cast<std::uint16_t>(layer)));
      for (Part& part : parts) {
        made.lines.push_back({layer * kLinearsALayer + index_of(part.linear), digest_of(part)});
        made.layers[layer][part.linear] = std::move(part.made);
      }
    }
    if (!wanted_.lm_head.empty()) RETURN_IF_ERROR(make_head(made));
    if (progress_) progress_(done_bytes_, total_bytes_);
    return made;
  }

 private:
  Status make_head(Int8Model& made) {
    std::vector<Part> head;
    head.push_back(head_part(model_.config()));
    RETURN_IF_ERROR(fold(head[0], norm(2 * made.layers.size()), nullptr));
    RETURN_IF_ERROR(round(head));
    made.lines.push_back({made.layers.size() * kLinearsALayer, digest_of(head[0])});
    made.lm_head = std::move(head[0].made);
    return {};
  }

  /// |gamma| of a row of read_norms().
  std::vector<double> norm(std::size_t index) const {
    const auto hidden = static_cast<std::size_t>(model_.config().dims.hidden);
    std::vector<double> sizes(hidden);
    const float* row = norms_.as<float>().data() + index * hidden;
    for (std::size_t j = 0; j < hidden; ++j) sizes[j] = std::abs(static_cast<double>(row[j]));
    return sizes;
  }

  Result<std::vector<Part>> make_layer(std::uint16_t layer) {
    const ModelDims& dims = model_.config().dims;
    std::vector<Part> parts;
    for (const Linear linear : {Linear::kQkv, Linear::kO, Linear::kGateUp, Linear::kDown})
      parts.push_back(layer_part(dims, linear, layer));
    std::vector<double> squares;  // of each row of q, k, v; then of gate, up
    RETURN_IF_ERROR(fold(parts[0], norm(std::size_t{2} * layer), &squares));
    RETURN_IF_ERROR(fold(parts[1], attention_sizes(squares), nullptr));
    RETURN_IF_ERROR(fold(parts[2], norm(std::size_t{2} * layer + 1), &squares));
    const std::size_t inner = squares.size() / 2;
    std::vector<double> products(inner);
    for (std::size_t j = 0; j < inner; ++j)
      products[j] = std::sqrt(squares[inner + j]) * std::sqrt(squares[j]);
    RETURN_IF_ERROR(fold(parts[3], products, nullptr));
    RETURN_IF_ERROR(round(parts));
    return parts;
  }

  /// For every column of o the norm of v's row that it comes from. `squares` [rows of q, k, v].
  std::vector<double> attention_sizes(const std::vector<double>& squares) const {
    const ModelDims& dims = model_.config().dims;
    const std::int64_t first = (dims.heads + dims.kv_heads) * dims.head_dim;
    std::vector<double> sizes;
    for (std::int64_t head = 0; head < dims.heads; ++head) {
      const std::int64_t row = first + head / (dims.heads / dims.kv_heads) * dims.head_dim;
      for (std::int64_t d = 0; d < dims.head_dim; ++d)
        sizes.push_back(std::sqrt(squares[static_cast<std::size_t>(row + d)]));
    }
    return sizes;
  }

  /// Finds the part's exponents and planes. `row_sizes`: null, or gets the sum of the squares of
  /// each of its rows times `column_sizes`, which are finite.
  Status fold(Part& part, const std::vector<double>& column_sizes, std::vector<double>* row_sizes) {
    std::vector<double> squares(part.columns());
    if (row_sizes != nullptr) row_sizes->resize(part.made.scales.size());
    std::size_t first = 0;
    for (const Weight& weight : part.weights) {
      const auto sizes = [&](const ReadRows& rows) {
        if (row_sizes == nullptr) return;
        int8_rule::row_squares(rows.values, rows.row_count, part.columns(), column_sizes.data(),
                               row_sizes->data() + first + rows.first_row);
      };
      const auto add = [&](const ReadRows& rows) { add_columns(rows, squares); };
      RETURN_IF_ERROR(read_all(weight, part.made.columns, sizes, add));
      if (!std::ranges::all_of(squares, [](double sum) { return std::isfinite(sum); }))
        return not_finite(weight.name);
      first += static_cast<std::size_t>(weight.rows);
    }
    part.made.column_exponents =
        int8_rule::column_exponents(column_sizes, squares, part.made.rows());
    for (const std::int8_t exponent : part.made.column_exponents)
      part.folds.push_back(std::ldexp(1.0, exponent));
    return choose_planes(part);
  }

  static Status not_finite(const std::string& name) {
    return {StatusCode::kInvalidInput, "{} has a value that is not finite", name};
  }

  Status choose_planes(Part& part) {
    part.made.planes = choice_ == Int8Weights::kW16 ? kMaxInt8Planes : 1;
    if (choice_ != Int8Weights::kAuto) return {};
    // Relaxed: any thread may set it, and the end of the loop publishes it.
    std::atomic<bool> coarse = false;
    const auto look = [&](const ReadRows& rows) {
      double squares[kReadRows];
      int8_rule::row_squares(rows.values, rows.row_count, part.columns(), part.folds.data(),
                             squares);
      for (std::size_t row = 0; row < rows.row_count; ++row) {
        const double most = int8_rule::largest(rows.values + row * part.columns(),
                                               part.folds.data(), part.columns());
        const double rms = std::sqrt(squares[row] / static_cast<double>(part.columns()));
        if (most > kAutoBound * rms) coarse.store(true, std::memory_order_relaxed);
      }
    };
    for (const Weight& weight : part.weights) {
      if (coarse) break;
      RETURN_IF_ERROR(read_all(weight, part.made.columns, look, [](const ReadRows&) {}));
    }
    if (!coarse) return {};
    part.made.planes = kMaxInt8Planes;
    total_bytes_ += part.made.scales.size() * part.columns();
    return {};
  }

  /// All rows of a weight: each(rows) of at most kReadRows rows on any thread, then all(rows) of
  /// the batch that they make up, on the calling thread and in the order of the rows.
  template <typename Each, typename All>
  Status read_all(const Weight& weight, std::int64_t columns, const Each& each, const All& all) {
    const auto width = static_cast<std::size_t>(columns);
    const std::int64_t fitting = kBatchBytes / static_cast<std::int64_t>(columns * sizeof(float));
    const std::int64_t batch_rows = std::max(kReadRows, fitting / kReadRows * kReadRows);
    for (std::int64_t first = 0; first < weight.rows; first += batch_rows) {
      const std::int64_t count = std::min(batch_rows, weight.rows - first);
      float* values = with_room(batch_, static_cast<std::size_t>(count) * width);
      const auto units = static_cast<std::size_t>((count + kReadRows - 1) / kReadRows);
      const auto read_unit = [&](std::size_t unit, Room&) -> Status {
        const std::int64_t row = static_cast<std::int64_t>(unit) * kReadRows;
        const std::int64_t rows = std::min(kReadRows, count - row);
        float* place = values + static_cast<std::size_t>(row) * width;
        RETURN_IF_ERROR(read(weight, first + row, rows, columns, place));
        each(
            ReadRows{static_cast<std::size_t>(first + row), static_cast<std::size_t>(rows), place});
        return {};
      };
      RETURN_IF_ERROR(for_each(pool_, units, read_unit));
      all(ReadRows{static_cast<std::size_t>(first), static_cast<std::size_t>(count), values});
    }
    return {};
  }

  Status read(const Weight& weight, std::int64_t first_row, std::int64_t rows, std::int64_t columns,
              float* out) const {
    return model_.read_rows(
        weight.name, first_row,
        {reinterpret_cast<std::byte*>(out), {.dtype = DType::kF32, .shape = {rows, columns}}});
  }

  /// Threads share the columns and never the rows: each column's sum is in the order of the rows.
  void add_columns(const ReadRows& rows, std::vector<double>& squares) {
    const std::size_t columns = squares.size();
    const std::size_t strips = (columns + kColumnsAtOnce - 1) / kColumnsAtOnce;
    pool_.parallel_for(strips, [&](std::size_t begin, std::size_t end) {
      for (std::size_t strip = begin; strip < end; ++strip) {
        const std::size_t first = strip * kColumnsAtOnce;
        int8_rule::add_column_squares(rows.values + first, rows.row_count, columns,
                                      std::min(kColumnsAtOnce, columns - first),
                                      squares.data() + first);
      }
    });
  }

  /// Makes the rows of parts that are folded, gives them to the sink and hashes them. Of all parts
  /// in one loop: a small linear alone would leave threads idle.
  Status round(std::vector<Part>& parts) {
    std::vector<Block> blocks;
    for (std::size_t p = 0; p < parts.size(); ++p) {
      std::size_t scale = 0;
      std::size_t digest = 0;
      for (std::size_t w = 0; w < parts[p].weights.size(); ++w) {
        const std::int64_t rows = parts[p].weights[w].rows;
        for (std::int64_t first = 0; first < rows; first += kInt8BlockRows) {
          const std::int64_t count = std::min(kInt8BlockRows, rows - first);
          blocks.push_back({p, w, first, count, scale, digest});
          scale += static_cast<std::size_t>(count);
          digest += parts[p].made.planes;
        }
      }
      parts[p].block_digests.resize(digest);
    }
    RETURN_IF_ERROR(for_each(pool_, blocks.size(), [&](std::size_t i, Room& room) {
      return round_block(parts[blocks[i].part], blocks[i], room);
    }));
    for (const Part& part : parts) {
      for (const Weight& weight : part.weights) model_.release(weight.name);
    }
    return {};
  }

  Status round_block(Part& part, const Block& block, Room& room) {
    const std::size_t columns = part.columns();
    const auto count = static_cast<std::size_t>(block.row_count);
    std::int8_t* planes = with_room(room.planes, count * columns * part.made.planes);
    float* values = with_room(room.rows, static_cast<std::size_t>(kReadRows) * columns);
    for (std::int64_t first = 0; first < block.row_count; first += kReadRows) {
      const std::int64_t rows = std::min(kReadRows, block.row_count - first);
      const Weight& weight = part.weights[block.weight];
      RETURN_IF_ERROR(read(weight, block.first_row + first, rows, part.made.columns, values));
      for (std::int64_t row = 0; row < rows; ++row) {
        const auto at = static_cast<std::size_t>(first + row);
        const float* from = values + static_cast<std::size_t>(row) * columns;
        float& scale = part.made.scales[block.scale + at];
        scale =
            static_cast<float>(int8_rule::largest(from, part.folds.data(), columns) / kInt8Most);
        if (!std::isfinite(scale)) {
          return {StatusCode::kInvalidInput, "row {} of {} is too large for an fp32 scale",
                  block.first_row + first + row, weight.name};
        }
        round_planes(part, from, scale, planes + at * columns, count * columns);
      }
    }
    return hand_over(part, block, {planes, count * columns * part.made.planes});
  }

  /// One row's, whose planes lie `pitch` apart.
  static void round_planes(const Part& part, const float* row, float scale, std::int8_t* plane,
                           std::size_t pitch) {
    const std::size_t columns = part.columns();
    const bool two = part.made.planes > 1;
    if (scale == 0) {
      std::fill_n(plane, columns, std::int8_t{0});
      if (two) std::fill_n(plane + pitch, columns, std::int8_t{0});
      return;
    }
    int8_rule::round_row(row, part.folds.data(), columns, scale, plane);
    if (two) int8_rule::round_rest(row, part.folds.data(), columns, scale, plane, plane + pitch);
  }

  /// `values`: the planes of a block, one behind the other.
  Status hand_over(Part& part, const Block& block, std::span<const std::int8_t> values) {
    const std::size_t columns = part.columns();
    const std::size_t plane_size = values.size() / part.made.planes;
    int8_rule::RowNorms most;
    for (std::size_t start = 0; start < values.size(); start += columns) {
      const int8_rule::RowNorms norms = int8_rule::norms_of(values.data() + start, columns);
      most.l1 = std::max(most.l1, norms.l1);
      most.l2_squared = std::max(most.l2_squared, norms.l2_squared);
      most.most = std::max(most.most, norms.most);
    }
    for (std::uint8_t plane = 0; plane < part.made.planes; ++plane) {
      const auto rows = values.subspan(plane * plane_size, plane_size);
      part.block_digests[block.digest + plane] = sha256_of(std::as_bytes(rows));
      if (!sink_) continue;
      RETURN_IF_ERROR(sink_({.linear = part.linear,
                             .layer = part.layer,
                             .weight = block.weight,
                             .plane = plane,
                             .planes = part.made.planes,
                             .first_row = block.first_row,
                             .row_count = block.row_count,
                             .columns = part.made.columns,
                             .values = rows}));
    }
    count_block(part, most, values.size());
    return {};
  }

  void count_block(Part& part, const int8_rule::RowNorms& most, std::size_t bytes) {
    std::size_t done = 0;
    {
      const std::lock_guard lock(mutex_);
      part.made.most_l1 = std::max(part.made.most_l1, most.l1);
      part.made.most_l2_squared = std::max(part.made.most_l2_squared, most.l2_squared);
      part.made.most_abs = std::max(part.made.most_abs, most.most);
      done = done_bytes_ += bytes;
    }
    if (progress_ && std::this_thread::get_id() == caller_) progress_(done, total_bytes_);
  }

  const ModelSource& model_;
  const Int8Weights choice_;
  ThreadPool& pool_;
  const Int8Sink& sink_;
  const Progress& progress_;
  const ModelShare wanted_;
  const std::thread::id caller_ = std::this_thread::get_id();
  Tensor norms_;
  std::vector<float> batch_;
  std::size_t total_bytes_ = 0;
  std::mutex mutex_;  // of what follows, and of the norms of parts
  std::size_t done_bytes_ = 0;
};

}  // namespace

std::int64_t Int8Linear::rows() const {
  std::int64_t rows = 0;
  for (const std::int64_t count : weight_rows) rows += count;
  return rows;
}

Result<Int8Model> make_int8_weights(
    const ModelSource& model, Int8Weights choice, ThreadPool& pool, const Int8Sink& sink,
    const std::function<void(std::size_t done_bytes, std::size_t total_bytes)>& progress,
    const ModelShare* share) {
  CHECK(choice != Int8Weights::kNone);
  ASSIGN_OR_RETURN(Int8Model made, Maker(model, choice, pool, sink, progress, share).make());
  if (share != nullptr) return made;
  ASSIGN_OR_RETURN(made.digest, join_int8_lines(choice, model.config().dims, made.lines));
  return made;
}

Result<std::string> join_int8_lines(Int8Weights choice, const ModelDims& dims,
                                    std::span<const Int8Line> lines) {
  std::vector<std::string> of_linear(static_cast<std::size_t>(dims.layers) * kLinearsALayer + 1);
  for (const Int8Line& line : lines) {
    if (line.number >= of_linear.size() || line.digest.empty()) {
      return Status(StatusCode::kInvalidInput, "a line of int8 weights is of linear {} of {}",
                    line.number, of_linear.size());
    }
    std::string& known = of_linear[line.number];
    if (!known.empty() && known != line.digest) {
      return Status(StatusCode::kMismatch,
                    "the int8 weights of linear {} were made twice and differ", line.number);
    }
    known = line.digest;
  }
  // Of this line, then a line of each linear's digest in hex.
  std::string text = fmt::format("airlock int8 weights 1 {}\n", name_of(choice));
  for (std::size_t i = 0; i < of_linear.size(); ++i) {
    if (of_linear[i].empty()) {
      return Status(StatusCode::kInvalidInput, "nobody made the int8 weights of linear {} of {}", i,
                    of_linear.size());
    }
    text += of_linear[i] + "\n";
  }
  return sha256_of(std::as_bytes(std::span(text)));
}

std::size_t most_int8_bytes(const ModelDims& dims, Int8Weights choice, const ModelShare* share) {
  if (choice == Int8Weights::kNone) return 0;
  const ModelShare all = share == nullptr ? ModelShare::whole(dims) : *share;
  const std::uint64_t planes = choice == Int8Weights::kW8 ? 1 : kMaxInt8Planes;
  return static_cast<std::size_t>(all.linear_elements(dims) * planes);
}

}  // namespace airlock
