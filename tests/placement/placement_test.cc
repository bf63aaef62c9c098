#include "runtime/placement/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/int8_rows.h"
#include "runtime/model/model_source.h"

namespace airlock {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using enum WeightKind;

constexpr PlacementKind kKinds[] = {PlacementKind::kLayers, PlacementKind::kColumns};

LlamaConfig config_of(const ModelDims& dims, bool tied = false) {
  LlamaConfig config;
  config.dims = dims;
  config.tie_word_embeddings = tied;
  return config;
}

/// Widths of less than a panel, of whole panels, and with a rest.
LlamaConfig some_config(std::int64_t layers, bool tied = false) {
  return config_of({.hidden = 768,
                    .intermediate = 2100,
                    .layers = layers,
                    .heads = 12,
                    .kv_heads = 2,
                    .head_dim = 64,
                    .vocab = 1100},
                   tied);
}

Placement place(PlacementKind kind, const LlamaConfig& config, std::size_t ranks,
                bool door_only = false) {
  return Placement::make(kind, config, ranks, door_only).value();
}

std::size_t layer_count(const ModelShare& share) {
  std::size_t count = 0;
  for (std::size_t layer = 0; layer < share.layers.size(); ++layer)
    count += share.holds_layer(layer) ? 1 : 0;
  return count;
}

std::vector<std::size_t> layer_counts(const Placement& placement) {
  std::vector<std::size_t> counts;
  for (std::size_t rank = 0; rank < placement.ranks(); ++rank)
    counts.push_back(layer_count(placement.share(rank)));
  return counts;
}

/// Every op that names weights, as its model has them.
std::vector<OpSpec> all_specs(const LlamaConfig& config) {
  const ModelDims& dims = config.dims;
  const auto last = static_cast<std::uint16_t>(dims.layers - 1);
  const TensorDesc x{DType::kBF16, Shape{3, dims.hidden}};
  std::vector<OpSpec> specs = {
      embedding_spec(5, DType::kBF16),
      lm_head_spec(x),
      linear_spec({{kQ, 0}, {kK, 0}, {kV, 0}}, x, DType::kBF16),
      linear_spec({{kUp, last}, {kQ, 0}, {kUp, last}, {kV, last}}, x, DType::kF32),
      int_linear_spec({{kV, last}}, 1, 2, dims),
      pad_linear_spec({{kUp, 0}, {kGate, 0}}, 2, 4)};
  for (const std::uint8_t planes : {1, 2}) {
    specs.push_back(int_linear_spec({}, planes, 2, dims));
    specs.push_back(pad_linear_spec({}, planes, 2));
    for (const Linear linear : {Linear::kQkv, Linear::kO, Linear::kGateUp, Linear::kDown})
      specs.push_back(int_linear_spec(weights_of(linear, last), planes, 7, dims));
  }
  return specs;
}

void expect_each_column_once(const std::vector<RowRange>& ranges, std::int64_t all) {
  std::vector<int> holders(static_cast<std::size_t>(all));
  for (const RowRange& range : ranges) {
    RC_ASSERT(range.begin <= range.end);
    if (!range.empty()) RC_ASSERT(range.begin % kPlacedColumns == 0);
    for (std::int64_t row = range.begin; row < range.end; ++row)
      ++holders.at(static_cast<std::size_t>(row));
  }
  RC_ASSERT(std::ranges::all_of(holders, [](int count) { return count == 1; }));
}

void expect_every_weight_is_held(const Placement& placement, const LlamaConfig& config) {
  const ModelDims& dims = config.dims;
  std::size_t tables = 0;
  std::vector<RowRange> lm_head;
  for (std::size_t rank = 0; rank < placement.ranks(); ++rank) {
    RC_ASSERT(placement.share(rank).check(dims).ok());
    lm_head.push_back(placement.share(rank).lm_head);
    tables += placement.share(rank).embedding ? 1 : 0;
  }
  RC_ASSERT(tables == 1U);
  expect_each_column_once(lm_head, dims.vocab);
  for (std::uint16_t layer = 0; layer < dims.layers; ++layer) {
    for (const WeightKind kind : kValuesOf<WeightKind>) {
      std::vector<RowRange> ranges;
      for (std::size_t rank = 0; rank < placement.ranks(); ++rank)
        ranges.push_back(placement.share(rank).rows({kind, layer}));
      expect_each_column_once(ranges, weight_shape(dims, kind)[0]);
    }
  }
}

/// Of each column of each result there is one part, and a rank that has one can compute it.
void expect_parts_make_the_whole(const Placement& placement, const OpSpec& spec,
                                 const ModelDims& dims) {
  const std::vector<TensorDesc> results = op_results(spec, dims).value();
  std::vector<std::vector<int>> written;
  for (const TensorDesc& result : results)
    written.emplace_back(static_cast<std::size_t>(result.shape[1]));
  std::ptrdiff_t last_rank = -1;
  for (const OpPart& part : placement.split(spec)) {
    RC_ASSERT(static_cast<std::ptrdiff_t>(part.rank) > last_rank);
    last_rank = static_cast<std::ptrdiff_t>(part.rank);
    const auto mine = share_results(part.spec, dims, placement.share(part.rank));
    RC_ASSERT(mine.ok());
    RC_ASSERT(part.spec.inputs == spec.inputs);
    RC_ASSERT(mine->size() == part.results.size());
    for (std::size_t i = 0; i < mine->size(); ++i) {
      const OpPart::Columns& columns = part.results[i];
      RC_ASSERT((*mine)[i].dtype == results[columns.result].dtype);
      RC_ASSERT((*mine)[i].shape == Shape({results[columns.result].shape[0], columns.count}));
      for (std::int64_t column = columns.first; column < columns.first + columns.count; ++column)
        ++written[columns.result].at(static_cast<std::size_t>(column));
    }
  }
  for (const auto& result : written)
    RC_ASSERT(std::ranges::all_of(result, [](int count) { return count == 1; }));
}

void expect_each_tensor_is_hashed_once(const Placement& placement, const LlamaConfig& config) {
  std::vector<std::string> hashed;
  for (std::size_t rank = 0; rank < placement.ranks(); ++rank) {
    for (std::string& name : placement.hashed_by(rank)) hashed.push_back(std::move(name));
  }
  std::vector<std::string> expected;
  for (ExpectedTensor& tensor : expected_tensors(config))
    expected.push_back(std::move(tensor.name));
  std::ranges::sort(hashed);
  std::ranges::sort(expected);
  RC_ASSERT(hashed == expected);
}

RC_GTEST_PROP(Placement, holds_computes_and_hashes_everything_once, ()) {
  const auto any = [](std::int64_t most) { return *rc::gen::inRange<std::int64_t>(1, most + 1); };
  const std::int64_t kv_heads = any(4);
  const LlamaConfig config = config_of({.hidden = any(1200),
                                        .intermediate = any(2000),
                                        .layers = any(6),
                                        .heads = kv_heads * any(3),
                                        .kv_heads = kv_heads,
                                        .head_dim = any(150),
                                        .vocab = any(3000)},
                                       *rc::gen::arbitrary<bool>());
  const bool door_only = *rc::gen::arbitrary<bool>();
  const auto ranks = static_cast<std::size_t>(any(10)) + (door_only ? 1 : 0);
  for (const PlacementKind kind : kKinds) {
    const Placement placement = place(kind, config, ranks, door_only);
    RC_ASSERT(placement.ranks() == ranks);
    if (door_only) RC_ASSERT(placement.share(0).empty());
    expect_every_weight_is_held(placement, config);
    expect_each_tensor_is_hashed_once(placement, config);
    for (const OpSpec& spec : all_specs(config))
      expect_parts_make_the_whole(placement, spec, config.dims);
  }
}

/// The smallest that the largest of `shares` consecutive parts can be, by trying them all.
std::uint64_t best_largest(const std::vector<std::uint64_t>& units, std::size_t first,
                           std::size_t shares,
                           std::map<std::pair<std::size_t, std::size_t>, std::uint64_t>& known) {
  if (first == units.size()) return 0;
  if (shares == 0) return ~std::uint64_t{0};
  const auto [entry, is_new] = known.try_emplace({first, shares}, ~std::uint64_t{0});
  if (!is_new) return entry->second;
  std::uint64_t best = ~std::uint64_t{0};
  std::uint64_t mine = 0;
  for (std::size_t end = first; end <= units.size(); ++end) {
    best = std::min(best, std::max(mine, best_largest(units, end, shares - 1, known)));
    if (end < units.size()) mine += units[end];
  }
  return known[{first, shares}] = best;
}

RC_GTEST_PROP(Placement, by_layers_has_the_smallest_largest_share_and_no_rank_idle_for_nothing,
              ()) {
  const auto layers = *rc::gen::inRange<std::int64_t>(1, 20);
  const bool tied = *rc::gen::arbitrary<bool>();
  LlamaConfig config = some_config(layers, tied);
  config.dims.vocab = *rc::gen::inRange<std::int64_t>(1, 60000);
  const auto ranks = *rc::gen::inRange<std::size_t>(1, 12);
  const Placement placement = place(PlacementKind::kLayers, config, ranks);
  std::uint64_t layer = 0;
  for (const WeightKind kind : kValuesOf<WeightKind>) {
    const Shape shape = weight_shape(config.dims, kind);
    layer += static_cast<std::uint64_t>(shape[0] * shape[1]);
  }
  const auto table = static_cast<std::uint64_t>(config.dims.vocab * config.dims.hidden);
  std::vector<std::uint64_t> units(static_cast<std::size_t>(layers), layer);
  units.push_back(table);
  if (!tied) units.insert(units.begin(), table);
  std::uint64_t largest = 0;
  std::uint64_t all = 0;
  std::size_t idle = 0;
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    largest = std::max(largest, placement.elements(rank));
    all += placement.elements(rank);
    idle += placement.share(rank).empty() ? 1 : 0;
  }
  std::map<std::pair<std::size_t, std::size_t>, std::uint64_t> known;
  RC_ASSERT(largest == best_largest(units, 0, ranks, known));
  RC_ASSERT(all == layer * static_cast<std::uint64_t>(layers) + table * (tied ? 1 : 2));
  RC_ASSERT(idle == (ranks > units.size() ? ranks - units.size() : 0));
}

