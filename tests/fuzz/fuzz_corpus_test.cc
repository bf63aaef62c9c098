// Every fuzzer's seeds and corpus, with any compiler: what a fuzzer once found stays a test. The
// folder of the corpus is the first argument.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "base/readable_file.h"
#include "tests/fuzz/target.h"

namespace airlock::fuzz {
namespace {

std::filesystem::path corpus;
constexpr std::size_t kMaxInputBytes = std::size_t{64} << 10;

class FuzzCorpus : public ::testing::TestWithParam<Target> {};

TEST_P(FuzzCorpus, seeds_are_accepted) {
  const std::vector<Bytes> seeds = GetParam().seeds();
  ASSERT_FALSE(seeds.empty());
  for (std::size_t i = 0; i < seeds.size(); ++i)
    EXPECT_TRUE(GetParam().run(seeds[i])) << "seed " << i << " is refused";
}

/// Cuts of a valid input are the cheapest damage, and need no fuzzer.
TEST_P(FuzzCorpus, survives_every_cut_of_a_seed) {
  for (const Bytes& seed : GetParam().seeds()) {
    const std::size_t step = std::max<std::size_t>(1, seed.size() / 200);
    for (std::size_t bytes = 0; bytes < seed.size(); bytes += step)
      (void)GetParam().run(std::span(seed).first(bytes));
  }
}

TEST_P(FuzzCorpus, survives_what_was_found) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(corpus / GetParam().name))
    files.push_back(entry.path().string());
  std::ranges::sort(files);
  ASSERT_FALSE(files.empty());
  for (const std::string& file : files) {
    // Flushed: where it ends the process, the last name is the one.
    std::printf("%s\n", file.c_str());
    std::fflush(stdout);
    const auto input = read_text_file(file, kMaxInputBytes);
    ASSERT_TRUE(input.ok()) << input.status().message();
    (void)GetParam().run(std::as_bytes(std::span(*input)));
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzCorpus,
                         ::testing::ValuesIn(targets().begin(), targets().end()),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(FuzzCorpusFolder, has_nothing_that_no_target_reads) {
  for (const auto& entry : std::filesystem::directory_iterator(corpus))
    EXPECT_NE(find_target(entry.path().filename().string()), nullptr) << entry.path();
}

}  // namespace
}  // namespace airlock::fuzz

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s CORPUS\n", argv[0]);
    return 2;
  }
  airlock::fuzz::corpus = argv[1];
  return RUN_ALL_TESTS();
}
