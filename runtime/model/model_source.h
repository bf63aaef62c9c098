#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "base/tensor.h"
#include "runtime/model/config.h"

namespace airlock {

/// Where a model's tensors come from: a Hugging Face directory or a generator. Tensor names are
/// transformers' own ("model.layers.0.self_attn.q_proj.weight"); all of LLaMA's are there with the
/// shape that the config demands, in a float type (checked at create). Any thread may read.
class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const LlamaConfig& config() const = 0;
  /// The type that most of the weights are stored in (synthetic: the config's dtype).
  virtual DType stored_dtype() const = 0;
  /// Rows [first_row, first_row + out.shape[0]) of a 2-D tensor (a 1-D tensor is one row), rounded
  /// to out's dtype.
  virtual Status read_rows(const std::string& name, std::int64_t first_row,
                           MutableTensorView out) const = 0;
  /// The stored bytes in place, where they already have this dtype and lie in a mapped file; else
  /// nullopt.
  virtual std::optional<TensorView> mapped(const std::string& name, DType dtype) const = 0;
  /// Tells the kernel that the mapped pages of this tensor are not needed any more.
  virtual void release(const std::string& name) const = 0;
  /// SHA-256 in hex, as docs/INTERFACE.md defines it; cached in $XDG_CACHE_HOME/airlock for files.
  virtual Result<std::string> digest() const = 0;

  /// digest() from parts, made by several processes that have the same model each; what is not read
  /// for its digest (a generated model) has no lines.
  ///
  /// What must be the same in each before anything is read: a short text.
  virtual Result<std::string> digest_identity() const { return digest(); }
  /// "NAME DTYPE SHAPE SHA-256" of each of these tensors; cached as digest() is. kInvalidInput: one
  /// is not the model's.
  virtual Result<std::vector<std::string>> digest_lines(std::span<const std::string> names) const;
  /// digest() of the lines of all tensors, in any order. kMismatch: a tensor has none or two, or
  /// one is of another model.
  virtual Result<std::string> join_digest(std::span<const std::string> lines) const;
};

Result<std::unique_ptr<ModelSource>> open_model_directory(const std::string& directory);
Result<std::unique_ptr<ModelSource>> make_synthetic_model(const std::string& config_path,
                                                          std::uint64_t seed);

std::string weight_name(const WeightId& id);  // "model.layers.L.self_attn.q_proj.weight"
inline constexpr const char* kEmbedName = "model.embed_tokens.weight";
inline constexpr const char* kLmHeadName = "lm_head.weight";  // absent where tied

/// A tensor that a LLaMA model must have.
struct ExpectedTensor {
  std::string name;
  Shape shape;  // [rows, columns], norms [hidden]
};
/// Every tensor of the model, in the order of the layers, whose input norm comes first and whose
/// post-attention norm last; no lm_head.weight where it is tied to the embedding.
std::vector<ExpectedTensor> expected_tensors(const LlamaConfig& config);
/// For those who implement read_rows(): checks that `out` can hold rows of a tensor of shape
/// `tensor` from first_row on; the count of rows that it asks for.
Result<std::int64_t> check_rows(const std::string& name, const Shape& tensor,
                                std::int64_t first_row, const TensorDesc& out);

/// All norm weights, fp32 [2 * layers + 1, hidden]: input and post-attention norm of each layer,
/// then the final norm.
Result<Tensor> read_norms(const ModelSource& model);

}  // namespace airlock