TEST(Placement, by_layers_is_even) {
  LlamaConfig config = some_config(10);
  config.dims.vocab = 1;
  EXPECT_THAT(layer_counts(place(PlacementKind::kLayers, config, 4)), ElementsAre(2, 3, 3, 2));
  EXPECT_THAT(layer_counts(place(PlacementKind::kLayers, config, 5, true)),
              ElementsAre(0, 2, 3, 3, 2));
  EXPECT_THAT(layer_counts(place(PlacementKind::kLayers, config, 1)), ElementsAre(10));
}

/// Of a LLaMA with eight key-value heads of 128 channels.
LlamaConfig llama_config(std::int64_t hidden, std::int64_t intermediate, std::int64_t layers) {
  return config_of({.hidden = hidden,
                    .intermediate = intermediate,
                    .layers = layers,
                    .heads = hidden / 128,
                    .kv_heads = 8,
                    .head_dim = 128,
                    .vocab = 128256});
}

// The same figures stand in tests/tools/plan/plan_test.py: tools/llama_bytes.py places alike.
TEST(Placement, shares_of_known_models_are_those_of_tools_plan) {
  const LlamaConfig of_8b = llama_config(4096, 14336, 32);
  const auto by_layers = [](const LlamaConfig& config, std::size_t ranks) {
    return layer_counts(place(PlacementKind::kLayers, config, ranks));
  };
  EXPECT_THAT(by_layers(of_8b, 4), ElementsAre(7, 9, 9, 7));
  EXPECT_THAT(by_layers(of_8b, 8), ElementsAre(2, 5, 5, 4, 5, 4, 5, 2));
  EXPECT_THAT(by_layers(llama_config(8192, 28672, 80), 3), ElementsAre(26, 28, 26));
  EXPECT_THAT(by_layers(llama_config(16384, 53248, 126), 8),
              ElementsAre(15, 16, 16, 16, 16, 16, 16, 15));
  const Placement columns = place(PlacementKind::kColumns, of_8b, 3);
  std::vector<std::uint64_t> bf16_bytes;
  for (std::size_t rank = 0; rank < columns.ranks(); ++rank)
    bf16_bytes.push_back(2 * columns.elements(rank));
  EXPECT_THAT(bf16_bytes, ElementsAre(6051332096, 5006950400, 5001707520));
}

