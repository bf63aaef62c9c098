#include "runtime/placement/placement.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/int8_rows.h"
#include "runtime/model/model_source.h"

namespace airlock {

namespace {

static_assert(kPlacedColumns % kInt8Block == 0, "a rank's columns of int8 rows are rows");

using Sizes = std::span<const std::uint64_t>;

/// Whether units in their order fit into so many shares of at most `most`.
bool fit(Sizes units, std::size_t shares, std::uint64_t most) {
  std::uint64_t left = 0;  // of the share that is being filled
  for (const std::uint64_t unit : units) {
    if (unit > most) return false;
    if (unit > left) {
      if (shares-- == 0) return false;
      left = most;
    }
    left -= unit;
  }
  return true;
}

/// The smallest size that the largest of so many shares can have.
std::uint64_t least_most(Sizes units, std::size_t shares) {
  std::uint64_t low = *std::ranges::max_element(units);
  std::uint64_t high = std::accumulate(units.begin(), units.end(), std::uint64_t{0});
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (fit(units, shares, middle)) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/// How many units each share has: none is larger than it must be, one has none only where there
/// are too few units. Within that each takes what comes nearest to an even part of what is left;
/// of two as near the fewer.
std::vector<std::size_t> cut(Sizes units, std::size_t shares) {
  const std::uint64_t most = least_most(units, shares);
  std::vector<std::size_t> counts;
  std::uint64_t left = std::accumulate(units.begin(), units.end(), std::uint64_t{0});
  for (; shares > 0; --shares) {
    std::uint64_t size = 0;
    std::size_t count = 0;
    for (; count < units.size(); ++count) {
      const std::uint64_t more = size + units[count];
      const bool must = count == 0 || !fit(units.subspan(count), shares - 1, most);
      const bool others_have_some = units.size() - count >= shares;
      const bool is_nearer = (size + more) * shares < 2 * left;
      if (!must && !(more <= most && others_have_some && is_nearer)) break;
      size = more;
    }
    counts.push_back(count);
    units = units.subspan(count);
    left -= size;
  }
  return counts;
}

std::uint64_t elements_of(const Shape& shape) {
  return static_cast<std::uint64_t>(shape[0] * shape[1]);
}

Shape table_shape(const ModelDims& dims) { return {dims.vocab, dims.hidden}; }

ModelShare empty_share(const ModelDims& dims) {
  ModelShare share;
  share.layers.resize(static_cast<std::size_t>(dims.layers));
  return share;
}

PerValue<WeightKind, RowRange> whole_layer(const ModelDims& dims) {
  PerValue<WeightKind, RowRange> layer;
  for (const WeightKind kind : kValuesOf<WeightKind>)
    layer[kind] = {0, weight_shape(dims, kind)[0]};
  return layer;
}

/// Units are the embedding, each layer and lm_head; where they are tied the two are one, the last.
void place_layers(const LlamaConfig& config, std::span<ModelShare> shares) {
  const ModelDims& dims = config.dims;
  std::uint64_t layer = 0;
  for (const WeightKind kind : kValuesOf<WeightKind>)
    layer += elements_of(weight_shape(dims, kind));
  std::vector<std::uint64_t> units(static_cast<std::size_t>(dims.layers), layer);
  units.push_back(elements_of(table_shape(dims)));
  if (!config.tie_word_embeddings) units.insert(units.begin(), units.back());
  std::size_t unit = 0;
  const std::size_t first_layer = config.tie_word_embeddings ? 0 : 1;
  const std::vector<std::size_t> counts = cut(units, shares.size());
  for (std::size_t rank = 0; rank < shares.size(); ++rank) {
    ModelShare& share = shares[rank];
    for (const std::size_t end = unit + counts[rank]; unit < end; ++unit) {
      const bool is_last = unit + 1 == units.size();
      if (unit < first_layer || (is_last && config.tie_word_embeddings)) share.embedding = true;
      if (is_last) share.lm_head = {0, dims.vocab};
      if (unit >= first_layer && !is_last) share.layers[unit - first_layer] = whole_layer(dims);
    }
  }
}

/// Cuts one weight after the other.
class ColumnCutter {
 public:
  explicit ColumnCutter(std::size_t ranks) : loads_(ranks), order_(ranks) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
  }

  /// The rows of each rank, of `all` that have so many columns. Those that had the least so far
  /// have a panel more than the others where there is no even part.
  std::vector<RowRange> cut(const RowRange& all, std::int64_t columns) {
    const std::size_t ranks = loads_.size();
    const auto panels =
        static_cast<std::size_t>((all.count() + kPlacedColumns - 1) / kPlacedColumns);
    std::ranges::sort(order_, [this](std::size_t a, std::size_t b) {
      return loads_[a] != loads_[b] ? loads_[a] > loads_[b] : a < b;
    });
    std::vector<RowRange> rows(ranks);
    std::int64_t row = all.begin;
    for (std::size_t i = 0; i < ranks; ++i) {
      const bool one_more = i + panels % ranks >= ranks;
      const std::size_t count = panels / ranks + (one_more ? 1 : 0);
      const std::int64_t end =
          std::min(row + static_cast<std::int64_t>(count) * kPlacedColumns, all.end);
      if (count > 0) rows[order_[i]] = {row, end};
      loads_[order_[i]] += static_cast<std::uint64_t>((end - row) * columns);
      row = end;
    }
    return rows;
  }

 private:
  std::vector<std::uint64_t> loads_;
  std::vector<std::size_t> order_;
};

void place_columns(const ModelDims& dims, const ModelShare& all, std::span<ModelShare> shares) {
  ColumnCutter cutter(shares.size());
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(dims.layers); ++layer) {
    for (const WeightKind kind : kValuesOf<WeightKind>) {
      const std::vector<RowRange> rows =
          cutter.cut(all.layers[layer][kind], weight_shape(dims, kind)[1]);
      for (std::size_t i = 0; i < shares.size(); ++i) shares[i].layers[layer][kind] = rows[i];
    }
  }
  const std::vector<RowRange> rows = cutter.cut(all.lm_head, dims.hidden);
  for (std::size_t i = 0; i < shares.size(); ++i) shares[i].lm_head = rows[i];
  shares.front().embedding = all.embedding;
}

/// The weight of result `index`, and what is held of it.
RowRange rows_of_result(const OpSpec& spec, const ModelShare& share, std::size_t index) {
  if (spec.weights.empty()) return share.lm_head;
  return share.rows(spec.weights[is_integer(spec.op) ? index / spec.planes : index]);
}

bool names_rows(Op op) { return op == Op::kBatchLinear || op == Op::kLmHead || is_integer(op); }

}  // namespace

