#include <gmock/gmock.h>

#include <cmath>

#include "base/convert.h"
#include "runtime/model/model_files.h"
#include "runtime/model/model_source.h"
#include "runtime/model/safetensors.h"
#include "tests/model/temp_model.h"

namespace airlock {
namespace {

using testing::HasSubstr;

constexpr const char* kQ0 = "model.layers.0.self_attn.q_proj.weight";
const std::string kSingle = "model.safetensors";
const std::string kIndex = "model.safetensors.index.json";

std::string model_path(const std::string& name) {
  return std::string(AIRLOCK_TEST_MODELS) + "/" + name;
}

void expect_refused(const std::string& directory, const std::string& word) {
  const auto model = open_model_directory(directory);
  ASSERT_FALSE(model.ok()) << word;
  EXPECT_EQ(model.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(model.status().message(), HasSubstr(word));
}

class Directory : public testing::Test {
 protected:
  /// Copies a model and replaces `from` by the equally long `to` in one of its files.
  void damage(const std::string& model, const std::string& file, std::string_view from,
              std::string_view to) {
    test::copy_model(model, folder_);
    test::write_file(folder_.path(file),
                     test::replaced(test::read_file(folder_.path(file)), from, to));
  }
  test::TempFolder folder_;
};

TEST(Models, every_tiny_model_opens_and_has_finite_weights) {
  const std::vector<std::pair<std::string, DType>> models = {
      {"mqa-head-dim", DType::kF32},  {"linear-bf16", DType::kBF16},
      {"llama3-tied", DType::kBF16},  {"fp16-old-type", DType::kF16},
      {"sharded-bf16", DType::kBF16}, {"sparse-config", DType::kF32}};
  for (const auto& [name, dtype] : models) {
    const auto model = open_model_directory(model_path(name));
    ASSERT_TRUE(model.ok()) << name << ": " << model.status().message();
    EXPECT_EQ((*model)->stored_dtype(), dtype) << name;
    EXPECT_EQ((*model)->config().dtype, dtype) << name;
    const ModelDims& dims = (*model)->config().dims;
    const auto norms = read_norms(**model);
    ASSERT_TRUE(norms.ok());
    for (const float value : norms->as<float>()) EXPECT_NEAR(value, 1.0, 0.6);
    for (std::int64_t layer = 0; layer < dims.layers; ++layer) {
      const WeightId id{.kind = WeightKind::kUp, .layer = static_cast<std::uint16_t>(layer)};
      Tensor up({.dtype = DType::kF32, .shape = weight_shape(dims, id.kind)});
      ASSERT_TRUE((*model)->read_rows(weight_name(id), 0, up.mutable_view()).ok());
      for (const float value : up.as<float>()) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

TEST(Models, reads_the_explicit_head_dim_and_shares_of_mqa) {
  const auto model = open_model_directory(model_path("mqa-head-dim"));
  ASSERT_TRUE(model.ok());
  EXPECT_EQ((*model)->config().dims.head_dim, 20);
  EXPECT_EQ((*model)->config().dims.kv_heads, 1);
}

TEST(Models, mapped_bytes_are_what_read_rows_reads) {
  const auto model = open_model_directory(model_path("sharded-bf16"));
  ASSERT_TRUE(model.ok());
  const auto mapped = (*model)->mapped(kQ0, DType::kBF16);
  ASSERT_TRUE(mapped.has_value());
  Tensor copy(mapped->desc);
  ASSERT_TRUE((*model)->read_rows(kQ0, 0, copy.mutable_view()).ok());
  EXPECT_EQ(std::memcmp(mapped->data, copy.view().data, mapped->desc.bytes()), 0);
  (*model)->release(kQ0);
  EXPECT_EQ(std::memcmp(mapped->data, copy.view().data, mapped->desc.bytes()), 0);
  EXPECT_FALSE((*model)->mapped(kQ0, DType::kF32).has_value());
  EXPECT_FALSE((*model)->mapped("none", DType::kBF16).has_value());
}

TEST(Models, converts_a_range_of_rows) {
  const auto model = open_model_directory(model_path("linear-bf16"));
  ASSERT_TRUE(model.ok());
  const auto mapped = (*model)->mapped(kQ0, DType::kBF16);
  ASSERT_TRUE(mapped.has_value());
  Tensor wide({.dtype = DType::kF32, .shape = {2, 48}});
  ASSERT_TRUE((*model)->read_rows(kQ0, 3, wide.mutable_view()).ok());
  for (std::size_t i = 0; i < 96; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(mapped->as<std::uint16_t>()[3 * 48 + i])
                               << 16;
    EXPECT_EQ(wide.as<float>()[i], std::bit_cast<float>(bits));
  }
  EXPECT_FALSE((*model)->read_rows(kQ0, 47, wide.mutable_view()).ok());
}

TEST(Models, names_weights_as_transformers_does) {
  EXPECT_EQ(weight_name({.kind = WeightKind::kO, .layer = 7}),
            "model.layers.7.self_attn.o_proj.weight");
  EXPECT_EQ(weight_name({.kind = WeightKind::kDown, .layer = 11}),
            "model.layers.11.mlp.down_proj.weight");
}

TEST_F(Directory, refuses_what_is_not_a_model_directory) {
  expect_refused(folder_.path("none"), "no such model directory");
  expect_refused(folder_.path(), "it is empty");
  test::write_file(folder_.path("config.json"), "{}");
  expect_refused(folder_.path("config.json"), "not a directory");
  expect_refused(folder_.path(), "neither");
}

TEST_F(Directory, refuses_a_truncated_model) {
  test::copy_model("mqa-head-dim", folder_);
  for (const std::uintmax_t bytes : {200000U, 1000U, 9U, 8U, 7U, 0U}) {
    std::filesystem::resize_file(folder_.path(kSingle), bytes);
    expect_refused(folder_.path(), kSingle);
  }
}

TEST_F(Directory, refuses_a_shape_that_the_config_does_not_ask_for) {
  damage("mqa-head-dim", "config.json", "\"intermediate_size\": 80", "\"intermediate_size\": 96");
  expect_refused(folder_.path(), "has shape [80, 48], the config asks for [96, 48]");
}

TEST_F(Directory, names_a_missing_tensor) {
  damage("mqa-head-dim", kSingle, "model.norm.weight", "model.nork.weight");
  expect_refused(folder_.path(), "'model.norm.weight' is missing");
}

TEST_F(Directory, names_a_missing_head_where_it_is_not_tied) {
  damage("llama3-tied", "config.json", "\"tie_word_embeddings\": true",
         "\"tie_word_embeddings\": false");
  expect_refused(folder_.path(), "tie_word_embeddings");
}

TEST_F(Directory, takes_a_head_that_is_not_the_table_that_the_config_ties_it_to) {
  damage("mqa-head-dim", "config.json", "\"tie_word_embeddings\": false",
         "\"tie_word_embeddings\": true");
  testing::internal::CaptureStderr();
  const auto model = open_model_directory(folder_.path());
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("not tied"));
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_FALSE((*model)->config().tie_word_embeddings);
  const auto untied = open_model_directory(model_path("mqa-head-dim"));
  ASSERT_TRUE(untied.ok());
  EXPECT_EQ((*model)->digest().value(), (*untied)->digest().value());
}

TEST_F(Directory, ignores_a_head_that_is_the_table) {
  damage("mqa-head-dim", "config.json", "\"tie_word_embeddings\": false",
         "\"tie_word_embeddings\": true");
  std::string bytes = test::read_file(folder_.path(kSingle));
  {
    const auto file = SafetensorsFile::open(folder_.path(kSingle));
    ASSERT_TRUE(file.ok());
    const SafetensorsEntry* table = (*file)->find(kEmbedName);
    const SafetensorsEntry* head = (*file)->find(kLmHeadName);
    ASSERT_EQ(table->bytes, head->bytes);
    bytes.replace(head->file_offset, head->bytes, bytes.substr(table->file_offset, table->bytes));
  }
  test::write_file(folder_.path(kSingle), bytes);
  const auto model = open_model_directory(folder_.path());
  ASSERT_TRUE(model.ok()) << model.status().message();
  EXPECT_TRUE((*model)->config().tie_word_embeddings);
  Tensor row({.dtype = DType::kF32, .shape = {1, 48}});
  EXPECT_FALSE((*model)->read_rows(kLmHeadName, 0, row.mutable_view()).ok());
  // Of the last byte alone.
  const auto file = SafetensorsFile::open(folder_.path(kSingle));
  bytes[(*file)->find(kLmHeadName)->file_offset + (*file)->find(kLmHeadName)->bytes - 1] ^= 1;
  test::write_file(folder_.path(kSingle), bytes);
  const auto other = open_model_directory(folder_.path());
  ASSERT_TRUE(other.ok()) << other.status().message();
  EXPECT_FALSE((*other)->config().tie_word_embeddings);
}

TEST_F(Directory, refuses_a_needed_tensor_of_another_dtype) {
  damage("fp16-old-type", kSingle, R"({"dtype":"F16")", R"({"dtype":"I16")");
  expect_refused(folder_.path(), "dtype I16");
}

TEST_F(Directory, logs_what_it_ignores_in_one_line) {
  testing::internal::CaptureStderr();
  ASSERT_TRUE(open_model_directory(model_path("sharded-bf16")).ok());
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("ignoring 3 tensor(s)"));
  EXPECT_THAT(text, HasSubstr("rotary_emb.inv_freq"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST_F(Directory, refuses_shard_names_that_leave_the_directory) {
  for (const std::string name :
       {"../model-0001-of-0003.safetensors", "/etc/passwd", "", "a\\u001b[2J.safetensors",
        "model.bin", "..", "a\\u0000.safetensors"}) {
    test::TempFolder folder;
    test::copy_model("sharded-bf16", folder);
    const std::string index = test::read_file(folder.path(kIndex));
    test::write_file(folder.path(kIndex),
                     test::replaced(index, "model-00001-of-00003.safetensors", name));
    expect_refused(folder.path(), "expected the name of a .safetensors file beside the index");
  }
}

TEST_F(Directory, refuses_a_bad_index) {
  test::copy_model("sharded-bf16", folder_);
  const std::string index = test::read_file(folder_.path(kIndex));
  for (const std::string text :
       {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {"a": 7}})"}) {
    test::write_file(folder_.path(kIndex), text);
    expect_refused(folder_.path(), kIndex);
  }
  test::write_file(folder_.path(kIndex), R"({"weight_map": {}})");
  expect_refused(folder_.path(), "'model.embed_tokens.weight' is missing");
  test::write_file(folder_.path(kIndex), test::replaced(index, "00001-of", "00002-of"));
  expect_refused(folder_.path(), "the index says it is here");
}

TEST_F(Directory, names_a_missing_shard) {
  test::copy_model("sharded-bf16", folder_);
  std::filesystem::remove(folder_.path("model-00002-of-00003.safetensors"));
  expect_refused(folder_.path(), "model-00002-of-00003.safetensors is not there, a shard of the 3");
}

TEST_F(Directory, names_what_converts_weights_that_it_does_not_read) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"pytorch_model.bin", "save_pretrained('OUT')"},
      {"pytorch_model-00001-of-00002.bin", "pickled"},
      {"tiny-Q4_K_M.gguf", "gguf_file='tiny-Q4_K_M.gguf'"},
      {"consolidated.00.pth", "convert_llama_weights_to_hf --input_dir"},
      {"consolidated.safetensors", "Mistral"},
      {"tf_model.h5", "from_tf=True"},
      {"flax_model.msgpack", "from_flax=True"}};
  for (const auto& [name, word] : cases) {
    const test::TempFolder folder;
    test::write_file(folder.path(name), "");
    for (const bool config : {false, true}) {
      if (config) test::write_file(folder.path("config.json"), "{}");
      expect_refused(folder.path(), name);
      expect_refused(folder.path(), word);
    }
  }
  test::write_file(folder_.path("tiny.gguf"), "GGUF");
  expect_refused(folder_.path("tiny.gguf"), "gguf_file='tiny.gguf'");
}

TEST_F(Directory, what_its_names_say_is_never_part_of_a_command) {
  const auto folder_with = [&](const std::string& name, const std::string& file) {
    std::filesystem::create_directories(folder_.path(name));
    test::write_file(folder_.path(name) + "/" + file, "");
    return folder_.path(name);
  };
  const std::string words = folder_with("DIR-FILE-{dir}", "tiny.gguf");
  expect_refused(words, "from_pretrained('DIR', gguf_file='tiny.gguf')");
  const std::string file = folder_with("FILE", "tiny.gguf");
  expect_refused(file, "from_pretrained('" + file + "', gguf_file='tiny.gguf')");
  const std::string dir = folder_with("plain", "$(id).gguf");
  expect_refused(dir, "from_pretrained('" + dir + "', gguf_file='FILE')");
  for (const char* name : {"$(id)", "`id`", "it's", "two words", "a\nb", "a\"b", "\xc3\xa9"}) {
    expect_refused(folder_with(name, "pytorch_model.bin"), "from_pretrained('DIR')");
    expect_refused(folder_with(std::string("adapter") + name, "adapter_config.json"),
                   "from_pretrained('DIR')");
    const std::string lfs = folder_with(std::string("lfs") + name, "config.json");
    for (const char* file_name : {"/config.json", "/model.safetensors"})
      test::write_file(lfs + file_name, "version https://git-lfs.github.com/spec/v1\n");
    expect_refused(lfs, "git -C DIR lfs pull");
    const std::string cache = std::string("models--someone--") + name;
    std::filesystem::create_directories(folder_.path(cache) + "/snapshots");
    expect_refused(folder_.path(cache), "hf download ORG/NAME ");
  }
}

TEST_F(Directory, with_an_adapter_is_refused) {
  test::write_file(folder_.path("adapter_config.json"), "{}");
  expect_refused(folder_.path(), "merge_and_unload");
  test::copy_model("mqa-head-dim", folder_);
  expect_refused(folder_.path(), "merge_and_unload");
}

TEST_F(Directory, refuses_the_pointers_of_git_lfs) {
  const std::string pointer =
      "version https://git-lfs.github.com/spec/v1\n"
      "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
  for (const std::string name :
       {"config.json", "model-00002-of-00003.safetensors", "model.safetensors.index.json"}) {
    const test::TempFolder folder;
    test::copy_model("sharded-bf16", folder);
    test::write_file(folder.path(name), pointer);
    expect_refused(folder.path(), folder.path(name) + " is only git-lfs's pointer");
    expect_refused(folder.path(), "lfs pull");
  }
}

/// As the Hugging Face cache keeps a model: files are links to blobs.
class Cache : public Directory {
 protected:
  void SetUp() override {
    namespace fs = std::filesystem;
    fs::create_directories(repository_ + "/blobs");
    fs::create_directories(repository_ + "/refs");
    fs::create_directories(snapshot("1234abcd"));
    test::TempFolder model;
    test::copy_model("mqa-head-dim", model);
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy_file(model.path(name), repository_ + "/blobs/" + name);
      fs::create_symlink(std::string("../../blobs/") + name, snapshot("1234abcd") + "/" + name);
    }
  }
  std::string snapshot(const std::string& name) const { return repository_ + "/snapshots/" + name; }

  const std::string repository_ = folder_.path("models--someone--tiny--llama");
};

TEST_F(Cache, a_snapshot_is_a_model) {
  EXPECT_TRUE(open_model_directory(snapshot("1234abcd")).ok());
}

TEST_F(Cache, a_blob_that_is_gone_is_named_with_the_command_that_fetches_it) {
  for (const char* name : {"model.safetensors", "config.json"}) {
    std::filesystem::remove(repository_ + "/blobs/" + name);
    for (const std::string& path : {snapshot("1234abcd"), repository_}) {
      expect_refused(path, std::string("blobs/") + name + ", which is gone");
      expect_refused(path, "hf download someone/tiny--llama");
    }
    test::TempFolder model;
    test::copy_model("mqa-head-dim", model);
    std::filesystem::copy_file(model.path(name), repository_ + "/blobs/" + name);
  }
}

TEST_F(Cache, the_repository_means_its_only_snapshot_or_that_of_its_main_branch) {
  const auto only = open_model_directory(repository_);
  ASSERT_TRUE(only.ok()) << only.status().message();
  std::filesystem::create_directory(snapshot("0000"));
  expect_refused(repository_, "2 snapshots");
  expect_refused(repository_, snapshot("1234abcd"));
  test::write_file(repository_ + "/refs/main", "1234abcd\n");
  EXPECT_TRUE(open_model_directory(repository_).ok());
  for (const char* ref : {"", "../blobs", "gone"}) {
    test::write_file(repository_ + "/refs/main", ref);
    expect_refused(repository_, "2 snapshots");
  }
  std::filesystem::remove_all(repository_ + "/snapshots");
  std::filesystem::create_directory(repository_ + "/snapshots");
  expect_refused(repository_, "without any snapshot");
}

TEST_F(Cache, all_its_files_are_the_models) {
  for (const std::string& given : {repository_, snapshot("1234abcd")}) {
    const auto files = model_files(given);
    EXPECT_THAT(files, testing::Contains(snapshot("1234abcd") + "/config.json"));
    EXPECT_THAT(files, testing::Contains(snapshot("1234abcd") + "/model.safetensors"));
  }
  EXPECT_TRUE(model_files("").empty());
  EXPECT_TRUE(model_files("/nonexistent").empty());
}

TEST_F(Directory, says_so_when_a_file_shrinks_under_it) {
  test::copy_model("mqa-head-dim", folder_);
  const auto model = open_model_directory(folder_.path());
  ASSERT_TRUE(model.ok());
  std::filesystem::resize_file(folder_.path(kSingle), 5000);
  EXPECT_EQ(read_norms(**model).status().code(), StatusCode::kInvalidInput);
  EXPECT_FALSE((*model)->mapped(kEmbedName, DType::kF32).has_value());
}

TEST_F(Directory, reads_tensors_at_odd_offsets) {
  test::copy_model("fp16-old-type", folder_);
  std::string bytes = test::read_file(folder_.path(kSingle));
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  bytes.insert(8 + length, 1, ' ');
  ++length;
  std::memcpy(bytes.data(), &length, sizeof length);
  test::write_file(folder_.path(kSingle), bytes);
  const auto odd = open_model_directory(folder_.path());
  const auto even = open_model_directory(model_path("fp16-old-type"));
  ASSERT_TRUE(odd.ok() && even.ok());
  EXPECT_FALSE((*odd)->mapped(kQ0, DType::kF16).has_value());
  Tensor a({.dtype = DType::kF32, .shape = {40, 40}});
  Tensor b({.dtype = DType::kF32, .shape = {40, 40}});
  ASSERT_TRUE((*odd)->read_rows(kQ0, 0, a.mutable_view()).ok());
  ASSERT_TRUE((*even)->read_rows(kQ0, 0, b.mutable_view()).ok());
  EXPECT_EQ(std::memcmp(a.view().data, b.view().data, a.desc().bytes()), 0);
}

}  // namespace
}  // namespace airlock