TEST(Placement, by_layers_keeps_the_tables_of_a_tied_model_together_at_the_end) {
  const Placement tied = place(PlacementKind::kLayers, some_config(4, true), 2);
  EXPECT_FALSE(tied.share(0).embedding);
  EXPECT_TRUE(tied.share(1).embedding);
  EXPECT_EQ(tied.share(1).lm_head, (RowRange{0, 1100}));
  const Placement untied = place(PlacementKind::kLayers, some_config(4), 2);
  EXPECT_TRUE(untied.share(0).embedding);
  EXPECT_TRUE(untied.share(0).lm_head.empty());
  EXPECT_EQ(untied.share(1).lm_head, (RowRange{0, 1100}));
}

TEST(Placement, more_ranks_than_units_have_empty_shares) {
  const Placement placement = place(PlacementKind::kLayers, some_config(2), 7);
  for (std::size_t rank = 0; rank < 7; ++rank)
    EXPECT_EQ(placement.share(rank).empty(), rank >= 4) << rank;
}

TEST(Placement, by_columns_cuts_at_panels_and_spreads_what_is_narrower) {
  const Placement placement = place(PlacementKind::kColumns, some_config(3), 2);
  for (std::uint16_t layer = 0; layer < 3; ++layer) {
    // Of nine panels, the last of 52 columns, one rank has five.
    const std::int64_t most = std::max(placement.share(0).rows({kUp, layer}).count(),
                                       placement.share(1).rows({kUp, layer}).count());
    EXPECT_EQ(most, 4 * kPlacedColumns + 52) << layer;
  }
  // k and v, 128 columns each, lie whole with one rank, and not all with one.
  std::array<int, 2> narrow{};
  std::array<std::uint64_t, 2> elements{};
  for (std::size_t rank = 0; rank < 2; ++rank) {
    for (std::uint16_t layer = 0; layer < 3; ++layer) {
      for (const WeightKind kind : {kK, kV}) {
        const RowRange rows = placement.share(rank).rows({kind, layer});
        EXPECT_TRUE(rows.empty() || rows == (RowRange{0, 128}));
        narrow.at(rank) += rows.empty() ? 0 : 1;
      }
    }
    elements.at(rank) = placement.share(rank).linear_elements(some_config(3).dims);
  }
  EXPECT_GT(narrow[0], 0);
  EXPECT_GT(narrow[1], 0);
  // Within a panel of the widest input.
  const auto panel = static_cast<std::uint64_t>(kPlacedColumns * 2100);
  EXPECT_LE(std::max(elements[0], elements[1]), std::min(elements[0], elements[1]) + panel);
}

