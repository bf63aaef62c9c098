#include "runtime/trace/trace_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/support/read_trace.h"
#include "tests/support/temp_dir.h"
#include "tests/trace/golden_trace.h"

namespace airlock {
namespace {

using testing::HasSubstr;

std::string golden_path(const std::string& name) {
  return std::string(AIRLOCK_SOURCE_DIR) + "/tests/data/traces/" + name;
}

std::string text_of(const TraceHeader& header, const std::vector<TraceRecord>& records) {
  std::string text = encode_trace_line(header) + "\n";
  for (const TraceRecord& record : records) text += encode_trace_line(record) + "\n";
  return text;
}

void expect_read(const std::string& path, const TraceHeader& header,
                 const std::vector<TraceRecord>& records) {
  const auto trace = read_trace(path);
  ASSERT_TRUE(trace.ok()) << trace.status().to_string();
  EXPECT_TRUE(trace->header == header);
  EXPECT_TRUE(trace->records == records);
}

TEST(TraceLine, golden_file_with_every_field_is_written_and_read_byte_for_byte) {
  const std::string path = golden_path("golden-recorded.jsonl");
  EXPECT_EQ(text_of(golden_header(), golden_records()), read_all(path));
  expect_read(path, golden_header(), golden_records());
}

TEST(TraceLine, golden_file_of_a_cut_local_run_is_written_and_read_byte_for_byte) {
  const std::string path = golden_path("golden-cut.jsonl");
  EXPECT_EQ(text_of(golden_cut_header(), golden_cut_records()), read_all(path));
  expect_read(path, golden_cut_header(), golden_cut_records());
  EXPECT_NE(read_trace(path)->cut, "");
}

TEST(TraceLine, every_word_of_the_header_comes_back) {
  for (const TraceSource source :
       {TraceSource::kRecorded, TraceSource::kSynthesised, TraceSource::kImported}) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      TraceHeader header = golden_header();
      header.source = source;
      header.wire = header.dtype = dtype;
      header.attention = source == TraceSource::kRecorded ? "tee" : "offload";
      const auto read = decode_trace_header(encode_trace_line(header), "x");
      ASSERT_TRUE(read.ok()) << read.status().to_string();
      EXPECT_TRUE(*read == header);
    }
  }
}

TEST(TraceLine, every_weight_comes_back) {
  for (int kind = 1; kind <= 7; ++kind) {
    const auto weight = static_cast<WeightKind>(kind);
    const TensorDesc x{DType::kF32, {8, weight_shape(kGoldenDims, weight)[1]}};
    const TraceRecord record =
        make_record(linear_spec({{weight, 1}}, x, DType::kF32), 1, kGoldenDims, std::nullopt);
    const auto read = decode_trace_record(encode_trace_line(record), golden_cut_header(), "x");
    ASSERT_TRUE(read.ok()) << read.status().to_string();
    EXPECT_TRUE(*read == record);
  }
}

TEST(TraceLine, text_that_is_not_utf8_is_replaced_and_still_read) {
  TraceHeader header = golden_header();
  header.host.name = "box\xff\n\x01";
  const std::string line = encode_trace_line(header);
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 0);
  EXPECT_TRUE(decode_trace_header(line, "x").ok());
}

TEST(TraceLine, unknown_keys_are_ignored) {
  std::string line = encode_trace_line(golden_header());
  line.insert(1, R"("colour":{"of":["the",1]},)");
  const auto read = decode_trace_header(line, "x");
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_TRUE(*read == golden_header());
}

/// `line` with the first `from` replaced.
std::string with(std::string line, const std::string& from, const std::string& to) {
  const std::size_t at = line.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? line : line.replace(at, from.size(), to);
}

struct Damage {
  const char* from;
  const char* to;
  const char* message;
};

