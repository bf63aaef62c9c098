#include "tee_runner/tile_choice.h"

#include <charconv>

#include "proto/limits.h"
#include "runtime/model/forward_plan.h"
#include "runtime/program/command_line.h"

namespace airlock {

void declare_tile(const CommandOptions& command, std::int64_t& tile) {
  command.parsed(
      "--tile", "N|auto|off",
      "tokens that go through the linears by themselves, so that the server computes "
      "one tile while another is here; the same bits (auto: where the server does not "
      "need this machine's CPUs)",
      [&tile](const std::string& text) -> Status {
        if (text == "auto" || text == "off") {
          tile = text == "auto" ? kAutoTile : 0;
          return {};
        }
        std::int64_t rows = 0;
        const char* const end = text.data() + text.size();
        const auto [stop, error] = std::from_chars(text.data(), end, rows);
        if (error != std::errc() || stop != end || rows < 1 || rows > limits::kMaxTokens) {
          return {StatusCode::kUsage, "'{}' is neither auto nor off nor a number from 1 to {}",
                  text, limits::kMaxTokens};
        }
        tile = rows;
        return {};
      });
}

std::int64_t tile_for(const ModelOptions& options, const BackendInfo& server) {
  if (is_private(options.private_mode.mode)) return 0;
  if (options.tile != kAutoTile) return options.tile;
  // Of a server of several ranks too: "2 ranks by layers: cpu, cuda:0 ...".
  const bool is_gpu = server.device.find("cuda") != std::string::npos;
  return options.backend == BackendChoice::kRemote && is_gpu ? kAutoTile : 0;
}

std::string tile_text(std::int64_t tile) {
  if (tile == kAutoTile) return "auto";
  return tile == 0 ? "off" : std::to_string(tile);
}

Status check_tile(const ModelOptions& options) {
  if (!is_private(options.private_mode.mode) || options.tile <= 0) return {};
  return {StatusCode::kUsage,
          "--tile is not of a private mode: the rows of its tiles would say more of a prompt's "
          "length than those of the whole"};
}

}  // namespace airlock