ModelShare ModelShare::whole(const ModelDims& dims) {
  const PerValue<WeightKind, RowRange> layer = whole_layer(dims);
  return {std::vector(static_cast<std::size_t>(dims.layers), layer), {0, dims.vocab}, true};
}

bool ModelShare::holds_layer(std::size_t layer) const {
  return !std::ranges::all_of(layers[layer], &RowRange::empty);
}

bool ModelShare::empty() const {
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    if (holds_layer(layer)) return false;
  }
  return lm_head.empty() && !embedding;
}

Status ModelShare::check(const ModelDims& dims) const {
  const auto check_rows = [](const RowRange& rows, std::int64_t all) -> Status {
    const bool is_cut_right =
        rows.empty() ||
        (rows.begin >= 0 && rows.begin < rows.end && rows.end <= all &&
         rows.begin % kPlacedColumns == 0 && (rows.end == all || rows.end % kPlacedColumns == 0));
    if (is_cut_right) return {};
    return {StatusCode::kInvalidInput, "a share has rows {} to {} of {}", rows.begin, rows.end,
            all};
  };
  if (static_cast<std::int64_t>(layers.size()) != dims.layers) {
    return {StatusCode::kInvalidInput, "a share has {} layers, the model {}", layers.size(),
            dims.layers};
  }
  for (const auto& layer : layers) {
    for (const WeightKind kind : kValuesOf<WeightKind>)
      RETURN_IF_ERROR(check_rows(layer[kind], weight_shape(dims, kind)[0]));
  }
  return check_rows(lm_head, dims.vocab);
}

std::uint64_t ModelShare::linear_elements(const ModelDims& dims) const {
  std::uint64_t elements = elements_of({lm_head.count(), dims.hidden});
  for (const auto& layer : layers) {
    for (const WeightKind kind : kValuesOf<WeightKind>)
      elements += elements_of({layer[kind].count(), weight_shape(dims, kind)[1]});
  }
  return elements;
}

Result<std::vector<TensorDesc>> share_results(const OpSpec& spec, const ModelDims& dims,
                                              const ModelShare& share) {
  ASSIGN_OR_RETURN(std::vector<TensorDesc> results, op_results(spec, dims));
  if (spec.op == Op::kEmbedding && !share.embedding)
    return Status(StatusCode::kInvalidInput, "embedding: this share has no table");
  if (!names_rows(spec.op)) return results;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const RowRange rows = rows_of_result(spec, share, i);
    if (rows.empty()) {
      return Status(StatusCode::kInvalidInput,
                    "{}: this share has nothing of the weight of result {}", name_of(spec.op), i);
    }
    results[i].shape = {results[i].shape[0], wire_columns(results[i].dtype, rows.count())};
  }
  return results;
}

