// A model's digest from lines that several processes make.
#include <gmock/gmock.h>

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/model/digest.h"
#include "runtime/model/model_source.h"
#include "tests/model/temp_model.h"

namespace airlock {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

std::vector<std::string> names_of(const ModelSource& model) {
  std::vector<std::string> names;
  for (const ExpectedTensor& tensor : expected_tensors(model.config()))
    names.push_back(tensor.name);
  return names;
}

class DigestParts : public testing::Test {
 protected:
  DigestParts() {
    ::setenv("XDG_CACHE_HOME", cache_.path().c_str(), 1);
    test::copy_model("sharded-bf16", folder_);
    namespace fs = std::filesystem;
    for (const auto& entry : fs::directory_iterator(folder_.path())) settle(entry.path());
    model_ = open_model_directory(folder_.path()).value();
    names_ = names_of(*model_);
  }
  /// Makes a file look older than the span in which a change could go unseen.
  static void settle(const std::filesystem::path& path) {
    using Clock = std::filesystem::file_time_type::clock;
    std::filesystem::last_write_time(path, Clock::now() - std::chrono::hours(1));
  }
  std::vector<std::string> all_lines() const { return model_->digest_lines(names_).value(); }
  StatusCode joined(const std::vector<std::string>& lines) const {
    return model_->join_digest(lines).status().code();
  }
  std::vector<std::filesystem::path> cache_files() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(cache_.path("airlock")))
      files.push_back(entry.path());
    return files;
  }

  test::TempFolder cache_;
  test::TempFolder folder_;
  std::unique_ptr<ModelSource> model_;
  std::vector<std::string> names_;
};

TEST_F(DigestParts, make_the_digest_whoever_made_them) {
  for (const std::size_t ranks : {1, 2, 5}) {
    std::vector<std::string> lines;
    for (std::size_t rank = ranks; rank-- > 0;) {
      const auto other = open_model_directory(folder_.path()).value();
      std::vector<std::string> mine;
      for (std::size_t i = rank; i < names_.size(); i += ranks) mine.push_back(names_[i]);
      const auto made = other->digest_lines(mine);
      ASSERT_TRUE(made.ok()) << made.status().to_string();
      EXPECT_THAT(*made, SizeIs(mine.size()));
      EXPECT_EQ(other->digest_identity().value(), model_->digest_identity().value());
      lines.insert(lines.end(), made->begin(), made->end());
    }
    EXPECT_EQ(model_->join_digest(lines).value(), model_->digest().value());
  }
}

TEST_F(DigestParts, that_are_missing_or_there_twice_are_refused) {
  const std::vector<std::string> lines = all_lines();
  ASSERT_EQ(joined(lines), StatusCode::kOk);
  EXPECT_EQ(joined({}), StatusCode::kMismatch);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::vector<std::string> wrong = lines;
    wrong.erase(wrong.begin() + static_cast<std::ptrdiff_t>(i));
    EXPECT_EQ(joined(wrong), StatusCode::kMismatch) << lines[i];
    wrong = lines;
    wrong.push_back(lines[i]);
    EXPECT_EQ(joined(wrong), StatusCode::kMismatch) << lines[i];
  }
}

TEST_F(DigestParts, of_another_model_are_refused) {
  std::vector<std::string> lines = all_lines();
  const std::string first = lines[0];
  for (const std::string& wrong :
       {test::replaced(first, "bf16", "fp32"), test::replaced(first, "[", "[1"), first + "0",
        first.substr(0, first.size() - 1), test::replaced(first, "model.", "modem."), std::string(),
        std::string(" "), std::string("\n")}) {
    lines[0] = wrong;
    EXPECT_EQ(joined(lines), StatusCode::kMismatch) << wrong;
  }
  lines[0] = first;
  lines.emplace_back("lm_head.weights bf16 [1, 1] " + std::string(64, 'a'));
  EXPECT_EQ(joined(lines), StatusCode::kMismatch);
}

