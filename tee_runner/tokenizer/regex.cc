#define PCRE2_CODE_UNIT_WIDTH 8

#include "tee_runner/tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <limits>
#include <new>

#include "base/freed.h"
#include "runtime/json/reader.h"
#include "tee_runner/tokenizer/utf8.h"

namespace airlock {

namespace {

using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Freed<pcre2_jit_stack_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Freed<pcre2_compile_context_free>>;

// A rule for words looks at each byte a few times.
constexpr std::size_t kStepsPerByte = 16;
constexpr std::size_t kMoreSteps = 100'000;
constexpr std::uint32_t kMostHeapKib = 64 << 10;
// Memory that a match takes only where it goes deep: a repeated group in a word of megabytes.
constexpr std::size_t kJitStackBytes = std::size_t{64} << 10;
constexpr std::size_t kMostJitStackBytes = std::size_t{128} << 20;
// Where a match may begin, in one go: a rule that fails after long looks is stopped by the
// deadline.
constexpr std::size_t kStarts = 256;
constexpr std::size_t kMatchesPerLookAtTheClock = 16;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return printable(reinterpret_cast<const char*>(text.data()));
}

template <typename T>
T* or_bad_alloc(T* made) {
  if (made == nullptr) throw std::bad_alloc();
  return made;
}

}  // namespace

struct Regex::Code {
  std::unique_ptr<pcre2_code, Freed<pcre2_code_free>> code;
};

Result<Regex> Regex::compile(std::string_view pattern) {
  const CompileContext context(or_bad_alloc(pcre2_compile_context_create(nullptr)));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  auto code = std::make_shared<Code>();
  code->code.reset(pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT,
      &error, &offset, context.get()));
  if (code->code == nullptr) {
    return Status(StatusCode::kInvalidInput,
                  "is no pattern: {} (at byte {} of what it means to PCRE2)", message_of(error),
                  offset);
  }
  // Where it cannot, the interpreter does the work.
  (void)pcre2_jit_compile(code->code.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::move(code));
}

struct Regex::Search::State {
  State(const Regex& searched, Deadline end) : regex(searched), deadline(end) {}

  const Regex regex;
  const Deadline deadline;
  MatchData data{or_bad_alloc(pcre2_match_data_create(1, nullptr))};
  // After a match that the library's own was too small for.
  JitStack stack;
  MatchContext context{or_bad_alloc(pcre2_match_context_create(nullptr))};
};

Regex::Search::Search(const Regex& regex, Deadline deadline)
    : state_(std::make_unique<State>(regex, deadline)) {
  pcre2_set_heap_limit(state_->context.get(), kMostHeapKib);
}

Regex::Search::~Search() = default;

void Regex::Search::start(std::string_view text) {
  text_ = text;
  at_ = 0;
  ended_ = false;
  last_end_.reset();
  const std::size_t steps = text.size() * kStepsPerByte + kMoreSteps;
  pcre2_set_match_limit(state_->context.get(),
                        static_cast<std::uint32_t>(std::min<std::size_t>(
                            steps, std::numeric_limits<std::uint32_t>::max())));
}

int Regex::Search::match(std::size_t last_start) {
  pcre2_set_offset_limit(state_->context.get(), last_start);
  return pcre2_match(state_->regex.code_->code.get(), reinterpret_cast<PCRE2_SPTR>(text_.data()),
                     text_.size(), at_, PCRE2_NO_UTF_CHECK, state_->data.get(),
                     state_->context.get());
}

Result<int> Regex::Search::find() {
  while (true) {
    if (++round_ % kMatchesPerLookAtTheClock == 0 && state_->deadline.expired())
      return Status(StatusCode::kInvalidInput, "takes too long for this text");
    const std::size_t last_start = std::min(at_ + kStarts, text_.size());
    int found = match(last_start);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT && state_->stack == nullptr) {
      state_->stack.reset(
          or_bad_alloc(pcre2_jit_stack_create(kJitStackBytes, kMostJitStackBytes, nullptr)));
      pcre2_jit_stack_assign(state_->context.get(), nullptr, state_->stack.get());
      found = match(last_start);
    }
    if (found != PCRE2_ERROR_NOMATCH || last_start == text_.size()) return found;
    // Each of these may have taken its time.
    round_ += kMatchesPerLookAtTheClock - 1 - round_ % kMatchesPerLookAtTheClock;
    at_ = last_start + 1;
    while (at_ < text_.size() && (static_cast<unsigned char>(text_[at_]) & 0xc0U) == 0x80U) ++at_;
  }
}

Result<std::optional<TextRange>> Regex::Search::next() {
  while (!ended_) {
    ASSIGN_OR_RETURN(const int found, find());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return Status(StatusCode::kInvalidInput, "gives up on a text of {} bytes: {}", text_.size(),
                    message_of(found));
    }
    const PCRE2_SIZE* const ends = pcre2_get_ovector_pointer(state_->data.get());
    const TextRange range{ends[0], std::max(ends[0], ends[1])};
    const bool again = range.size() == 0 && last_end_ == range.end;
    at_ = range.end;
    last_end_ = range.end;
    if (!again) return std::optional(range);
    ended_ = at_ == text_.size();
    if (!ended_) at_ += first_character(text_.substr(at_)).bytes;
  }
  ended_ = true;
  return std::optional<TextRange>();
}

}  // namespace airlock
