#include "tools/airlock_trace/prototype_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/json/reader.h"

namespace airlock::trace {
namespace {

constexpr std::array<std::string_view, 11> kColumns = {
    "ID",       "Method",  "Ser(ms)",   "Send(ms)", "Recv(ms)", "Deser(ms)",
    "Comm(ms)", "GPU(ms)", "Total(ms)", "Sent(KB)", "Recv(KB)"};
using Method = std::pair<Op, std::string_view>;
constexpr Method kMethods[] = {{Op::kInit, "Init"},
                               {Op::kEmbedding, "Embedding"},
                               {Op::kBatchLinear, "BatchLinear"},
                               {Op::kMatmul, "Matmul"},
                               {Op::kLmHead, "LMHead"}};
// Down to nanoseconds.
constexpr std::size_t kMillisecondDigits = 6;
constexpr std::size_t kSecondDigits = 9;
constexpr std::size_t kKilobyteDigits = 6;
/// A call of more than a day is no call.
constexpr std::uint64_t kMaxCallNs = 24ULL * 3600 * 1'000'000'000;
constexpr std::uint64_t kMaxCallBytes = std::uint64_t{16} << 30;

constexpr std::string_view kSpaces = " \t\r";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view trimmed(std::string_view line) {
  line.remove_prefix(std::min(line.find_first_not_of(kSpaces), line.size()));
  return line.substr(0, line.find_last_not_of(kSpaces) + 1);  // npos + 1 is 0
}

/// At most `most` + 1 of them: enough to see that there are too many.
std::vector<std::string_view> words_of(std::string_view line, std::size_t most) {
  std::vector<std::string_view> words;
  for (line = trimmed(line); !line.empty() && words.size() <= most; line = trimmed(line)) {
    words.push_back(line.substr(0, line.find_first_of(kSpaces)));
    line.remove_prefix(words.back().size());
  }
  return words;
}

/// Nothing but one of the two characters that rules are made of.
bool is_empty_or_rule(std::string_view line) {
  return line.find_first_not_of('=') == std::string_view::npos ||
         line.find_first_not_of('-') == std::string_view::npos;
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
      if (raw.size() > kMaxLogLineBytes) return refuse("a line over {} bytes", kMaxLogLineBytes);
      const std::string_view line = trimmed(raw);
      if (is_empty_or_rule(line)) continue;
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
  template <typename... Args>
  Status refuse(fmt::format_string<Args...> format, Args&&... args) const {
    return {StatusCode::kInvalidInput, "{}:{}: {}", source_, line_,
            fmt::format(format, std::forward<Args>(args)...)};
  }

  Status read_line(std::string_view line) {
    if (is_digit(line.front())) return read_call(line);
    if (line.starts_with("ZeroMQ Performance Log")) {
      if (has_title_) return refuse("a second log begins here: import one at a time");
      has_title_ = true;
      return {};
    }
    if (line == "SUMMARY" || line.starts_with("SUMMARY ")) {
      log_.summary.emplace().line = line_;
      return {};
    }
    if (line.starts_with("ID ") || line.starts_with("ID\t")) {
      if (std::ranges::equal(words_of(line, kColumns.size()), kColumns)) return {};
      return refuse("other columns than {}", fmt::join(kColumns, " "));
    }
    return refuse("'{}' is no line of such a log", printable(line));
  }

  Status read_call(std::string_view line) {
    const auto words = words_of(line, kColumns.size());
    if (words.size() != kColumns.size()) {
      return refuse("a call of {} columns, expected {}",
                    words.size() > kColumns.size() ? "more" : std::to_string(words.size()),
                    kColumns.size());
    }
    if (log_.calls.size() == kMaxLogCalls) return refuse("more than {} calls", kMaxLogCalls);
    LogCall call;
    call.line = line_;
    RETURN_IF_ERROR(read_id(words[0], call.id));
    const auto method = std::ranges::find(kMethods, words[1], &Method::second);
    if (method == std::ranges::end(kMethods)) {
      std::vector<std::string_view> names;
      for (const auto& [op, name] : kMethods) names.push_back(name);
      return refuse("unknown method '{}' (known: {})", printable(words[1]), fmt::join(names, ", "));
    }
    call.op = method->first;
    std::uint64_t comm_ns = 0;  // the four before it and what lies between them
    std::size_t column = 2;
    for (std::uint64_t* ns : {&call.serialise_ns, &call.send_ns, &call.receive_ns,
                              &call.deserialise_ns, &comm_ns, &call.gpu_ns, &call.total_ns}) {
      RETURN_IF_ERROR(
          read_number(words[column], kColumns[column], kMillisecondDigits, kMaxCallNs, *ns));
      ++column;
    }
    for (std::uint64_t* bytes : {&call.sent_bytes, &call.received_bytes}) {
      std::uint64_t millionths = 0;
      RETURN_IF_ERROR(read_number(words[column], kColumns[column], kKilobyteDigits,
                                  kMaxCallBytes / 1024 * 1'000'000, millionths));
      *bytes = (millionths * 16 + 7812) / 15625;  // * 1024 / 10^6, rounded
      ++column;
    }
    log_.calls.push_back(call);
    return {};
  }

  /// Ids count calls and begin again with each prefill.
  Status read_id(std::string_view word, std::uint64_t& id) const {
    const auto parsed = parse_decimal(word, 0);
    if (!parsed || *parsed == 0) return refuse("'{}' is no id of a call", printable(word));
    const std::uint64_t last = log_.calls.empty() ? 0 : log_.calls.back().id;
    id = *parsed;
    if (id == last + 1 || id == 1) return {};
    return refuse("call {} follows call {}: lines are missing", id, last);
  }

  Status read_number(std::string_view word, std::string_view name, std::size_t digits,
                     std::uint64_t most, std::uint64_t& value) const {
    const auto parsed = parse_decimal(word, digits);
    value = parsed.value_or(0);
    if (parsed && value <= most) return {};
    return refuse("{} is '{}', expected a decimal number from 0 {}", name, printable(word),
                  parsed ? "that is not as large" : "without sign or exponent");
  }

  /// A line behind "SUMMARY". A heading says what the "Total:" below it counts.
  Status read_summary(std::string_view line) {
    LogSummary& summary = *log_.summary;
    if (is_digit(line.front())) return refuse("a call behind the summary");
    if (line.starts_with("Total RPC Calls:")) {
      return read_number(trimmed(line.substr(line.find(':') + 1)), "Total RPC Calls", 0,
                         kMaxLogCalls, summary.calls.emplace());
    }
    if (line.starts_with("Total:")) return read_total(line.substr(6));
    // Means of what is in the lines above, and of times that the trace cannot hold.
    if (line.starts_with("Avg ") && line.ends_with(" ms")) return {};
    if (line.ends_with(':')) {
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
    }
    return refuse("'{}' is no line of a summary", printable(line));
  }

  /// " 0.8757 s (8.935 ms/call)"
  Status read_total(std::string_view text) {
    const auto words = words_of(text, 4);
    if (total_ == nullptr || total_->has_value()) return refuse("a total of nothing known");
    if (words.size() < 2 || words[1] != "s")
      return refuse("'{}' is no time in seconds", printable(trimmed(text)));
    return read_number(words[0], "Total", kSecondDigits, 30 * kMaxCallNs, total_->emplace());
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
  const auto method = std::ranges::find(kMethods, op, &Method::first);
  return method == std::ranges::end(kMethods) ? std::string_view() : method->second;
}

std::optional<std::uint64_t> parse_decimal(std::string_view text, std::size_t digits) {
  constexpr std::size_t kMaxWholeDigits = 9;
  const std::size_t point = std::min(text.find('.'), text.size());
  const std::string_view fraction = text.substr(std::min(point + 1, text.size()));
  if (point == 0 || point > kMaxWholeDigits || fraction.size() > digits || text.ends_with('.'))
    return std::nullopt;
  std::string number(text.substr(0, point));
  number.append(fraction).append(digits - fraction.size(), '0');
  if (!std::ranges::all_of(number, is_digit)) return std::nullopt;
  return std::stoull(number);  // of at most 18 digits: no caller asks for more than 9
}

Result<PrototypeLog> parse_prototype_log(std::string_view text, std::string_view source) {
  return Parser(source).parse(text);
}

}  // namespace airlock::trace