TEST_F(DigestParts, of_weights_that_differ_make_another_digest) {
  std::vector<std::string> lines = all_lines();
  lines[0].back() = lines[0].back() == 'a' ? 'b' : 'a';
  EXPECT_NE(model_->join_digest(lines).value(), model_->digest().value());
}

TEST_F(DigestParts, of_a_tensor_that_is_not_there_are_refused) {
  const std::vector<std::string> names = {names_[0], "model.layers.77.mlp.up_proj.weight"};
  EXPECT_EQ(model_->digest_lines(names).status().code(), StatusCode::kInvalidInput);
}

TEST_F(DigestParts, are_taken_from_the_cache_the_second_time) {
  const std::vector<std::string> names = {names_[3], names_[1]};
  const std::vector<std::string> lines = model_->digest_lines(names).value();
  ASSERT_THAT(cache_files(), SizeIs(1));
  const std::string path = cache_files()[0];
  // Other lines that the file vouches for, so that a hit can be told from a computation.
  const std::string kept = test::read_file(path);
  const std::string text = lines[0] + "\n" + lines[1] + "\n";
  ASSERT_TRUE(kept.ends_with(text));
  const std::string forged = "a\nb\n";
  test::write_file(path, sha256_of(std::as_bytes(std::span(forged))) +
                             kept.substr(64, kept.size() - 64 - text.size()) + forged);
  EXPECT_THAT(model_->digest_lines(names).value(), testing::ElementsAre("a", "b"));
  // What was hashed is part of the key.
  const std::vector<std::string> others = {names_[1], names_[3]};
  EXPECT_THAT(model_->digest_lines(others).value(), testing::ElementsAre(lines[1], lines[0]));
}

TEST_F(DigestParts, are_made_again_when_a_file_or_the_cache_changed) {
  const std::vector<std::string> lines = all_lines();
  ASSERT_THAT(cache_files(), SizeIs(1));
  const std::string path = cache_files()[0];
  const std::string kept = test::read_file(path);
  for (const std::string& damaged :
       {std::string(), kept.substr(0, 64), kept.substr(0, kept.size() - 1), kept + "x\n",
        std::string(64, 'a') + kept.substr(64)}) {
    test::write_file(path, damaged);
    EXPECT_EQ(all_lines(), lines);
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
    if (entry.path().extension() != ".safetensors") continue;
    std::string bytes = test::read_file(entry.path());
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    test::write_file(entry.path(), bytes);
    settle(entry.path());
    break;
  }
  model_ = open_model_directory(folder_.path()).value();
  EXPECT_NE(all_lines(), lines);
}

TEST_F(DigestParts, of_another_config_have_another_identity) {
  const std::string before = model_->digest_identity().value();
  const std::string config = test::read_file(folder_.path("config.json"));
  test::write_file(folder_.path("config.json"),
                   test::replaced(config, "\"rope_theta\": 20000.0", "\"rope_theta\": 20001.0"));
  EXPECT_NE(open_model_directory(folder_.path()).value()->digest_identity().value(), before);
}

TEST(GeneratedDigest, has_no_lines_and_is_its_own_identity) {
  const std::string config = std::string(AIRLOCK_TEST_MODELS) + "/sharded-bf16/config.json";
  const auto model = make_synthetic_model(config, 1).value();
  const std::string digest = model->digest().value();
  EXPECT_EQ(model->digest_identity().value(), digest);
  EXPECT_NE(make_synthetic_model(config, 2).value()->digest_identity().value(), digest);
  const std::vector<std::string> lines = model->digest_lines(names_of(*model)).value();
  EXPECT_THAT(lines, IsEmpty());
  EXPECT_EQ(model->join_digest(lines).value(), digest);
  const std::vector<std::string> foreign = {"model.norm.weight fp32 [1] " + std::string(64, 'a')};
  EXPECT_EQ(model->join_digest(foreign).status().code(), StatusCode::kMismatch);
}

}  // namespace
}  // namespace airlock