TEST(Placement, names_weights_of_different_layers_to_their_ranks) {
  const LlamaConfig config = some_config(4);
  const Placement placement = place(PlacementKind::kLayers, config, 2);
  const OpSpec spec = linear_spec({{kUp, 3}, {kQ, 0}, {kV, 3}},
                                  {DType::kF32, Shape{2, config.dims.hidden}}, DType::kBF16);
  const std::vector<OpPart> parts = placement.split(spec);
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_THAT(parts[0].spec.weights, ElementsAre(WeightId{kQ, 0}));
  EXPECT_THAT(parts[0].results, ElementsAre(OpPart::Columns{1, 0, 768}));
  EXPECT_THAT(parts[1].spec.weights, ElementsAre(WeightId{kUp, 3}, WeightId{kV, 3}));
  EXPECT_THAT(parts[1].results,
              ElementsAre(OpPart::Columns{0, 0, 2100}, OpPart::Columns{2, 0, 128}));
  EXPECT_THAT(
      placement.split(matmul_spec({DType::kF32, Shape{1, 2, 3}}, {DType::kF32, Shape{1, 3, 2}},
                                  Transpose::kNone, DType::kF32)),
      IsEmpty());
}

TEST(Placement, a_door_hashes_norms_alone) {
  for (const PlacementKind kind : kKinds) {
    const Placement placement = place(kind, some_config(2), 3, true);
    EXPECT_EQ(placement.hashed_by(0).size(), 5U);
    EXPECT_FALSE(placement.hashed_by(1).empty());
    EXPECT_FALSE(placement.hashed_by(2).empty());
  }
}