class HeaderDamage : public testing::TestWithParam<Damage> {};
TEST_P(HeaderDamage, is_refused_with_its_place_and_what_is_wrong) {
  const auto& [from, to, message] = GetParam();
  const auto read = decode_trace_header(with(encode_trace_line(golden_header()), from, to), "f:1");
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(read.status().message(), testing::StartsWith("f:1"));
  EXPECT_THAT(read.status().message(), HasSubstr(message));
  for (const char c : read.status().message()) EXPECT_GE(static_cast<unsigned char>(c), ' ');
}
INSTANTIATE_TEST_SUITE_P(
    TraceLine, HeaderDamage,
    testing::Values(
        Damage{R"("airlock_trace":1)", R"("airlock_trace":2)", "version 2, this program reads"},
        Damage{R"("airlock_trace":1)", R"("airlock_trace":"1")", "version"},
        Damage{R"("airlock_trace":1,)", "", "no trace"},
        Damage{R"({"airlock_trace")", R"([{"airlock_trace")", "not JSON"},
        Damage{R"("source":"recorded")", R"("source":"made up")", "'source' is \"made up\""},
        Damage{R"("source":"recorded",)", "", "'source' is missing"},
        Damage{R"("build":"airlock 0.1.0")", R"("build":17)", "'build' is 17"},
        Damage{R"("host":{)", R"("host":7,"old":{)", "is 7, expected an object"},
        Damage{R"("cores":2)", R"("cores":-2)", "'host.cores' is -2"},
        Damage{R"("cores":2)", R"("cores":2.5)", "'host.cores' is 2.5"},
        Damage{R"("hidden_size":64)", R"("hidden_size":0)", "hidden"},
        Damage{R"("hidden_size":64)", R"("hidden_size":9223372036854775807)",
               "'model.config.hidden_size' is"},
        Damage{R"("vocab_size":100)", R"("vocab_size":1099511627776)", "vocab"},
        Damage{R"("num_key_value_heads":2)", R"("num_key_value_heads":3)", "heads"},
        Damage{R"("tokens":8)", R"("tokens":-8)", "'tokens' is -8"},
        Damage{R"("tokens":8)", R"("tokens":131073)", "'tokens' is 131073"},
        Damage{R"("tokens":8)", R"("tokens":1e300)", "'tokens' is"},
        Damage{R"("tokens":8)", R"("tokens":8,"tokens":9)", "stands twice"},
        Damage{R"("runs":2)", R"("runs":18446744073709551615)", "'runs' is"},
        Damage{R"("wire":"bf16")", R"("wire":"int4")", "'wire' is \"int4\""},
        Damage{R"("wire":"bf16")", R"("wire":"int32")", "'wire' is no type that floats cross as"},
        Damage{R"("dtype":"fp16")", R"("dtype":"uint8")", "'dtype' is no float type"},
        Damage{R"("attention":"offload")", R"("attention":"both")",
               "expected one of: offload, tee"},
        Damage{R"("backend":"remote")", R"("backend":"")", "expected one of: remote, local"},
        Damage{R"("path_limit_bytes":1024)", R"("path_limit_bytes":67108865)",
               "'path_limit_bytes'"},
        Damage{R"("ring_slots":8)", R"("ring_slots":1025)", "'ring_slots' is 1025"},
        Damage{R"("digests":true)", R"("digests":1)", "'digests' is 1"},
        Damage{"golden.jsonl.safetensors", "a/b", "'payload' is \"a/b\", expected a file name"},
        Damage{"golden.jsonl.safetensors", "..", "expected a file name"},
        Damage{"golden.jsonl.safetensors", "", "expected a file name"},
        Damage{"golden.jsonl.safetensors", R"(a\u0000b)", "expected a file name"},
        Damage{R"("assumed":[])", R"("assumed":[1])", "'assumed.0' is 1, expected a text"},
        Damage{R"("assumed":[])", R"("assumed":{})", "'assumed' is"},
        Damage{R"("wall_ns":123456789)", R"("wall_ns":-1)", "'wall_ns' is -1"},
        Damage{R"("records":6)", R"("records":"6")", "'records' is"},
        Damage{R"("dropped":3)", R"("dropped":null)", "'dropped' is null"},
        Damage{R"("source":"recorded")", "\"source\":\"re\\u001b[2Jed\"", "'source' is"},
        Damage{"recorded", "re\x01rded", "not JSON"}));

