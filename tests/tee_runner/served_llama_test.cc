#include "tee_runner/served_llama.h"

#include <gtest/gtest.h>

#include "tests/support/memory_model.h"

namespace airlock {
namespace {

/// Counts how often it is read for its digest.
class CountedModel final : public testing::MemoryModel {
 public:
  explicit CountedModel(int& digests) : digests_(digests) {}
  Result<std::string> digest() const override {
    ++digests_;
    return MemoryModel::digest();
  }

 private:
  int& digests_;
};

TextOptions options_without_server() {
  TextOptions options;
  options.endpoint = "ipc:///nonexistent/ctl";
  options.timeout = std::chrono::milliseconds(1);
  return options;
}

TEST(LlamaSource, a_model_is_read_for_its_digest_once_however_often_a_server_is_asked_for) {
  int digests = 0;
  TextOptions options = options_without_server();
  options.model_digest = testing::MemoryModel().digest().value();
  auto reporter = StatsReporter::create(std::nullopt).value();
  LlamaSource source(options, std::make_unique<CountedModel>(digests), *reporter);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(source.make().status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(digests, 1);
}

TEST(LlamaSource, of_another_model_than_was_demanded_asks_no_server) {
  TextOptions options = options_without_server();
  options.model_digest = std::string(64, '0');
  auto reporter = StatsReporter::create(std::nullopt).value();
  LlamaSource source(options, std::make_unique<testing::MemoryModel>(), *reporter);
  EXPECT_EQ(source.make().status().code(), StatusCode::kMismatch);
}

}  // namespace
}  // namespace airlock
