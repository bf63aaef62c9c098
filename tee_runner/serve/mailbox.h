#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "tee_runner/generate/engine.h"

namespace airlock {

/// What an engine says of the answers to one request, on its way from the engine's thread to
/// another one. Thread-safe. Shared by the sinks, which the engine keeps as long as it likes, and
/// by whoever reads.
class Mailbox : public std::enable_shared_from_this<Mailbox> {
 public:
  struct Letter {
    std::size_t choice = 0;
    // One of the two.
    std::optional<GeneratedToken> token;
    std::optional<Finish> finish;
  };
  /// A reader that falls so far behind gets no more tokens: Letter::finish says kFailed.
  static constexpr std::size_t kMaxLetters = 8192;

  /// `notify` is called by the engine's thread, with the mailbox locked, when the first letter
  /// comes since take(); never after close(). It may throw: then it is called for the next one.
  explicit Mailbox(std::function<void()> notify) : notify_(std::move(notify)) {}

  /// For Engine::submit().
  std::shared_ptr<TokenSink> sink(std::size_t choice);
  std::vector<Letter> take();
  /// There was no memory for a letter: the answers cannot be told.
  bool is_broken();
  /// Nobody reads any more: what is here and what comes is dropped, and the answers end.
  void close();

 private:
  class Sink;
  bool put_token(std::size_t choice, const GeneratedToken& token);
  void put_finish(std::size_t choice, const Finish& finish);
  void put(Letter letter);

  std::mutex mutex_;
  std::function<void()> notify_;
  std::vector<Letter> letters_;
  // Since take().
  bool notified_ = false;
  bool closed_ = false;
  bool overflowed_ = false;
  bool broken_ = false;
};

}  // namespace airlock
