#include "runtime/model/model_source.h"

#include <fmt/format.h>

namespace airlock {

Result<std::vector<std::string>> ModelSource::digest_lines(std::span<const std::string>) const {
  return std::vector<std::string>();
}

Result<std::string> ModelSource::join_digest(std::span<const std::string> lines) const {
  if (lines.empty()) return digest();
  return Status(StatusCode::kMismatch, "the digest has {} lines of a model that has none",
                lines.size());
}

std::string weight_name(const WeightId& id) {
  const bool mlp =
      id.kind == WeightKind::kGate || id.kind == WeightKind::kUp || id.kind == WeightKind::kDown;
  return fmt::format("model.layers.{}.{}.{}.weight", id.layer, mlp ? "mlp" : "self_attn",
                     name_of(id.kind));
}

std::vector<ExpectedTensor> expected_tensors(const LlamaConfig& config) {
  const ModelDims& dims = config.dims;
  std::vector<ExpectedTensor> tensors;
  tensors.push_back({kEmbedName, {dims.vocab, dims.hidden}});
  for (std::int64_t layer = 0; layer < dims.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    tensors.push_back({prefix + "input_layernorm.weight", {dims.hidden}});
    for (const WeightKind kind : kValuesOf<WeightKind>) {
      const WeightId id{.kind = kind, .layer = static_cast<std::uint16_t>(layer)};
      tensors.push_back({weight_name(id), weight_shape(dims, kind)});
    }
    tensors.push_back({prefix + "post_attention_layernorm.weight", {dims.hidden}});
  }
  tensors.push_back({"model.norm.weight", {dims.hidden}});
  if (!config.tie_word_embeddings) tensors.push_back({kLmHeadName, {dims.vocab, dims.hidden}});
  return tensors;
}

Result<std::int64_t> check_rows(const std::string& name, const Shape& tensor,
                                std::int64_t first_row, const TensorDesc& out) {
  const std::int64_t rows = tensor.rank() == 2 ? tensor[0] : 1;
  const std::int64_t columns = tensor[tensor.rank() - 1];
  // A vector may be read as [columns] too.
  const bool vector = out.shape.rank() == 1 && tensor.rank() == 1 && out.shape[0] == columns;
  const bool matrix = out.shape.rank() == 2 && out.shape[1] == columns;
  const std::int64_t wanted = matrix ? out.shape[0] : 1;
  if (!is_model_float(out.dtype) || !(vector || matrix) || first_row < 0 || wanted < 0 ||
      wanted > rows || first_row > rows - wanted) {
    return Status(StatusCode::kInvalidInput, "{} has shape {}: cannot read {} {} from row {}", name,
                  tensor.to_string(), name_of(out.dtype), out.shape.to_string(), first_row);
  }
  return wanted;
}

Result<Tensor> read_norms(const ModelSource& model) {
  const ModelDims& dims = model.config().dims;
  Tensor norms({.dtype = DType::kF32, .shape = {2 * dims.layers + 1, dims.hidden}});
  const TensorDesc row{.dtype = DType::kF32, .shape = {1, dims.hidden}};
  std::byte* place = norms.mutable_view().data;
  for (const ExpectedTensor& tensor : expected_tensors(model.config())) {
    if (tensor.shape.rank() != 1) continue;
    RETURN_IF_ERROR(model.read_rows(tensor.name, 0, {place, row}));
    place += row.bytes();
  }
  return norms;
}

}  // namespace airlock