class RecordDamage : public testing::TestWithParam<Damage> {};
TEST_P(RecordDamage, is_refused_with_its_place_and_what_is_wrong) {
  const auto& [from, to, message] = GetParam();
  const std::string line = with(encode_trace_line(golden_records()[1]), from, to);
  const auto read = decode_trace_record(line, golden_header(), "f:3");
  ASSERT_FALSE(read.ok()) << line;
  EXPECT_EQ(read.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(read.status().message(), testing::StartsWith("f:3"));
  EXPECT_THAT(read.status().message(), HasSubstr(message));
}
INSTANTIATE_TEST_SUITE_P(
    TraceLine, RecordDamage,
    testing::Values(
        Damage{R"("seq":1)", R"("seq":-1)", "'seq' is -1"},
        Damage{R"("seq":1,)", "", "'seq' is missing"},
        Damage{R"("run":0)", R"("run":99999999999999999999)", "'run' is"},
        Damage{R"("op":"batch_linear")", R"("op":"init")", "'op' is \"init\""},
        Damage{R"("op":"batch_linear")", R"("op":"matmul")", "'transpose' is missing"},
        Damage{R"("layer":1)", R"("layer":512)", "'layer' is 512"},
        Damage{R"([1,"q_proj"])", R"([1,"x_proj"])",
               "'weights.0.1' is \"x_proj\", expected one of: q_proj"},
        Damage{R"([1,"q_proj"])", R"(["q_proj",1])", "'weights.0.0' is \"q_proj\""},
        Damage{R"([1,"q_proj"])", R"([-1,"q_proj"])", "'weights.0.0' is -1"},
        Damage{R"([1,"q_proj"])", R"([2,"q_proj"])", "q_proj names layer 2, the model has 2"},
        Damage{R"([1,"q_proj"])", R"([1,"down_proj"])",
               "x has shape [8, 64], expected 128 columns"},
        Damage{R"("weights":[[1,"q_proj"],[1,"k_proj"],[1,"v_proj"]])", R"("weights":[])",
               "names 0 weights"},
        Damage{R"("dtype":"bf16")", R"("dtype":"bf17")", "'inputs.0.dtype' is \"bf17\""},
        Damage{R"("shape":[8,64])", R"("shape":[8,-64])", "'inputs.0.shape.1' is -64"},
        Damage{R"("shape":[8,64])", R"("shape":[8,64,1,1,1])", "'inputs.0.shape' is"},
        Damage{R"("shape":[8,64])", R"("shape":[4294967296,4294967296])",
               "'inputs.0.shape' is of a tensor"},
        Damage{R"("shape":[8,64],"bytes":1024)", R"("shape":[16,32],"bytes":1024)",
               "x has shape [16, 32]"},
        Damage{R"("bytes":1024)", R"("bytes":1023)", "'inputs.0.bytes' is not 1024"},
        Damage{R"("path":"zmq")", R"("path":"pigeon")", "'inputs.0.path' is \"pigeon\""},
        Damage{R"("path":"zmq",)", "", "'inputs.0.path' is missing"},
        Damage{"000a\"", "000A\"", "'inputs.0.sha256' is not 64 hex digits"},
        Damage{"000a\"", "00a\"", "'inputs.0.sha256' is not 64 hex digits"},
        Damage{"000a\"", "000a0\"", "'inputs.0.sha256' is not 64 hex digits"},
        Damage{R"("sha256":)", R"("sha512":)", "'inputs.0.sha256' is missing"},
        Damage{R"("slots":2)", R"("slots":1025)", "'slots' is 1025"},
        Damage{R"("start_ns":1000)", R"("start_ns":9000000000000000000)", "'start_ns' is"},
        Damage{R"("total_ns":432)", R"("total_ns":433)", "'total_ns' is 433, its parts make 432"},
        Damage{R"("wire_ns":20)", R"("wire_ns":true)", "'wire_ns' is"},
        Damage{R"("outputs":[{)", R"("outputs":[],"old":[{)", "0 outputs, the op has 3"},
        Damage{R"("inputs":[{)", R"("inputs":[7,{)", "is 7, expected an object"},
        Damage{R"("inputs":[{)", R"("inputs":null,"old":[{)", "'inputs' is null"},
        Damage{R"({"seq")", R"("seq")", "not JSON"}));

TEST(TraceLine, integer_ops_come_back_and_have_planes) {
  for (const OpSpec& spec :
       {int_linear_spec({{WeightKind::kGate, 1}, {WeightKind::kUp, 1}}, 2, 5, kGoldenDims),
        int_linear_spec({}, 1, 2, kGoldenDims), pad_linear_spec({{WeightKind::kO, 0}}, 1, 3)}) {
    const TraceRecord record = make_record(spec, std::nullopt, kGoldenDims, std::nullopt);
    EXPECT_EQ(record.spec(), spec);
    const std::string line = encode_trace_line(record);
    const auto read = decode_trace_record(line, golden_cut_header(), "x");
    ASSERT_TRUE(read.ok()) << read.status().to_string();
    EXPECT_TRUE(*read == record);
    const std::string planes = "\"planes\":" + std::to_string(spec.planes);
    const auto refused =
        decode_trace_record(with(line, planes, "\"planes\":3"), golden_cut_header(), "x");
    ASSERT_FALSE(refused.ok());
    EXPECT_THAT(refused.status().message(), HasSubstr("'planes' is 3"));
  }
  EXPECT_EQ(encode_trace_line(golden_records()[1]).find("planes"), std::string::npos);
}

TEST(TraceLine, a_pad_linear_has_no_digests_where_the_trace_has) {
  ASSERT_TRUE(golden_header().digests);
  const TraceRecord pads = make_record(pad_linear_spec({{WeightKind::kO, 0}}, 1, 3), std::nullopt,
                                       kGoldenDims, std::nullopt);
  const auto read = decode_trace_record(encode_trace_line(pads), golden_header(), "x");
  ASSERT_TRUE(read.ok()) << read.status().to_string();
  EXPECT_TRUE(*read == pads);
  const TraceRecord words =
      make_record(int_linear_spec({}, 1, 2, kGoldenDims), std::nullopt, kGoldenDims, std::nullopt);
  const auto without = decode_trace_record(encode_trace_line(words), golden_header(), "x");
  ASSERT_FALSE(without.ok());
  EXPECT_THAT(without.status().message(), HasSubstr("sha256"));
}

TEST(TraceLine, outputs_that_the_op_does_not_give_are_refused) {
  TraceRecord record = golden_records()[5];
  record.outputs[0].desc.shape = Shape{1, 99};
  const auto read = decode_trace_record(encode_trace_line(record), golden_header(), "f:7");
  ASSERT_FALSE(read.ok());
  EXPECT_THAT(read.status().message(), HasSubstr("output 0 is fp32 [1, 99], the op gives fp32"));
}

TEST(TraceLine, deep_nesting_is_refused) {
  const std::string deep = std::string(1000, '[') + std::string(1000, ']');
  EXPECT_FALSE(decode_trace_header(deep, "x").ok());
  const std::string line = with(encode_trace_line(golden_header()), "[]", deep);
  EXPECT_FALSE(decode_trace_header(line, "x").ok());
}

TEST(TraceLine, no_value_and_an_array_and_a_number_are_no_trace) {
  for (const char* line : {"", " ", "[]", "1", "null", "\"airlock_trace\"", "{}"}) {
    EXPECT_FALSE(decode_trace_header(line, "x").ok()) << line;
    EXPECT_FALSE(decode_trace_record(line, golden_header(), "x").ok()) << line;
  }
}

}  // namespace
}  // namespace airlock
