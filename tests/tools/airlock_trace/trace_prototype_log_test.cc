// The prototype's log line by line: what is taken and what is refused, with its place.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tools/airlock_trace/prototype_log.h"

namespace airlock::trace {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

const std::string kTop =
    "ZeroMQ Performance Log - Transport: IPC+SHM\n"
    "=====\n"
    "ID Method Ser(ms) Send(ms) Recv(ms) Deser(ms) Comm(ms) GPU(ms) Total(ms) Sent(KB) Recv(KB)\n";
const std::string kCall =
    "1 Embedding 0.010 0.015 60.580 0.026 60.645 0.000 60.645 0.07 65536.10\n";
const std::string kSummary = "SUMMARY (Ours)\nTotal RPC Calls: 98\nPrefill Wall-Clock Time:\n";

TEST(PrototypeLog, reads_a_call) {
  const auto log = parse_prototype_log(kTop + kCall, "x.log");
  ASSERT_TRUE(log.ok()) << log.status().message();
  ASSERT_EQ(log->calls.size(), 1U);
  const LogCall& call = log->calls[0];
  EXPECT_EQ(call.line, 4U);
  EXPECT_EQ(call.id, 1U);
  EXPECT_EQ(call.op, Op::kEmbedding);
  EXPECT_EQ(call.serialise_ns, 10'000U);
  EXPECT_EQ(call.send_ns, 15'000U);
  EXPECT_EQ(call.receive_ns, 60'580'000U);
  EXPECT_EQ(call.deserialise_ns, 26'000U);
  EXPECT_EQ(call.gpu_ns, 0U);
  EXPECT_EQ(call.total_ns, 60'645'000U);
  EXPECT_EQ(call.sent_bytes, 72U);
  EXPECT_EQ(call.received_bytes, 67108966U);
  EXPECT_FALSE(log->summary.has_value());
  EXPECT_TRUE(log->cut.empty());
}

TEST(PrototypeLog, reads_a_summary) {
  const auto log = parse_prototype_log(
      kTop + kCall + kSummary +
          "  Total: 10.3433 s\n\nCommunication Time:\n  Total: 0.8757 s (8.935 ms/call)\n"
          "GPU Computation Time:\n  Total: 0.0438 s (0.447 ms/call)\n"
          "TEE Computation Time (Prefill - GPU - Comm):\n  Total: 9.4238 s (96.161 ms/call)\n"
          "Operation Statistics:\n  Linear (count=112):\n    Avg Total: 81.057 ms\n=====\n",
      "x.log");
  ASSERT_TRUE(log.ok()) << log.status().message();
  ASSERT_TRUE(log->summary.has_value());
  EXPECT_EQ(log->summary->line, 5U);
  EXPECT_EQ(log->summary->calls, 98U);
  EXPECT_EQ(log->summary->wall_ns, 10'343'300'000U);
  EXPECT_EQ(log->summary->comm_ns, 875'700'000U);
}

TEST(PrototypeLog, takes_lines_that_end_in_cr_lf) {
  std::string text = kTop + kCall;
  for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 2) {
    text.replace(at, 1, "\r\n");
  }
  const auto log = parse_prototype_log(text, "x.log");
  ASSERT_TRUE(log.ok()) << log.status().message();
  EXPECT_EQ(log->calls.size(), 1U);
}

TEST(PrototypeLog, leaves_out_a_last_line_without_an_end) {
  const std::string text = kTop + kCall + "2 BatchLinear 0.019 0.033 285.131 0.022 285.2";
  const auto log = parse_prototype_log(text, "x.log");
  ASSERT_TRUE(log.ok()) << log.status().message();
  EXPECT_EQ(log->calls.size(), 1U);
  EXPECT_THAT(log->cut, StartsWith("x.log:5:"));
}

TEST(PrototypeLog, takes_ids_that_begin_again_with_a_prefill) {
  const auto log = parse_prototype_log(kCall + kCall, "x.log");
  ASSERT_TRUE(log.ok()) << log.status().message();
  EXPECT_EQ(log->calls.size(), 2U);
}

struct Refused {
  const char* name;
  std::string text;
  const char* place;
  const char* says;
};

class MalformedLog : public testing::TestWithParam<Refused> {};

TEST_P(MalformedLog, is_refused_with_its_place) {
  const auto log = parse_prototype_log(GetParam().text, "x.log");
  ASSERT_FALSE(log.ok());
  EXPECT_EQ(log.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(log.status().message(), StartsWith(GetParam().place));
  EXPECT_THAT(log.status().message(), HasSubstr(GetParam().says));
}

std::string call_with(const std::string& from, const std::string& to) {
  std::string line = kCall;
  return line.replace(line.find(from), from.size(), to);
}

std::string call_of_id(std::string_view id) {
  std::string line = kCall;
  return line.replace(0, 1, id);
}

INSTANTIATE_TEST_SUITE_P(
    Lines, MalformedLog,
    testing::Values(
        Refused{"empty", "", "x.log: ", "no log of the prototype"},
        Refused{"blank", "\n\n", "x.log: ", "no log of the prototype"},
        Refused{"text", "hello\n", "x.log:1:", "'hello' is no line of such a log"},
        Refused{"control", "\x1b[2J\n", "x.log:1:", "is no line"},
        Refused{"zero_byte", std::string("1 Emb\0dding 0 0 0 0 0 0 0 0 0\n", 31),
                "x.log:1:", "unknown method"},
        Refused{"binary", "\xff\xfe\n", "x.log:1:", "is no line"},
        Refused{"columns", "ID Method Ser(ms)\n", "x.log:1:", "other columns"},
        Refused{"second_title", kTop + kTop, "x.log:4:", "a second log"},
        Refused{"too_few", kTop + "1 Embedding 0.1\n", "x.log:4:", "3 columns"},
        Refused{"too_many", kTop + call_with("\n", " 1\n"), "x.log:4:", "more columns"},
        Refused{"method", call_with("Embedding", "Softmax"),
                "x.log:1:", "unknown method 'Softmax' (known: Init"},
        Refused{"long_method", call_with("Embedding", std::string(300, 'a')),
                "x.log:1:", "unknown method"},
        Refused{"nan", call_with("0.026", "nan"), "x.log:1:", "Deser(ms) is 'nan'"},
        Refused{"inf", call_with("60.580", "inf"), "x.log:1:", "Recv(ms) is 'inf'"},
        Refused{"negative", call_with("0.015", "-0.015"), "x.log:1:", "Send(ms) is '-0.015'"},
        Refused{"plus", call_with("0.015", "+0.015"), "x.log:1:", "Send(ms)"},
        Refused{"exponent", call_with("0.015", "1e3"), "x.log:1:", "Send(ms)"},
        Refused{"hex", call_with("0.015", "0x1"), "x.log:1:", "Send(ms)"},
        Refused{"two_points", call_with("0.015", "0.0.15"), "x.log:1:", "Send(ms)"},
        Refused{"point_alone", call_with("0.015", "."), "x.log:1:", "Send(ms)"},
        Refused{"no_fraction", call_with("0.015", "1."), "x.log:1:", "Send(ms)"},
        Refused{"fine", call_with("0.015", "0.0000001"), "x.log:1:", "Send(ms)"},
        Refused{"huge", call_with("0.015", "99999999999999999999"), "x.log:1:", "Send(ms)"},
        Refused{"over_a_day", call_with("60.645 0.000", "60.645 999999999"),
                "x.log:1:", "that is not as large"},
        Refused{"bytes", call_with("65536.10", "999999999"), "x.log:1:", "Recv(KB)"},
        Refused{"id_zero", call_of_id("0"), "x.log:1:", "'0' is no id"},
        Refused{"id_text", call_of_id("1x"), "x.log:1:", "'1x' is no id"},
        Refused{"id_gap", kCall + call_of_id("3"), "x.log:2:", "call 3 follows call 1"},
        Refused{"call_after_summary", kTop + kSummary + kCall, "x.log:7:", "behind the summary"},
        Refused{"summary_line", kSummary + "Moon phase: full\n",
                "x.log:4:", "no line of a summary"},
        Refused{"summary_heading", kSummary + "Moon phase:\n", "x.log:4:", "no line of a summary"},
        Refused{"summary_calls", "SUMMARY\nTotal RPC Calls: many\n",
                "x.log:2:", "Total RPC Calls is 'many'"},
        Refused{"summary_negative", kSummary + "Total: -1 s\n", "x.log:4:", "Total is '-1'"},
        Refused{"summary_unit", kSummary + "Total: 3 h\n", "x.log:4:", "no time in seconds"},
        Refused{"summary_twice", kSummary + "Total: 3 s\nTotal: 4 s\n",
                "x.log:5:", "nothing known"},
        Refused{"summary_total_of_nothing", "SUMMARY\nTotal: 3 s\n", "x.log:2:", "nothing known"},
        Refused{"long_line", std::string(kMaxLogLineBytes + 1, '=') + "\n",
                "x.log:1:", "a line over 65536 bytes"}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(PrototypeLog, bounds_the_number_of_calls) {
  std::string text;
  for (std::size_t i = 0; i <= kMaxLogCalls; ++i) text += "1 Init 0 0 0 0 0 0 0 0 0\n";
  const auto log = parse_prototype_log(text, "x.log");
  ASSERT_FALSE(log.ok());
  EXPECT_THAT(log.status().message(), HasSubstr("more than 131072 calls"));
}

TEST(ParseDecimal, is_exact) {
  EXPECT_EQ(parse_decimal("12.345", 3), 12345U);
  EXPECT_EQ(parse_decimal("12.3", 3), 12300U);
  EXPECT_EQ(parse_decimal("12", 3), 12000U);
  EXPECT_EQ(parse_decimal("999999999.999999999", 9), 999999999999999999U);
  EXPECT_EQ(parse_decimal("1234567890", 0), std::nullopt);
  EXPECT_EQ(parse_decimal("", 3), std::nullopt);
  EXPECT_EQ(parse_decimal(".5", 3), std::nullopt);
}

}  // namespace
}  // namespace airlock::trace
