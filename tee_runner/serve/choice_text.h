#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tee_runner/generate/engine.h"
#include "tee_runner/generate/stop_scanner.h"
#include "tee_runner/serve/completion_request.h"
#include "tee_runner/serve/served_model.h"
#include "tee_runner/tokenizer/tokenizer.h"

namespace airlock {

/// A token's text with its log-probability.
struct TokenChance {
  std::string text;
  double log_probability = 0;
};
struct ShownToken {
  TokenChance chosen;
  std::vector<TokenChance> top;
  // Characters of the answer before it.
  std::size_t offset = 0;
};

/// What can be given to a client now.
struct TextPiece {
  std::string text;
  // The tokens whose text has gone out by now, where they were asked for.
  std::vector<ShownToken> tokens;
  bool empty() const { return text.empty() && tokens.empty(); }
};

/// Makes the text of one answer from its tokens: whole characters, cut before a stop string. One
/// thread.
class ChoiceText {
 public:
  /// kInvalidInput as StopScanner::create().
  static Result<ChoiceText> create(std::shared_ptr<const ServedModel> model,
                                   const CompletionRequest& request);

  /// kInternal where the engine gave what is no token.
  Result<TextPiece> push(const GeneratedToken& token);
  /// What was held back. Nothing comes after it.
  TextPiece finish();
  /// A stop string came: the answer is over, whatever the engine still gives.
  bool stopped() const { return scanner_.stopped(); }

 private:
  ChoiceText(std::shared_ptr<const ServedModel> model, StopScanner scanner, bool shows_tokens);
  TextPiece release(std::string text, bool all);
  ShownToken show(const GeneratedToken& token) const;

  std::shared_ptr<const ServedModel> model_;
  StreamDecoder decoder_;
  StopScanner scanner_;
  bool shows_tokens_;
  // Of the text before stop strings are looked for, and of what went out.
  std::size_t decoded_bytes_ = 0;
  std::size_t released_bytes_ = 0;
  std::size_t released_characters_ = 0;
  struct Held {
    ShownToken token;
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  std::deque<Held> held_;
};

}  // namespace airlock
