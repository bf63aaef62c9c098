#include "tee_runner/tokenize_command.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "proto/limits.h"
#include "runtime/json/reader.h"
#include "runtime/json/writer.h"
#include "runtime/program/program.h"
#include "tee_runner/tokenizer/tokenizer.h"

namespace airlock {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{64} << 10;
/// Of stdin that is one text or one line.
constexpr std::size_t kMaxInputBytes = std::size_t{64} << 20;
constexpr std::size_t kMaxLineIds = std::size_t{1} << 20;

Status too_long(std::string_view what) {
  return {StatusCode::kInvalidInput, "{} is longer than {} bytes", what, kMaxInputBytes};
}

/// Appends what stdin gives next; false where it ended.
Result<bool> read_more(std::string& to) {
  std::array<char, kChunkBytes> chunk;
  while (true) {
    const ssize_t got = ::read(STDIN_FILENO, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return os_error("read stdin", errno);
    to.append(chunk.data(), static_cast<std::size_t>(got));
    return got > 0;
  }
}

Result<std::string> read_all() {
  std::string text;
  while (true) {
    ASSIGN_OR_RETURN(const bool more, read_more(text));
    if (!more) return text;
    if (text.size() > kMaxInputBytes) return too_long("stdin");
  }
}

/// What the options ask for, of one text or of one list of ids.
class Work {
 public:
  Work(const TokenizeOptions& options, const Tokenizer& tokenizer)
      : options_(options), tokenizer_(tokenizer) {}

  Result<std::string> whole(std::string_view input) const {
    if (!options_.decode) {
      ASSIGN_OR_RETURN(const auto ids, encode(input));
      return fmt::format("{}\n", fmt::join(ids, ","));
    }
    const auto ids = parse_tokens(input, "stdin");
    if (!ids.ok()) return Status(StatusCode::kInvalidInput, ids.status().message());
    return decode(*ids);
  }

  Result<std::string> line(std::string_view input, std::string_view source) const {
    ASSIGN_OR_RETURN(const Json json, parse_json(input, source));
    Status status;
    const JsonReader reader(json, source, status);
    if (!options_.decode) {
      if (!json.is_string()) return refused(reader, status, "a string");
      const auto ids = encode(json.text);
      if (!ids.ok()) return ids.status().with_context(source);
      return fmt::format("[{}]\n", fmt::join(*ids, ","));
    }
    std::vector<std::int32_t> ids;
    for (const JsonReader& item : reader.items(kMaxLineIds)) {
      item.get(ids.emplace_back());
      if (!status.ok()) break;
    }
    RETURN_IF_ERROR(status);
    const auto text = decode(ids);
    if (!text.ok()) return text.status().with_context(source);
    return ascii_json_string(*text) + '\n';
  }

 private:
  static Status refused(const JsonReader& reader, const Status& status, std::string_view expected) {
    reader.refuse(expected);
    return status;
  }
  Result<std::vector<std::int32_t>> encode(std::string_view text) const {
    return tokenizer_.encode(text, options_.no_special ? Specials::kPlain : Specials::kParse,
                             options_.no_bos ? Around::kNothing : Around::kTemplate);
  }
  Result<std::string> decode(const std::vector<std::int32_t>& ids) const {
    return tokenizer_.decode(ids, options_.no_special ? Shown::kNoSpecial : Shown::kAll);
  }

  const TokenizeOptions& options_;
  const Tokenizer& tokenizer_;
};

/// Each line as soon as it is there. What lies before a bad one is printed.
class Lines {
 public:
  explicit Lines(const Work& work) : work_(work) {}

  Status run() {
    while (true) {
      ASSIGN_OR_RETURN(const bool more, read_more(input_));
      std::string output;
      Status status = take_lines(output);
      if (status.ok() && !more && !input_.empty()) status = take(input_, output);
      if (!output.empty()) status = first_failure(std::move(status), print(output));
      RETURN_IF_ERROR(status);
      if (!more) return {};
      if (input_.size() > kMaxInputBytes) return too_long(source(number_ + 1));
    }
  }

 private:
  static std::string source(std::size_t number) { return fmt::format("line {} of stdin", number); }

  Status take_lines(std::string& output) {
    std::size_t begin = 0;
    // What was looked through before has no end of a line.
    std::size_t from = seen_;
    Status status;
    while (status.ok()) {
      const std::size_t end = input_.find('\n', from);
      if (end == std::string::npos) break;
      status = take(std::string_view(input_).substr(begin, end - begin), output);
      begin = from = end + 1;
    }
    input_.erase(0, begin);
    seen_ = input_.size();
    return status;
  }
  Status take(std::string_view line, std::string& output) {
    ASSIGN_OR_RETURN(const std::string answer, work_.line(line, source(++number_)));
    output += answer;
    return {};
  }

  const Work& work_;
  std::string input_;
  std::size_t seen_ = 0;
  std::size_t number_ = 0;
};

}  // namespace

Status run(const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer,
                   Tokenizer::open(options.model));
  const Work work(options, *tokenizer);
  if (options.jsonl) return Lines(work).run();
  ASSIGN_OR_RETURN(const std::string input, read_all());
  ASSIGN_OR_RETURN(const std::string output, work.whole(input));
  return output.empty() ? Status() : print(output);
}

}  // namespace airlock