TEST(Placement, refuses_what_no_rank_would_compute) {
  for (const PlacementKind kind : kKinds) {
    const auto code_of = [&](std::size_t ranks, bool door_only, const LlamaConfig& config) {
      return Placement::make(kind, config, ranks, door_only).status().code();
    };
    EXPECT_EQ(code_of(0, false, some_config(2)), StatusCode::kInvalidInput);
    EXPECT_EQ(code_of(1, true, some_config(2)), StatusCode::kInvalidInput);
    EXPECT_EQ(code_of(kMaxRanks + 1, false, some_config(2)), StatusCode::kInvalidInput);
    EXPECT_EQ(code_of(2, false, LlamaConfig{}), StatusCode::kInvalidInput);
    EXPECT_EQ(code_of(kMaxRanks, true, some_config(2)), StatusCode::kOk);
  }
}

TEST(Placement, cuts_a_share_once_more) {
  const LlamaConfig config = some_config(3);
  for (const PlacementKind kind : kKinds) {
    const Placement outer = place(kind, config, 2);
    for (std::size_t rank = 0; rank < 2; ++rank) {
      const ModelShare& share = outer.share(rank);
      const Placement inner = Placement::make_within(config, share, 3).value();
      EXPECT_EQ(inner.kind(), PlacementKind::kColumns);
      std::uint64_t held = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(inner.share(i).check(config.dims).ok());
        EXPECT_EQ(inner.share(i).embedding, i == 0 && share.embedding);
        held += inner.share(i).linear_elements(config.dims);
      }
      EXPECT_EQ(held, share.linear_elements(config.dims));
      for (const OpSpec& spec : all_specs(config)) {
        const auto results = share_results(spec, config.dims, share);
        if (!results.ok()) continue;
        // Each column of each of the share's results once.
        std::vector<std::vector<int>> times;
        for (const TensorDesc& result : *results)
          times.emplace_back(static_cast<std::size_t>(result.shape[1]));
        for (const OpPart& part : inner.split(spec)) {
          for (const OpPart::Columns& columns : part.results) {
            ASSERT_LE(columns.first + columns.count, (*results)[columns.result].shape[1]);
            for (std::int64_t i = 0; i < columns.count; ++i)
              ++times[columns.result][static_cast<std::size_t>(columns.first + i)];
          }
        }
        for (const std::vector<int>& each : times)
          EXPECT_TRUE(std::ranges::all_of(each, [](int count) { return count == 1; }));
      }
    }
  }
  ModelShare odd = ModelShare::whole(config.dims);
  odd.lm_head = {1, 2};
  EXPECT_EQ(Placement::make_within(config, odd, 2).status().code(), StatusCode::kInvalidInput);
}

TEST(ModelShare, of_a_whole_model_gives_the_ops_own_results) {
  const LlamaConfig config = some_config(2);
  const ModelShare whole = ModelShare::whole(config.dims);
  EXPECT_TRUE(whole.check(config.dims).ok());
  for (const OpSpec& spec : all_specs(config)) {
    EXPECT_EQ(share_results(spec, config.dims, whole).value(),
              op_results(spec, config.dims).value());
  }
}

