#include "tee_runner/tile_choice.h"

#include <gtest/gtest.h>

#include "runtime/model/forward_plan.h"

namespace airlock {
namespace {

BackendInfo server_of(std::string device) {
  BackendInfo info;
  info.device = std::move(device);
  return info;
}

ModelOptions options_of(std::string endpoint, std::int64_t tile = kAutoTile) {
  ModelOptions options;
  options.endpoint = std::move(endpoint);
  options.tile = tile;
  return options;
}

constexpr const char* kHere = "ipc:///tmp/airlock/ctl";

TEST(TileFor, goes_by_whether_the_server_has_a_gpu) {
  const auto chosen = [](const char* endpoint, const char* device) {
    return tile_for(options_of(endpoint), server_of(device));
  };
  EXPECT_EQ(chosen(kHere, "cpu"), 0);
  EXPECT_EQ(chosen("tcp://192.0.2.1:5555", "cpu"), 0);
  EXPECT_EQ(chosen(kHere, "2 ranks by layers: cpu, cpu"), 0);
  EXPECT_EQ(chosen(kHere, "cuda:0 NVIDIA H100"), kAutoTile);
  EXPECT_EQ(chosen(kHere, "2 ranks by layers: cuda:0 NVIDIA H100, cpu"), kAutoTile);
}

TEST(TileFor, what_was_asked_for_is_taken) {
  EXPECT_EQ(tile_for(options_of(kHere, 100), server_of("cpu")), 100);
  EXPECT_EQ(tile_for(options_of(kHere, 0), server_of("cuda:0")), 0);
}

TEST(TileFor, one_process_has_none_of_itself) {
  ModelOptions options = options_of(kHere);
  options.backend = BackendChoice::kLocal;
  EXPECT_EQ(tile_for(options, server_of("cuda:0")), 0);
  options.tile = 32;
  EXPECT_EQ(tile_for(options, server_of("cpu")), 32);
}

TEST(TileFor, a_private_mode_has_none) {
  ModelOptions options = options_of(kHere);
  options.private_mode.mode = PrivacyMode::kOtpVerify;
  EXPECT_EQ(tile_for(options, server_of("cuda:0")), 0);
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
