#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/mix.h"
#include "runtime/compute.h"
#include "runtime/exact/int8_weights.h"
#include "runtime/placement/placement.h"
#include "tests/support/memory_model.h"
#include "tests/support/reference_ops.h"

namespace airlock::testing {

/// Weights of less than a panel, of several, and with a rest.
inline MemoryModel::Options panels_options(bool tied, std::int64_t vocab) {
  MemoryModel::Options options;
  options.dims = {.hidden = 60,
                  .intermediate = 522,
                  .layers = 2,
                  .heads = 30,
                  .kv_heads = 2,
                  .head_dim = 10,
                  .vocab = vocab};
  options.tied = tied;
  return options;
}

/// Makes a model of one kind of device; of a share, or (null) of all of it.
using MakeModel = std::function<Result<std::shared_ptr<ComputeModel>>(const ModelShare* share)>;

/// An op with its operands.
struct PlacedOp {
  OpSpec spec;
  std::vector<Tensor> inputs;
};

inline PlacedOp op_on_floats(OpSpec spec, std::uint64_t seed) {
  PlacedOp op{std::move(spec), {}};
  op.inputs.push_back(random_tensor(op.spec.inputs[0], seed));
  return op;
}

/// With any words or, of ids, any below `most`.
inline PlacedOp op_on_words(OpSpec spec, std::uint64_t seed, std::uint64_t most = 0) {
  PlacedOp op{std::move(spec), {}};
  for (const TensorDesc& desc : op.spec.inputs) {
    Tensor tensor(desc);
    const std::span<std::byte> bytes = tensor.mutable_view().bytes();
    for (std::size_t at = 0; at < bytes.size(); at += sizeof(std::uint32_t)) {
      const std::uint64_t any = mix(++seed);
      const auto word = static_cast<std::uint32_t>(most != 0 ? any % most : any);
      std::memcpy(&bytes[at], &word, sizeof word);
    }
    op.inputs.push_back(std::move(tensor));
  }
  return op;
}

/// Every float op on weights, with so many rows: linears whole, in part, across layers.
inline std::vector<PlacedOp> float_ops(const ModelDims& dims, std::int64_t rows, DType wire,
                                       DType result) {
  using enum WeightKind;
  const auto last = static_cast<std::uint16_t>(dims.layers - 1);
  const TensorDesc x{wire, Shape{rows, dims.hidden}};
  const TensorDesc heads{wire, Shape{rows, dims.heads * dims.head_dim}};
  const TensorDesc inner{wire, Shape{rows, dims.intermediate}};
  std::vector<PlacedOp> ops;
  ops.push_back(
      op_on_words(embedding_spec(rows, result), 1, static_cast<std::uint64_t>(dims.vocab)));
  ops.push_back(op_on_floats(lm_head_spec(x), 2));
  ops.push_back(op_on_floats(linear_spec(weights_of(Linear::kQkv, 0), x, result), 3));
  ops.push_back(op_on_floats(linear_spec({{kUp, last}, {kV, 0}, {kGate, 0}}, x, result), 4));
  ops.push_back(op_on_floats(linear_spec({{kO, last}}, heads, result), 5));
  ops.push_back(op_on_floats(linear_spec({{kDown, 0}, {kDown, last}}, inner, result), 6));
  return ops;
}

/// Every integer op, with so many rows; `planes(linear, layer)` are there.
template <typename Planes>
std::vector<PlacedOp> int_ops(const ModelDims& dims, std::int64_t rows, const Planes& planes) {
  std::vector<PlacedOp> ops;
  const auto add = [&](const std::vector<WeightId>& weights, std::uint8_t count) {
    ops.push_back(op_on_words(int_linear_spec(weights, count, rows, dims), 7));
    ops.push_back(op_on_words(pad_linear_spec(weights, count, rows), 8));
  };
  for (std::uint16_t layer = 0; layer < dims.layers; ++layer) {
    for (const Linear linear : {Linear::kQkv, Linear::kO, Linear::kGateUp, Linear::kDown})
      add(weights_of(linear, layer), planes(linear, layer));
  }
  add({{WeightKind::kV, 0}, {WeightKind::kQ, 0}}, planes(Linear::kQkv, 0));
  add({}, planes(Linear::kLmHead, 0));
  return ops;
}

/// A model whole, and every share of a placement of it, each as a process of its own would have it.
class SharesUnderTest {
 public:
  /// `whole` is what `make` gives of all of it; several placements may have the same.
  SharesUnderTest(std::shared_ptr<ComputeModel> whole, const MakeModel& make,
                  const Placement& placement, const ModelDims& dims)
      : placement_(placement), dims_(dims), whole_(made(std::move(whole))) {
    for (std::size_t rank = 0; rank < placement.ranks(); ++rank)
      shares_.push_back(made(make(&placement.share(rank))));
  }

  ComputeModel& whole() { return *whole_.model; }
  ComputeModel& share(std::size_t rank) { return *shares_[rank].model; }

