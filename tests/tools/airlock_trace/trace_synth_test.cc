// Traces from a shape alone: op counts and bytes against figures worked out by hand.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include "tests/model/temp_model.h"
#include "tests/tools/airlock_trace/trace_rig.h"
#include "tools/airlock_trace/show.h"
#include "tools/airlock_trace/synth.h"

namespace airlock::trace {
namespace {

using airlock::test::TempFolder;
using test::data_path;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

Options synth_options(const std::string& config, std::int64_t tokens, const std::string& output) {
  Options options;
  options.config = data_path("configs/" + config);
  options.tokens = tokens;
  options.output = output;
  return options;
}

Trace synthesised(const Options& options) {
  const Status status = synthesise(options, OutputFile::open(options.output).value());
  EXPECT_TRUE(status.ok()) << status.message();
  auto trace = read_trace(options.output);
  EXPECT_TRUE(trace.ok()) << trace.status().message();
  return trace.ok() ? *trace : Trace();
}

struct Expected {
  const char* config;
  std::int64_t tokens;
  std::uint64_t ops;
  std::uint64_t score_bytes;
  std::uint64_t zmq_bytes;
};

class SynthConfig : public testing::TestWithParam<Expected> {};

TEST_P(SynthConfig, has_the_ops_and_bytes_of_its_shape) {
  const TempFolder folder;
  const Trace trace =
      synthesised(synth_options(GetParam().config, GetParam().tokens, folder.path("t.jsonl")));
  EXPECT_EQ(trace.header.source, TraceSource::kSynthesised);
  EXPECT_EQ(trace.header.wire, DType::kBF16);
  EXPECT_EQ(trace.header.tokens, GetParam().tokens);
  EXPECT_EQ(trace.header.records, GetParam().ops);
  ASSERT_EQ(trace.records.size(), GetParam().ops);
  EXPECT_TRUE(trace.cut.empty());
  EXPECT_EQ(trace.records[2].output_bytes(), GetParam().score_bytes);
  const auto summary = summarise_trace(folder.path("t.jsonl"));
  ASSERT_TRUE(summary.ok());
  const auto bytes_of = [&](Path path) {
    return summary->paths[path].sent.bytes + summary->paths[path].received.bytes;
  };
  EXPECT_EQ(bytes_of(Path::kZmq), GetParam().zmq_bytes);
  EXPECT_EQ(bytes_of(Path::kRing), summary->all.bytes() - GetParam().zmq_bytes);
  EXPECT_EQ(summary->all.times.total_ns, 0U);
}

// A layer has two ops of attention and four of weights. At 1024 tokens what goes by ZeroMQ is, each
// layer: scores back and to the server, gate and up back, and down's input.
INSTANTIATE_TEST_SUITE_P(
    Shapes, SynthConfig,
    testing::Values(
        Expected{"llama-3.2-1b.json", 128, 16 * 6 + 2, kMiB, 0},
        Expected{"llama-3.2-1b.json", 1024, 16 * 6 + 2, 67108864, 16 * (2 * 64 + 3 * 16) * kMiB},
        Expected{"llama-3.2-3b.json", 128, 28 * 6 + 2, kMiB * 3 / 4, 0},
        Expected{"llama-3.2-3b.json", 1024, 28 * 6 + 2, 48 * kMiB, 28 * (2 * 48 + 3 * 16) * kMiB},
        Expected{"llama-3.1-8b.json", 128, 32 * 6 + 2, kMiB, 0},
        Expected{"llama-3.1-8b.json", 1024, 32 * 6 + 2, 64 * kMiB, 32 * (2 * 64 + 3 * 28) * kMiB}));

TEST(Synth, sends_the_scores_of_1024_tokens_by_zmq_and_their_operands_by_the_ring) {
  const TempFolder folder;
  const Trace trace = synthesised(synth_options("llama-3.2-1b.json", 1024, folder.path("t.jsonl")));
  const TraceRecord& scores = trace.records.at(2);
  EXPECT_EQ(scores.op, Op::kMatmul);
  EXPECT_EQ(scores.outputs[0].path, Path::kZmq);
  EXPECT_EQ(scores.inputs[0].path, Path::kRing);
  EXPECT_EQ(scores.inputs[1].path, Path::kRing);
}

TEST(Synth, leaves_attention_to_the_tee_and_repeats_runs) {
  const TempFolder folder;
  Options options = synth_options("llama-3.2-1b.json", 128, folder.path("t.jsonl"));
  options.attention = Attention::kTee;
  options.runs = 3;
  options.wire = DType::kF32;
  const Trace trace = synthesised(options);
  ASSERT_EQ(trace.records.size(), 3U * (16 * 4 + 2));
  EXPECT_EQ(trace.header.attention, "tee");
  EXPECT_EQ(trace.header.wire, DType::kF32);
  for (std::size_t i = 0; i < trace.records.size(); ++i) {
    EXPECT_EQ(trace.records[i].seq, i);
    EXPECT_EQ(trace.records[i].run, i / 66);
    EXPECT_NE(trace.records[i].op, Op::kMatmul);
  }
}

TEST(Synth, leaves_attention_to_the_tee_where_int8_crosses) {
  const TempFolder folder;
  Options options = synth_options("llama-3.2-1b.json", 128, folder.path("t.jsonl"));
  options.wire = DType::kI8;
  const Trace trace = synthesised(options);
  EXPECT_EQ(trace.header.attention, "tee");
  EXPECT_EQ(trace.header.wire, DType::kI8);
  ASSERT_EQ(trace.records.size(), 16U * 4 + 2);
  EXPECT_EQ(trace.records[1].inputs[0].desc, (TensorDesc{DType::kI8, {128, 2048 + 64 * 2}}));
  EXPECT_EQ(trace.records[1].outputs[1].desc, (TensorDesc{DType::kI8, {128, 512 + 16 * 2}}));
}

TEST(Synth, decodes_one_row_a_token_behind_the_prompt) {
  const TempFolder folder;
  Options options = synth_options("llama-3.2-1b.json", 128, folder.path("t.jsonl"));
  options.decode = 4;
  options.runs = 2;
  const Trace trace = synthesised(options);
  ASSERT_EQ(trace.records.size(), 2U * 4 * (16 * 4 + 2));
  EXPECT_EQ(trace.header.attention, "tee");
  EXPECT_EQ(trace.header.tokens, 128);
  for (std::size_t i = 0; i < trace.records.size(); ++i) {
    EXPECT_EQ(trace.records[i].run, i / (4 * 66));
    if (trace.records[i].op != Op::kEmbedding) continue;
    EXPECT_EQ(trace.records[i].inputs[0].desc.shape[0], i % (4 * 66) == 0 ? 128 : 1);
  }
}

TEST(Synth, gives_everything_to_zmq_without_a_ring) {
  const TempFolder folder;
  Options options = synth_options("tiny.json", 16, folder.path("t.jsonl"));
  options.policy = {};
  synthesised(options);
  const auto summary = summarise_trace(folder.path("t.jsonl"));
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(tensors_of(summary->paths[Path::kRing]), 0U);
  EXPECT_EQ(summary->header.path_limit_bytes, 0U);
}

TEST(Synth, asks_for_the_logits_of_every_token_where_they_are_wanted) {
  const TempFolder folder;
  Options options = synth_options("tiny.json", 16, folder.path("t.jsonl"));
  EXPECT_EQ(synthesised(options).records.back().outputs[0].desc.shape, (Shape{1, 512}));
  options.logits = Logits::kAll;
  EXPECT_EQ(synthesised(options).records.back().outputs[0].desc.shape, (Shape{16, 512}));
}

TEST(Synth, that_fails_leaves_the_file_that_was_there) {
  ::signal(SIGXFSZ, SIG_IGN);
  const TempFolder folder;
  const Options options = synth_options("llama-3.2-1b.json", 128, folder.path("t.jsonl"));
  const Trace before = synthesised(options);
  rlimit unlimited{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &unlimited), 0);
  rlimit small = unlimited;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  Options longer = options;
  longer.runs = 2;
  const Status status = synthesise(longer, OutputFile::open(longer.output).value());
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &unlimited), 0);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.message();
  const auto after = read_trace(options.output);
  ASSERT_TRUE(after.ok());
  EXPECT_TRUE(after->header == before.header && after->records == before.records);
}

}  // namespace
}  // namespace airlock::trace
