#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <optional>
#include <utility>

#include "base/file.h"
#include "base/log.h"
#include "runtime/program/program.h"
#include "tee_runner/answer_text.h"
#include "tee_runner/chat/messages.h"
#include "tee_runner/text_commands.h"
#include "tee_runner/text_session.h"

namespace airlock {

namespace {

constexpr std::size_t kMaxLineBytes = std::size_t{1} << 20;
constexpr std::chrono::milliseconds kLook{100};
constexpr std::string_view kHelp =
    "Write, and press enter. A line that ends with \\ goes on in the next one.\n"
    "/help     this text\n"
    "/history  what was said\n"
    "/clear    begin anew\n"
    "/undo     forget the last question and its answer\n"
    "/quit     end (or the end of input)\n"
    "Ctrl-C stops an answer; where there is none it ends the program.\n";

/// Lines of stdin.
class Lines {
 public:
  /// nullopt: stdin has ended. kInvalidInput: a line that is too long.
  Result<std::optional<std::string>> next() {
    for (;;) {
      if (const std::size_t end = read_.find('\n'); end != std::string::npos) {
        std::string line = read_.substr(0, end);
        read_.erase(0, end + 1);
        return std::optional(std::move(line));
      }
      if (ended_) {
        if (read_.empty()) return std::optional<std::string>();
        return std::optional(std::exchange(read_, {}));
      }
      if (read_.size() > kMaxLineBytes) {
        return Status(StatusCode::kInvalidInput, "a line of stdin is longer than {} bytes",
                      kMaxLineBytes);
      }
      std::array<char, 4096> chunk;
      const ssize_t got = ::read(STDIN_FILENO, chunk.data(), chunk.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return os_error("read stdin", errno);
      ended_ = got == 0;
      read_.append(chunk.data(), static_cast<std::size_t>(got));
    }
  }

 private:
  std::string read_;
  bool ended_ = false;
};

class Conversation {
 public:
  Conversation(const TalkOptions& options, const PromptMaker& words, BatchEngine& engine)
      : options_(options), words_(words), engine_(engine) {
    clear();
  }

  /// One line of the user's. False: the end.
  Result<bool> take(const std::string& line) {
    if (line == "/quit" || line == "/exit") return false;
    if (line == "/help") return shown(std::string(kHelp));
    if (line == "/clear") {
      clear();
      return shown("(a new conversation)\n");
    }
    if (line == "/undo") {
      const std::size_t first = options_.system ? 1 : 0;
      if (messages_.size() < first + 2) return shown("(there is nothing to forget)\n");
      messages_.resize(messages_.size() - 2);
      return shown("(forgotten)\n");
    }
    if (line == "/history") return shown(shown_text(history()));
    if (line.starts_with("/")) return shown("(no such command: /help lists them)\n");
    if (line.empty()) return true;
    return answer(line);
  }

  /// On the reporter's thread: whether there is an answer that this stops.
  bool interrupt() {
    const GenerationId id = under_way_.load();
    if (id == kNone) return false;
    is_stopped_ = true;
    if (id != kBeginning) engine_.cancel(id);
    return true;
  }

 private:
  void clear() {
    messages_.clear();
    if (options_.system) messages_.push_back({ChatRole::kSystem, *options_.system});
  }

  static Result<bool> shown(const std::string& text) {
    RETURN_IF_ERROR(print(text));
    return true;
  }

  std::string history() const {
    std::string text;
    for (const ChatMessage& message : messages_)
      text += fmt::format("{}: {}\n", name_of(message.role), message.content);
    return text.empty() ? "(nothing was said yet)\n" : text;
  }

  Result<bool> answer(const std::string& question) {
    messages_.push_back({ChatRole::kUser, question});
    const auto prompt = words_.of_messages(messages_);
    if (!prompt.ok()) return refused(prompt.status());
    Status printed;
    const auto show = [&](const std::string& piece) {
      // What a model writes is foreign text: it drives no terminal.
      if (printed.ok()) printed = print(shown_text(piece));
      return printed.ok();
    };
    ASSIGN_OR_RETURN(const auto text, AnswerText::create(words_.tokenizer(), options_.stop, show));
    is_stopped_ = false;
    under_way_ = kBeginning;
    const auto id = engine_.submit(request_for(options_, *prompt), text);
    under_way_ = id.ok() ? *id : kNone;
    if (!id.ok()) return refused(id.status());
    if (is_stopped_) engine_.cancel(*id);
    std::optional<Finish> finish;
    while (!finish) finish = text->await_end(kLook);
    under_way_ = kNone;
    RETURN_IF_ERROR(printed);
    RETURN_IF_ERROR(print("\n"));
    if (finish->reason == FinishReason::kFailed) {
      if (finish->status.code() != StatusCode::kUnavailable) return finish->status;
      messages_.pop_back();
      log_error(finish->status.message() + "; ask again once it is back");
      return true;
    }
    if (finish->reason == FinishReason::kLength)
      log_info(fmt::format("the answer was cut at {} tokens (--max-tokens, --context)",
                           finish->generated_tokens));
    messages_.push_back({ChatRole::kAssistant, text->text()});
    return true;
  }

  /// The conversation goes on without it.
  Result<bool> refused(const Status& why) {
    messages_.pop_back();
    log_error(why.message());
    return true;
  }

  const TalkOptions& options_;
  const PromptMaker& words_;
  BatchEngine& engine_;
  std::vector<ChatMessage> messages_;
  static constexpr GenerationId kNone = 0;
  static constexpr GenerationId kBeginning = ~GenerationId{0};
  std::atomic<GenerationId> under_way_{kNone};
  std::atomic<bool> is_stopped_{false};
};

Status talk(Conversation& conversation) {
  const bool is_terminal = ::isatty(STDIN_FILENO) == 1;
  Lines lines;
  std::string said;
  for (;;) {
    if (is_terminal) RETURN_IF_ERROR(print(said.empty() ? "> " : ". "));
    ASSIGN_OR_RETURN(const auto line, lines.next());
    if (!line && said.empty()) break;
    said += line.value_or("");
    if (said.size() > kMaxChatBytes) {
      return {StatusCode::kInvalidInput, "a question is longer than {} bytes", kMaxChatBytes};
    }
    if (line && said.ends_with('\\')) {
      said.back() = '\n';
      continue;
    }
    ASSIGN_OR_RETURN(const bool more, conversation.take(std::exchange(said, {})));
    if (!more) return {};
  }
  return is_terminal ? print("\n") : Status();
}

}  // namespace

Status run(const TalkOptions& options, StatsReporter& reporter) {
  keep_words_private();
  ASSIGN_OR_RETURN(const auto words, PromptMaker::open(options.model, options.chat_template));
  if (!words->knows_conversations()) {
    return {StatusCode::kInvalidInput,
            "the model has no chat template that is known here: name one with --chat-template"};
  }
  ASSIGN_OR_RETURN(const auto session, TextSession::start(options, reporter, {.reconnects = true}));
  Conversation conversation(options, *words, session->engine());
  const InterruptGuard guard(reporter, [&conversation](int signal) {
    return signal == SIGINT && conversation.interrupt();
  });
  return talk(conversation);
}

}  // namespace airlock
