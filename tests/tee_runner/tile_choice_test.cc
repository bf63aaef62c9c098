#include "tee_runner/tile_choice.h"

#include <gtest/gtest.h>

#include "runtime/model/forward_plan.h"

namespace airlock {
namespace {

BackendInfo server_of(std::string device, std::size_t threads) {
  BackendInfo info;
  info.device = std::move(device);
  info.threads = threads;
  return info;
}

ModelOptions options_of(std::string endpoint, std::int64_t tile = kAutoTile,
                        std::size_t threads = 2) {
  ModelOptions options;
  options.endpoint = std::move(endpoint);
  options.tile = tile;
  options.threads = threads;
  return options;
}

constexpr const char* kHere = "ipc:///tmp/airlock/ctl";

TEST(TileFor, goes_by_whether_the_server_needs_this_machines_cpus) {
  const auto chosen = [](const char* endpoint, const char* device, std::size_t server_threads,
                         std::size_t cpus) {
    return tile_for(options_of(endpoint), server_of(device, server_threads), cpus);
  };
  EXPECT_EQ(chosen(kHere, "cpu", 2, 2), 0);
  EXPECT_EQ(chosen(kHere, "cpu", 2, 3), 0);
  EXPECT_EQ(chosen(kHere, "cpu", 2, 4), kAutoTile);
  EXPECT_EQ(chosen(kHere, "cpu", 2, 1), 0);
  EXPECT_EQ(chosen("tcp://127.0.0.1:5555", "cpu", 2, 2), 0);
  EXPECT_EQ(chosen("tcp://192.0.2.1:5555", "cpu", 2, 2), kAutoTile);
  EXPECT_EQ(chosen(kHere, "cuda:0 NVIDIA H100", 2, 2), kAutoTile);
  EXPECT_EQ(chosen(kHere, "2 ranks by layers: cpu, cpu", 2, 2), 0);
  EXPECT_EQ(chosen(kHere, "2 ranks by layers: cuda:0 NVIDIA H100, cpu", 2, 2), kAutoTile);
}

TEST(TileFor, a_servers_count_of_threads_is_no_more_than_a_number) {
  EXPECT_EQ(tile_for(options_of(kHere), server_of("cpu", SIZE_MAX), 64), 0);
  EXPECT_EQ(tile_for(options_of(kHere, kAutoTile, SIZE_MAX), server_of("cpu", 1), 64), 0);
}

TEST(TileFor, what_was_asked_for_is_taken) {
  EXPECT_EQ(tile_for(options_of(kHere, 100), server_of("cpu", 2), 2), 100);
  EXPECT_EQ(tile_for(options_of(kHere, 0), server_of("cuda:0", 2), 2), 0);
}

TEST(TileFor, one_process_has_none_of_itself) {
  ModelOptions options = options_of(kHere);
  options.backend = BackendChoice::kLocal;
  EXPECT_EQ(tile_for(options, server_of("cpu", 1), 64), 0);
  options.tile = 32;
  EXPECT_EQ(tile_for(options, server_of("cpu", 1), 64), 32);
}

TEST(TileFor, a_private_mode_has_none) {
  ModelOptions options = options_of(kHere);
  options.private_mode.mode = PrivacyMode::kOtpVerify;
  EXPECT_EQ(tile_for(options, server_of("cuda:0", 1), 64), 0);
  EXPECT_TRUE(check_tile(options).ok());
  options.tile = 0;
  EXPECT_TRUE(check_tile(options).ok());
  options.tile = 32;
  EXPECT_EQ(check_tile(options).code(), StatusCode::kUsage);
}

TEST(TileText, is_what_the_option_takes) {
  EXPECT_EQ(tile_text(kAutoTile), "auto");
  EXPECT_EQ(tile_text(0), "off");
  EXPECT_EQ(tile_text(96), "96");
}

}  // namespace
}  // namespace airlock
