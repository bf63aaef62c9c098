#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/enum.h"
#include "base/status.h"
#include "base/tensor.h"
#include "proto/op.h"
#include "runtime/model/config.h"

namespace airlock {

/// Rows [begin, end) of a weight as it is stored, [out, in]: columns of its products.
struct RowRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t count() const { return end - begin; }
  bool empty() const { return begin == end; }
  bool operator==(const RowRange&) const = default;
};

/// Weights are cut at multiples of this alone: so wide are the panels that a CPU multiplies, and
/// the bits of a product are those of its panels, wherever they lie.
inline constexpr std::int64_t kPlacedColumns = 256;
inline constexpr std::size_t kMaxRanks = 1024;

/// What of a model one process holds.
struct ModelShare {
  // [layers]; empty: not held.
  std::vector<PerValue<WeightKind, RowRange>> layers;
  RowRange lm_head;
  // The whole table, or nothing.
  bool embedding = false;

  static ModelShare whole(const ModelDims& dims);
  const RowRange& rows(const WeightId& id) const { return layers[id.layer][id.kind]; }
  /// Some of one of its weights is held.
  bool holds_layer(std::size_t layer) const;
  /// Nothing is held.
  bool empty() const;
  /// kInvalidInput: not of this model, or cut where no panel begins.
  Status check(const ModelDims& dims) const;
  /// Elements of layers and lm_head; the table is not counted.
  std::uint64_t linear_elements(const ModelDims& dims) const;
  bool operator==(const ModelShare&) const = default;
};

/// As op_results(), of what a process with this share computes of the op: each weight's columns
/// that it holds. kInvalidInput also where it holds nothing of a weight.
Result<std::vector<TensorDesc>> share_results(const OpSpec& spec, const ModelDims& dims,
                                              const ModelShare& share);

/// kInvalidInput where an op's results are not as share_results() says.
Status check_share_results(const OpSpec& spec, const ModelDims& dims, const ModelShare& share,
                           std::span<const MutableTensorView> results);

/// How a model lies on several ranks (processes).
enum class PlacementKind : std::uint8_t {
  // Whole weights, consecutive layers together: an op needs one rank alone. Between hosts.
  kLayers = 1,
  // Some columns of every weight: each rank computes a part of each op. Within a host.
  kColumns = 2,
};
constexpr std::string_view name_of(PlacementKind kind) {
  switch (kind) {
    case PlacementKind::kLayers:
      return "layers";
    case PlacementKind::kColumns:
      return "columns";
  }
  return {};
}

/// What one rank computes of an op.
struct OpPart {
  /// Columns of one of the op's results; of int8 rows with the scales of their blocks.
  struct Columns {
    std::size_t result = 0;
    std::int64_t first = 0;
    std::int64_t count = 0;
    bool operator==(const Columns&) const = default;
  };

  std::size_t rank = 0;
  // Its inputs are the op's; its weights those of the op's that the rank holds some of.
  OpSpec spec;
  // Where each of its results belongs.
  std::vector<Columns> results;
};

/// Which rank holds what: a function of its arguments, so every rank finds the same. Never changes.
class Placement {
 public:
  /// Rank 0 holds a share like the others, or, `door_only`, none. Layers are spread so that the
  /// largest share, in elements, is as small as it can be while they stay in order, and within that
  /// evenly; the embedding lies with the first, lm_head with the last, and both with the last where
  /// they are tied. By columns each weight is cut evenly, to a panel, and those that hold least so
  /// far have a panel more; the embedding lies with the first that computes. Ranks that nothing is
  /// left for have an empty share. kInvalidInput: no rank would compute, or over kMaxRanks; dims
  /// that no model has.
  static Result<Placement> make(PlacementKind kind, const LlamaConfig& config, std::size_t ranks,
                                bool door_only);

  /// What has `share` of a model cut once more, by columns as make() cuts, as the ranks of this
  /// placement; columns of a part's results are counted within the share's. kInvalidInput as
  /// make(), and of a share that is none of the model.
  static Result<Placement> make_within(const LlamaConfig& config, const ModelShare& share,
                                       std::size_t ranks);

  PlacementKind kind() const { return kind_; }
  std::size_t ranks() const { return shares_.size(); }
  const ModelShare& share(std::size_t rank) const { return shares_[rank]; }
  /// Elements of the weights that a rank holds; a table that is its whole lm_head too counts once.
  std::uint64_t elements(std::size_t rank) const;
  /// The parts of an op that names weights, or of lm_head or embedding; `spec` is one that
  /// op_results() takes (make_within(): share_results()). Of each column of each result there is
  /// one part. In the order of ranks. Of other ops, which need no weights: none.
  std::vector<OpPart> split(const OpSpec& spec) const;
  /// The names of the tensors that a rank hashes for the model's digest: each tensor of the model
  /// (expected_tensors()) belongs to one rank. Norms to rank 0; others by layers to that which
  /// holds them, by columns so that each has about as much to read (a door has none).
  std::vector<std::string> hashed_by(std::size_t rank) const;

 private:
  Placement(PlacementKind kind, const LlamaConfig& config)
      : kind_(kind), config_(config), all_(ModelShare::whole(config.dims)) {}

  PlacementKind kind_;
  LlamaConfig config_;
  ModelShare all_;  // what the shares are of
  std::vector<ModelShare> shares_;
};

}  // namespace airlock
