#include "tools/airlock_trace/prototype_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/json/reader.h"

namespace airlock::trace {
namespace {

constexpr std::array<std::string_view, 11> kColumns = {
    "ID",       "Method",  "Ser(ms)",   "Send(ms)", "Recv(ms)", "Deser(ms)",
    "Comm(ms)", "GPU(ms)", "Total(ms)", "Sent(KB)", "Recv(KB)"};
constexpr std::size_t kMillisecondDigits = 6;  // down to nanoseconds
constexpr std::size_t kSecondDigits = 9;
constexpr std::size_t kKilobyteDigits = 6;
/// A call of more than a day is no call.
constexpr std::uint64_t kMaxCallNs = 24ULL * 3600 * 1'000'000'000;
constexpr std::uint64_t kMaxCallBytes = std::uint64_t{16} << 30;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view trimmed(std::string_view line) {
  while (!line.empty() && is_space(line.front())) line.remove_prefix(1);
  while (!line.empty() && is_space(line.back())) line.remove_suffix(1);
  return line;
}

/// At most `most` + 1 of them: enough to see that there are too many.
std::vector<std::string_view> words_of(std::string_view line, std::size_t most) {
  std::vector<std::string_view> words;
  for (line = trimmed(line); !line.empty() && words.size() <= most; line = trimmed(line)) {
    const auto* const end = std::ranges::find_if(line, is_space);
    words.push_back(line.substr(0, static_cast<std::size_t>(end - line.begin())));
    line.remove_prefix(words.back().size());
  }
  return words;
}

bool is_rule(std::string_view line) {
  return !line.empty() && line.find_first_not_of(line.front()) == std::string_view::npos &&
         (line.front() == '=' || line.front() == '-');
}

class Parser {
 public:
  explicit Parser(std::string_view source) : source_(source) {}

  Result<PrototypeLog> parse(std::string_view text) {
    while (!text.empty()) {
      ++line_;
      const std::size_t newline = text.find('\n');
      const bool whole = newline != std::string_view::npos;
      const std::string_view raw = text.substr(0, newline);
      text.remove_prefix(whole ? newline + 1 : text.size());
      if (raw.size() > kMaxLogLineBytes) {
        return refuse(fmt::format("a line over {} bytes", kMaxLogLineBytes));
      }
      const std::string_view line = trimmed(raw);
      if (line.empty() || is_rule(line)) continue;
      if (!whole) {  // its last number may lack digits
        log_.cut = fmt::format("{}:{}: the last line has no end and is left out", source_, line_);
        break;
      }
      RETURN_IF_ERROR(log_.summary ? read_summary(line) : read_line(line));
    }
    if (!has_title_ && log_.calls.empty()) {
      return Status(StatusCode::kInvalidInput, "{}: no log of the prototype: it has no calls",
                    source_);
    }
    return std::move(log_);
  }

 private:
  Status refuse(std::string_view what) const {
    return {StatusCode::kInvalidInput, "{}:{}: {}", source_, line_, what};
  }

  Status read_line(std::string_view line) {
    if (is_digit(line.front())) return read_call(line);
    if (line.starts_with("ZeroMQ Performance Log")) {
      if (has_title_) return refuse("a second log begins here: import one at a time");
      has_title_ = true;
      return {};
    }
    if (line == "SUMMARY" || line.starts_with("SUMMARY ")) {
      log_.summary.emplace();
      log_.summary->line = line_;
      return {};
    }
    if (line.starts_with("ID ") || line.starts_with("ID\t")) {
      const auto words = words_of(line, kColumns.size());
      if (std::ranges::equal(words, kColumns)) return {};
      return refuse(fmt::format("other columns than {}", fmt::join(kColumns, " ")));
    }
    return refuse(fmt::format("'{}' is no line of such a log", printable(line)));
  }

  Status read_call(std::string_view line) {
    const auto words = words_of(line, kColumns.size());
    if (words.size() != kColumns.size()) {
      return refuse(fmt::format(
          "a call of {} columns, expected {}",
          words.size() > kColumns.size() ? "more" : std::to_string(words.size()), kColumns.size()));
    }
    if (log_.calls.size() == kMaxLogCalls) {
      return refuse(fmt::format("more than {} calls", kMaxLogCalls));
    }
    LogCall call;
    call.line = line_;
    RETURN_IF_ERROR(read_id(words[0], call));
    RETURN_IF_ERROR(read_method(words[1], call.op));
    std::uint64_t comm_ns = 0;  // the four before it and what lies between them
    const std::array<std::uint64_t*, 7> times = {
        &call.serialise_ns, &call.send_ns, &call.receive_ns, &call.deserialise_ns,
        &comm_ns,           &call.gpu_ns,  &call.total_ns};
    for (std::size_t i = 0; i < times.size(); ++i) {
      RETURN_IF_ERROR(
          read_number(words[2 + i], kColumns[2 + i], kMillisecondDigits, kMaxCallNs, *times[i]));
    }
    RETURN_IF_ERROR(read_bytes(words[9], kColumns[9], call.sent_bytes));
    RETURN_IF_ERROR(read_bytes(words[10], kColumns[10], call.received_bytes));
    log_.calls.push_back(call);
    return {};
  }

  Status read_method(std::string_view word, Op& op) const {
    std::string known;
    for (const Op each : kOps) {
      const std::string_view name = prototype_name(each);
      if (name.empty()) continue;
      known += fmt::format("{}{}", known.empty() ? "" : ", ", name);
      if (name != word) continue;
      op = each;
      return {};
    }
    return refuse(fmt::format("unknown method '{}' (known: {})", printable(word), known));
  }

