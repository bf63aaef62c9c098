#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "tee_runner/generate/engine.h"
#include "tee_runner/generate/stop_scanner.h"
#include "tee_runner/tokenizer/tokenizer.h"

namespace airlock {

/// One answer as a terminal or a file wants it: its text in whole characters, cut before a stop
/// string, as it comes. The engine's thread fills it, another one waits for its end.
class AnswerText : public TokenSink {
 public:
  /// Gets each new piece of the text, on the engine's thread; false: nobody wants more.
  using Show = std::function<bool(const std::string& piece)>;

  /// Without a tokenizer there is no text, and no stop string. kInvalidInput as
  /// StopScanner::create().
  static Result<std::shared_ptr<AnswerText>> create(std::shared_ptr<const Tokenizer> tokenizer,
                                                    const std::vector<std::string>& stops,
                                                    Show show);

  bool on_token(const GeneratedToken& token) override;
  void on_finish(const Finish& finish) override;

  /// The end of the answer; nullopt: not within `patience`.
  std::optional<Finish> await_end(std::chrono::milliseconds patience);
  /// After the end.
  const std::string& text() const { return text_; }
  /// With the stop id that ended it.
  const std::vector<std::int32_t>& ids() const { return ids_; }

 private:
  AnswerText(StopScanner scanner, Show show)
      : scanner_(std::move(scanner)), show_(std::move(show)) {}
  bool give(std::string piece);

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::optional<StreamDecoder> decoder_;
  StopScanner scanner_;
  const Show show_;
  std::string text_;
  std::vector<std::int32_t> ids_;
  Status fault_;  // of the tokenizer
  std::mutex mutex_;
  std::condition_variable ended_;
  std::optional<Finish> finish_;  // guarded by mutex_
};

/// What a model wrote, for stdout: where that is a terminal, '?' for what would drive it.
std::string shown_text(const std::string& text);

}  // namespace airlock