TEST(ModelShare, refuses_ops_on_what_is_not_held) {
  const LlamaConfig config = some_config(2);
  ModelShare none;
  none.layers.resize(2);
  EXPECT_TRUE(none.empty());
  for (const OpSpec& spec : all_specs(config)) {
    EXPECT_EQ(share_results(spec, config.dims, none).status().code(), StatusCode::kInvalidInput)
        << name_of(spec.op);
  }
  // Half of what an op names is too little, too.
  none.layers[0][kQ] = {0, 256};
  const TensorDesc x{DType::kF32, Shape{1, config.dims.hidden}};
  EXPECT_FALSE(
      share_results(linear_spec({{kQ, 0}, {kK, 0}}, x, DType::kF32), config.dims, none).ok());
  EXPECT_EQ(
      share_results(linear_spec({{kQ, 0}}, x, DType::kF32), config.dims, none).value()[0].shape,
      Shape({1, 256}));
}

TEST(ModelShare, gives_int8_rows_of_the_columns_it_has) {
  const LlamaConfig config = some_config(2);
  const TensorDesc x{DType::kF32, Shape{3, config.dims.hidden}};
  const OpSpec spec = linear_spec({{kQ, 0}}, x, DType::kI8);
  ModelShare share = ModelShare::whole(config.dims);
  EXPECT_EQ(share_results(spec, config.dims, share).value(), op_results(spec, config.dims).value());
  share.layers[0][kQ] = {0, 256};
  EXPECT_EQ(share_results(spec, config.dims, share).value(),
            std::vector<TensorDesc>({{DType::kI8, Shape{3, 256 + 8 * kScaleBytes}}}));
}

TEST(Placement, puts_the_parts_of_int8_rows_where_their_blocks_lie) {
  const LlamaConfig config = some_config(2);
  const TensorDesc x{DType::kF32, Shape{3, config.dims.hidden}};
  const OpSpec spec = linear_spec({{kGate, 0}, {kUp, 0}}, x, DType::kI8);
  const auto results = op_results(spec, config.dims).value();
  const auto placement = Placement::make(PlacementKind::kColumns, config, 3, false).value();
  const std::vector<OpPart> parts = placement.split(spec);
  EXPECT_GT(parts.size(), 1U);
  std::vector<std::map<std::int64_t, std::int64_t>> parts_of(results.size());  // begin, end
  for (const OpPart& part : parts) {
    const auto descs = share_results(part.spec, config.dims, placement.share(part.rank)).value();
    ASSERT_EQ(descs.size(), part.results.size());
    for (std::size_t i = 0; i < descs.size(); ++i) {
      const OpPart::Columns& columns = part.results[i];
      EXPECT_EQ(descs[i].shape[1], columns.count);
      EXPECT_EQ(columns.first % (kInt8Block + kScaleBytes), 0);
      parts_of[columns.result][columns.first] = columns.first + columns.count;
    }
  }
  for (std::size_t i = 0; i < results.size(); ++i) {
    std::int64_t end = 0;
    for (const auto& [first, behind] : parts_of[i]) {
      EXPECT_EQ(first, end);
      end = behind;
    }
    EXPECT_EQ(end, results[i].shape[1]);
  }
}

TEST(ModelShare, knows_a_cut_that_is_no_panels) {
  const ModelDims dims = some_config(2).dims;
  const auto cut = [&](RowRange rows) {
    ModelShare share = ModelShare::whole(dims);
    share.lm_head = rows;
    return share.check(dims).code();
  };
  EXPECT_EQ(cut({256, 1100}), StatusCode::kOk);
  EXPECT_EQ(cut({256, 512}), StatusCode::kOk);
  for (const RowRange rows : {RowRange{0, 1101}, RowRange{-256, 256}, RowRange{1, 256},
                              RowRange{256, 1000}, RowRange{512, 256}})
    EXPECT_EQ(cut(rows), StatusCode::kInvalidInput) << rows.begin << " to " << rows.end;
  EXPECT_EQ(ModelShare::whole(some_config(3).dims).check(dims).code(), StatusCode::kInvalidInput);
}

}  // namespace
}  // namespace airlock
