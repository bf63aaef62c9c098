// A model's directory: an index beside a good shard, or a whole model.safetensors.
//
//   input: u8 which, then the file

#include <cstdlib>
#include <filesystem>

#include "base/check.h"
#include "runtime/json/writer.h"
#include "runtime/model/model_source.h"
#include "runtime/model/safetensors.h"
#include "tests/fuzz/take.h"
#include "tests/fuzz/target.h"
#include "tests/support/temp_dir.h"

namespace airlock::fuzz {
namespace {

enum class File : std::uint8_t { kIndex, kModel };

LlamaConfig tiny_config() {
  LlamaConfig config;
  config.dims = {.hidden = 2,
                 .intermediate = 2,
                 .layers = 1,
                 .heads = 1,
                 .kv_heads = 1,
                 .head_dim = 2,
                 .vocab = 2};
  config.tie_word_embeddings = true;
  return config;
}

/// All of the model, zeros, in a safetensors file.
std::string model_file() {
  JsonObject header;
  std::uint64_t end = 0;
  for (const ExpectedTensor& tensor : expected_tensors(tiny_config())) {
    const std::uint64_t begin = end;
    end += TensorDesc{DType::kF32, tensor.shape}.bytes();
    header.add(tensor.name, JsonObject{{"dtype", safetensors_dtype(DType::kF32)},
                                       {"shape", tensor.shape.extents()},
                                       {"data_offsets", std::pair(begin, end)}});
  }
  const std::string json = header.text();
  Bytes length;
  put(length, std::uint64_t{json.size()});
  return std::string(text_of(length)) + json + std::string(end, '\0');
}

/// A folder with a config and with one file, or with an index and its shard.
class Folder {
 public:
  Folder() {
    // Tensors that the model does not use are an info line each time.
    ::setenv("AIRLOCK_LOG", "error", 1);
    write_all(directory_.file("config.json"), config_to_json(tiny_config()));
    write_all(directory_.file("shard.safetensors"), model_file());
  }
  std::string path() const { return directory_.path().string(); }
  void put_file(File which, std::string_view text) const {
    const bool is_index = which == File::kIndex;
    const std::string model = directory_.file("model.safetensors");
    std::error_code ignored;
    if (is_index) std::filesystem::remove(model, ignored);
    write_all(is_index ? directory_.file("model.safetensors.index.json") : model, text);
  }

 private:
  const TempDir directory_;
};

std::vector<Bytes> seeds() {
  JsonObject places;
  for (const ExpectedTensor& tensor : expected_tensors(tiny_config()))
    places.add(tensor.name, "shard.safetensors");
  const std::string index = JsonObject{{"weight_map", places}}.text();
  return bytes_of({std::string(1, static_cast<char>(File::kIndex)) + index,
                   std::string(1, static_cast<char>(File::kModel)) + model_file()});
}

bool run(std::span<const std::byte> input) {
  static const Folder folder;
  const auto which = static_cast<File>(take<std::uint8_t>(input) % 2);
  folder.put_file(which, text_of(input));
  const auto model = open_model_directory(folder.path());
  if (!model.ok()) {
    check_refusal(model.status());
    CHECK(model.status().code() == StatusCode::kInvalidInput);
    return false;
  }
  // What was accepted can be read, all of it.
  for (const ExpectedTensor& tensor : expected_tensors((*model)->config())) {
    Shape shape = tensor.shape;
    if (shape.rank() == 1) shape = Shape{1, shape[0]};
    Tensor rows(TensorDesc{DType::kBF16, shape});
    CHECK((*model)->read_rows(tensor.name, 0, rows.mutable_view()).ok());
    const auto mapped = (*model)->mapped(tensor.name, DType::kF32);
    std::byte sum{0};
    if (mapped) {
      for (const std::byte byte : mapped->bytes()) sum ^= byte;
    }
    CHECK(sum == sum);
  }
  return true;
}

}  // namespace

constinit const Target kModelDirectory = {"model_directory", seeds, run};

}  // namespace airlock::fuzz
