#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "proto/op.h"

namespace airlock {

/// Where QK^T and PV are computed.
enum class Attention : std::uint8_t { kOffload, kTee };

constexpr std::string_view name_of(Attention attention) {
  switch (attention) {
    case Attention::kOffload:
      return "offload";
    case Attention::kTee:
      return "tee";
  }
  return {};
}

/// Of which tokens of a pass the logits are wanted.
enum class Logits : std::uint8_t { kLast, kAll, kNone, kChosen };

inline constexpr std::int64_t kMaxScoreBytes = std::int64_t{256} << 20;

/// Of ForwardShape::tile: as many tiles as can be under way, of kLeastAutoTile to kMostAutoTile
/// rows and a multiple of kAutoTileStep, but for the last one.
inline constexpr std::int64_t kAutoTile = -1;
inline constexpr std::int64_t kLeastAutoTile = 64;
inline constexpr std::int64_t kMostAutoTile = 512;
inline constexpr std::int64_t kAutoTileStep = 32;
/// At most so many ops are under way at once. A ring of the fewest slots has room for the requests
/// of so many and for one more, so that neither side waits for the other's room for ever.
inline constexpr std::size_t kTilesUnderWay = 4;

/// What sizes one forward pass, beside the model.
struct ForwardShape {
  std::int64_t tokens = 0;
  DType wire = DType::kF32;  // kI8: with Attention::kTee alone
  Attention attention = Attention::kOffload;
  Logits logits = Logits::kLast;
  std::int64_t position = 0;  // of the first token; the keys before it lie in a cache
  std::int64_t max_score_bytes = kMaxScoreBytes;  // of one offloaded QK^T, as far as one row allows
  std::int64_t chosen_rows = 0;  // of kChosen: of so many tokens, wherever they are
  // Rows of a pass that go through its linears by themselves, so that one tile is computed while
  // another is here and a third on its way; 0: all at once.
  std::int64_t tile = 0;
};

/// The passes that feed a prompt in pieces of `chunk` tokens, the last one of what is left; 0 or at
/// least the whole prompt: one pass. Only the last of them gives logits, unless all are wanted.
std::vector<ForwardShape> split_prompt(const ForwardShape& prompt, std::int64_t chunk);

/// What the driver does with an op: where its inputs come from and its results go.
enum class Step : std::uint8_t {
  kEmbed,         // token ids -> hidden states
  kQkv,           // normalised hidden states -> queries, keys, values
  kScores,        // rotated queries and keys -> scores
  kValues,        // softmax of the scores just asked for, values -> attention
  kAttentionOut,  // attention -> added to the hidden states
  kGateUp,        // normalised hidden states -> gate, up
  kDown,          // silu(gate) * up -> added to the hidden states
  kLogits,        // normalised hidden states -> logits
};

/// The part of a pass that one op is for.
struct Tile {
  std::int64_t first_row = 0;  // tokens, counted from the first one of the pass
  std::int64_t row_count = 0;
  // (Of kLogits and Logits::kChosen: counted among the chosen ones.)
  // Key-value heads, of kScores and kValues alone; they see the positions up to the last row's.
  std::int64_t first_group = 0;
  std::int64_t group_count = 0;
};

struct PlannedOp {
  OpSpec spec;
  std::optional<std::uint16_t> layer;  // nullopt: embedding and lm_head
  Step step = Step::kEmbed;
  Tile tile;
};

inline constexpr std::uint64_t kMaxPlannedOps = std::uint64_t{1} << 20;

/// The row tiles of a pass: one of all its rows where it has none.
std::vector<Tile> row_tiles(const ModelDims& dims, const ForwardShape& shape);

/// The ops of one forward pass, or of all the passes of split_prompt(), in the order in which
/// LlamaDriver asks a backend for them; it walks this plan and has no other. `dims` passed check(),
/// but may be the word of a config or of a server. The ops of up to kTilesUnderWay tiles alternate,
/// step by step; a tile's step needs the results of the step before it of the same rows, and
/// attention the keys and values of the rows before. kInvalidInput: no token, positions over
/// limits::kMaxTokens, a negative tile, or an op over the limits of the wire, which is named.
/// kResourceExhausted: more than kMaxPlannedOps.
Result<std::vector<PlannedOp>> plan_forward(const ModelDims& dims, const ForwardShape& shape,
                                            std::int64_t chunk = 0);

}  // namespace airlock