  /// Ids count calls and begin again with each prefill.
  Status read_id(std::string_view word, LogCall& call) {
    const auto id = parse_decimal(word, 0);
    if (!id || *id == 0) return refuse(fmt::format("'{}' is no id of a call", printable(word)));
    const std::uint64_t last = log_.calls.empty() ? 0 : log_.calls.back().id;
    if (*id != last + 1 && *id != 1) {
      return refuse(fmt::format("call {} follows call {}: lines are missing", *id, last));
    }
    call.id = *id;
    return {};
  }

  Status read_number(std::string_view word, std::string_view name, std::size_t digits,
                     std::uint64_t most, std::uint64_t& value) const {
    const auto parsed = parse_decimal(word, digits);
    if (!parsed || *parsed > most) {
      return refuse(fmt::format("{} is '{}', expected a decimal number from 0 {}", name,
                                printable(word),
                                parsed ? "that is not as large" : "without sign or exponent"));
    }
    value = *parsed;
    return {};
  }

  Status read_bytes(std::string_view word, std::string_view name, std::uint64_t& bytes) const {
    std::uint64_t millionths = 0;
    RETURN_IF_ERROR(
        read_number(word, name, kKilobyteDigits, kMaxCallBytes / 1024 * 1'000'000, millionths));
    bytes = (millionths * 16 + 7812) / 15625;  // * 1024 / 10^6, rounded
    return {};
  }

  /// A line behind "SUMMARY". A heading says what the "Total:" below it counts.
  Status read_summary(std::string_view line) {
    LogSummary& summary = *log_.summary;
    if (is_digit(line.front())) return refuse("a call behind the summary");
    if (line.starts_with("Total RPC Calls:")) {
      std::uint64_t calls = 0;
      RETURN_IF_ERROR(read_number(trimmed(line.substr(line.find(':') + 1)), "Total RPC Calls", 0,
                                  kMaxLogCalls, calls));
      summary.calls = calls;
      return {};
    }
    if (line.starts_with("Total:")) return read_total(line.substr(6));
    if (!line.ends_with(':')) {
      // Means of what is in the lines above, and of times that the trace cannot hold.
      if (line.starts_with("Avg ") && line.ends_with(" ms")) return {};
      return refuse(fmt::format("'{}' is no line of a summary", printable(line)));
    }
    const auto heading = [&](std::string_view begin) { return line.starts_with(begin); };
    const bool unused = heading("GPU Computation") || heading("TEE Computation");
    unused_.reset();
    total_ = heading("Prefill Wall-Clock")   ? &summary.wall_ns
             : heading("Communication Time") ? &summary.comm_ns
             : unused                        ? &unused_
                                             : nullptr;
    if (total_ != nullptr || line == "Operation Statistics:" ||
        line.find("(count=") != std::string_view::npos) {
      return {};
    }
    return refuse(fmt::format("'{}' is no line of a summary", printable(line)));
  }

  /// " 0.8757 s (8.935 ms/call)"
  Status read_total(std::string_view text) {
    const auto words = words_of(text, 4);
    if (total_ == nullptr || total_->has_value()) return refuse("a total of nothing known");
    if (words.size() < 2 || words[1] != "s") {
      return refuse(fmt::format("'{}' is no time in seconds", printable(trimmed(text))));
    }
    std::uint64_t value = 0;
    RETURN_IF_ERROR(read_number(words[0], "Total", kSecondDigits, 30 * kMaxCallNs, value));
    *total_ = value;
    return {};
  }

  std::string_view source_;
  std::uint64_t line_ = 0;
  bool has_title_ = false;
  std::optional<std::uint64_t>* total_ = nullptr;  // what the next "Total:" is of
  std::optional<std::uint64_t> unused_;            // a total that is checked and not kept
  PrototypeLog log_;
};

}  // namespace

std::string_view prototype_name(Op op) {
  switch (op) {
    case Op::kInit:
      return "Init";
    case Op::kEmbedding:
      return "Embedding";
    case Op::kBatchLinear:
      return "BatchLinear";
    case Op::kMatmul:
      return "Matmul";
    case Op::kLmHead:
      return "LMHead";
    case Op::kStats:
    case Op::kPing:
      return {};
  }
  return {};
}

std::optional<std::uint64_t> parse_decimal(std::string_view text, std::size_t digits) {
  constexpr std::size_t kMaxWholeDigits = 9;
  const std::size_t point = std::min(text.find('.'), text.size());
  const std::string_view whole = text.substr(0, point);
  const std::string_view fraction = point == text.size() ? "" : text.substr(point + 1);
  if (whole.empty() || whole.size() > kMaxWholeDigits || fraction.size() > digits ||
      (point != text.size() && fraction.empty()) || !std::ranges::all_of(whole, is_digit) ||
      !std::ranges::all_of(fraction, is_digit)) {
    return std::nullopt;
  }
  std::uint64_t value = 0;  // at most 18 digits
  for (const char c : whole) value = value * 10 + static_cast<std::uint64_t>(c - '0');
  for (std::size_t i = 0; i < digits; ++i) {
    value = value * 10 + (i < fraction.size() ? static_cast<std::uint64_t>(fraction[i] - '0') : 0);
  }
  return value;
}

Result<PrototypeLog> parse_prototype_log(std::string_view text, std::string_view source) {
  return Parser(source).parse(text);
}

}  // namespace airlock::trace