Status check_share_results(const OpSpec& spec, const ModelDims& dims, const ModelShare& share,
                           std::span<const MutableTensorView> results) {
  ASSIGN_OR_RETURN(const std::vector<TensorDesc> want, share_results(spec, dims, share));
  if (std::ranges::equal(results, want, {}, &MutableTensorView::desc)) return {};
  return {StatusCode::kInvalidInput, "{}: the results have not the columns of this share",
          name_of(spec.op)};
}

Result<Placement> Placement::make(PlacementKind kind, const LlamaConfig& config, std::size_t ranks,
                                  bool door_only) {
  RETURN_IF_ERROR(config.dims.check());
  const std::size_t first = door_only ? 1 : 0;
  if (ranks <= first || ranks > kMaxRanks) {
    return Status(StatusCode::kInvalidInput, "{} ranks{}, expected {} to {}", ranks,
                  door_only ? ", one of them a door without weights" : "", first + 1, kMaxRanks);
  }
  Placement placement(kind, config);
  placement.shares_.assign(ranks, empty_share(config.dims));
  const std::span<ModelShare> computing = std::span(placement.shares_).subspan(first);
  if (kind == PlacementKind::kLayers) {
    place_layers(config, computing);
  } else {
    place_columns(config.dims, placement.all_, computing);
  }
  return placement;
}

Result<Placement> Placement::make_within(const LlamaConfig& config, const ModelShare& share,
                                         std::size_t ranks) {
  RETURN_IF_ERROR(share.check(config.dims));
  ASSIGN_OR_RETURN(Placement placement, make(PlacementKind::kColumns, config, ranks, false));
  placement.all_ = share;
  placement.shares_.assign(ranks, empty_share(config.dims));
  place_columns(config.dims, share, placement.shares_);
  return placement;
}

std::uint64_t Placement::elements(std::size_t rank) const {
  const ModelShare& held = share(rank);
  const ModelDims& dims = config_.dims;
  const bool is_lm_head = config_.tie_word_embeddings && held.lm_head.count() == dims.vocab;
  return held.linear_elements(dims) +
         (held.embedding && !is_lm_head ? elements_of(table_shape(dims)) : 0);
}

std::vector<OpPart> Placement::split(const OpSpec& spec) const {
  std::vector<OpPart> parts;
  const std::size_t planes = is_integer(spec.op) ? spec.planes : 1;
  for (std::size_t rank = 0; rank < ranks(); ++rank) {
    const ModelShare& held = share(rank);
    OpPart part{rank, spec, {}};
    if (spec.op == Op::kEmbedding && held.embedding)
      part.results.push_back({0, 0, wire_columns(spec.result_dtype, config_.dims.hidden)});
    if (names_rows(spec.op)) {
      part.spec.weights.clear();
      for (std::size_t weight = 0; weight < std::max<std::size_t>(spec.weights.size(), 1);
           ++weight) {
        const RowRange rows = rows_of_result(spec, held, weight * planes);
        if (rows.empty()) continue;
        if (!spec.weights.empty()) part.spec.weights.push_back(spec.weights[weight]);
        const RowRange all = rows_of_result(spec, all_, weight * planes);
        // Of int8 rows too: a block begins there.
        const std::int64_t first = wire_columns(spec.result_dtype, rows.begin - all.begin);
        const std::int64_t count = wire_columns(spec.result_dtype, rows.count());
        for (std::size_t plane = 0; plane < planes; ++plane)
          part.results.push_back({weight * planes + plane, first, count});
      }
    }
    if (!part.results.empty()) parts.push_back(std::move(part));
  }
  return parts;
}

std::vector<std::string> Placement::hashed_by(std::size_t rank) const {
  const ModelShare& held = share(rank);
  std::vector<std::string> names;
  if (kind_ == PlacementKind::kLayers) {
    if (held.embedding) names.emplace_back(kEmbedName);
    for (std::size_t layer = 0; layer < held.layers.size(); ++layer) {
      if (!held.holds_layer(layer)) continue;
      for (const WeightKind kind : kValuesOf<WeightKind>)
        names.push_back(weight_name({kind, static_cast<std::uint16_t>(layer)}));
    }
    if (!held.lm_head.empty() && !config_.tie_word_embeddings) names.emplace_back(kLmHeadName);
  }
  std::vector<std::uint64_t> loads(ranks());
  const std::ptrdiff_t first = share(0).empty() ? 1 : 0;
  for (const ExpectedTensor& tensor : expected_tensors(config_)) {
    if (tensor.shape.rank() == 1) {
      if (rank == 0) names.push_back(tensor.name);
    } else if (kind_ == PlacementKind::kColumns) {
      const auto least = std::min_element(loads.begin() + first, loads.end());
      *least += elements_of(tensor.shape);
      if (static_cast<std::size_t>(least - loads.begin()) == rank) names.push_back(tensor.name);
    }
  }
  return names;
}

}  // namespace airlock