  /// Makes them everywhere; their digest, of the whole and of all shares' lines, is the same.
  void prepare_int8(const ModelSource& source, Int8Weights choice) {
    const Result<std::string> want = whole().prepare_int8(source, choice, {});
    ASSERT_TRUE(want.ok()) << want.status().to_string();
    std::vector<Int8Line> lines;
    for (std::size_t rank = 0; rank < shares_.size(); ++rank) {
      const auto mine = share(rank).prepare_int8_share(source, choice, {});
      ASSERT_TRUE(mine.ok()) << mine.status().to_string();
      lines.insert(lines.end(), mine->begin(), mine->end());
      const bool all = mine->size() == whole().prepare_int8_share(source, choice, {})->size();
      EXPECT_EQ(share(rank).prepare_int8(source, choice, {}).ok(), all);
    }
    EXPECT_EQ(join_int8_lines(choice, dims_, lines).value(), *want);
    EXPECT_EQ(join_int8_lines(choice, dims_, whole().prepare_int8_share(source, choice, {}).value())
                  .value(),
              *want);
  }

  /// The parts of all ranks, put where split() says, are the whole's results to the bit.
  void expect_same_bits(const PlacedOp& op) {
    const std::vector<TensorDesc> descs = op_results(op.spec, dims_).value();
    std::vector<Tensor> want;
    ASSERT_TRUE(run(whole_, op.spec, op.inputs, descs, want).ok());
    std::vector<Tensor> got = filled(descs);
    for (const OpPart& part : placement_.split(op.spec)) {
      const auto part_descs = share_results(part.spec, dims_, placement_.share(part.rank));
      ASSERT_TRUE(part_descs.ok()) << part_descs.status().to_string();
      std::vector<Tensor> results;
      const Status status = run(shares_[part.rank], part.spec, op.inputs, *part_descs, results);
      ASSERT_TRUE(status.ok()) << status.to_string();
      for (std::size_t i = 0; i < results.size(); ++i)
        put(results[i], got[part.results[i].result], part.results[i].first);
    }
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(std::ranges::equal(got[i].view().bytes(), want[i].view().bytes()))
          << name_of(op.spec.op) << " of " << op.spec.inputs.back().shape.to_string() << ", result "
          << i << " on " << placement_.ranks() << " ranks by " << name_of(placement_.kind());
    }
  }

  /// A rank refuses what it does not hold all of, and results of the whole where it holds a part.
  void expect_refusals(const PlacedOp& op) {
    const std::vector<TensorDesc> descs = op_results(op.spec, dims_).value();
    for (std::size_t rank = 0; rank < shares_.size(); ++rank) {
      const auto mine = share_results(op.spec, dims_, placement_.share(rank));
      if (mine.ok() && *mine == descs) continue;
      std::vector<Tensor> results;
      EXPECT_EQ(run(shares_[rank], op.spec, op.inputs, descs, results).code(),
                StatusCode::kInvalidInput);
    }
  }

 private:
  struct Made {
    std::shared_ptr<ComputeModel> model;
    std::unique_ptr<Compute> compute;
  };

  static Made made(Result<std::shared_ptr<ComputeModel>> model) {
    if (!model.ok()) ADD_FAILURE() << model.status().to_string();
    Made made{std::move(model).value(), nullptr};
    made.compute = made.model->make_compute({}).value();
    return made;
  }

  /// Not a number in each float type: what is not written cannot be overlooked.
  static std::vector<Tensor> filled(const std::vector<TensorDesc>& descs) {
    std::vector<Tensor> tensors;
    for (const TensorDesc& desc : descs) {
      tensors.emplace_back(desc);
      std::ranges::fill(tensors.back().mutable_view().bytes(), std::byte{0xff});
    }
    return tensors;
  }

  static Status run(const Made& made, const OpSpec& spec, const std::vector<Tensor>& inputs,
                    const std::vector<TensorDesc>& descs, std::vector<Tensor>& results) {
    results = filled(descs);
    OpMemory memory;
    for (const Tensor& input : inputs) memory.inputs.push_back(input.view());
    for (Tensor& result : results) memory.results.push_back(result.mutable_view());
    ASSIGN_OR_RETURN(auto op, made.compute->prepare(spec, std::move(memory),
                                                    Deadline::after(std::chrono::seconds(60))));
    RETURN_IF_ERROR(op->submit());
    return op->wait();
  }

  static void put(const Tensor& part, Tensor& whole, std::int64_t first_column) {
    const std::size_t element = dtype_bytes(whole.desc().dtype);
    const std::size_t width = static_cast<std::size_t>(part.desc().shape[1]) * element;
    const std::size_t pitch = static_cast<std::size_t>(whole.desc().shape[1]) * element;
    std::byte* to = whole.mutable_view().data + static_cast<std::size_t>(first_column) * element;
    for (std::int64_t row = 0; row < part.desc().shape[0]; ++row, to += pitch)
      std::memcpy(to, part.view().data + static_cast<std::size_t>(row) * width, width);
  }

  const Placement placement_;
  const ModelDims dims_;
  Made whole_;
  std::vector<Made> shares_;
};

/// Two and three that compute, one of them behind a door, in both kinds.
inline std::vector<Placement> some_placements(const LlamaConfig& config) {
  std::vector<Placement> placements;
  for (const PlacementKind kind : {PlacementKind::kLayers, PlacementKind::kColumns}) {
    for (const auto& [ranks, door_only] :
         {std::pair(2, false), std::pair(3, false), std::pair(3, true)}) {
      placements.push_back(
          Placement::make(kind, config, static_cast<std::size_t>(ranks), door_only).value());
    }
  }
  return placements;
}

}  // namespace airlock::testing
