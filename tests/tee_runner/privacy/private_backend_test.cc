#include "tee_runner/privacy/private_backend.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/tee_runner/privacy/private_rig.h"

namespace airlock {
namespace {

using testing::floats;
using testing::MemoryModel;
using testing::mode_of;
using testing::PrivateRig;

const std::vector<std::int32_t> kPrompt = {3, 141, 59, 26, 499, 0, 35, 89, 79};
constexpr PrivacyMode kModes[] = {PrivacyMode::kTeeOnly, PrivacyMode::kVerify, PrivacyMode::kOtp,
                                  PrivacyMode::kOtpVerify, PrivacyMode::kOtpDealer};

/// A prompt and three more tokens, one at a time: all logits.
std::vector<float> answer(LlamaDriver& driver) {
  KvCache cache = driver.make_cache(32).value();
  std::vector<float> all = floats(driver.forward(kPrompt, cache, Logits::kAll).value());
  for (const std::int32_t token : {7, 11, 13}) {
    const std::vector<float> step =
        floats(driver.forward(std::vector{token}, cache, Logits::kLast).value());
    all.insert(all.end(), step.begin(), step.end());
  }
  return all;
}

class EachInt8 : public ::testing::TestWithParam<Int8Weights> {};

TEST_P(EachInt8, every_mode_gives_the_same_bits_whatever_the_pads) {
  const MemoryModel source;
  std::vector<float> expected;
  for (const PrivacyMode mode : kModes) {
    for (const std::size_t threads : {1, 3}) {
      PrivateRig rig(source, mode_of(mode, GetParam()), threads);
      const std::vector<float> got = answer(*rig.driver);
      if (expected.empty()) expected = got;
      EXPECT_EQ(got, expected) << name_of(mode) << ", " << threads << " threads";
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Weights, EachInt8,
                         ::testing::Values(Int8Weights::kW8, Int8Weights::kW16, Int8Weights::kAuto),
                         [](const auto& choice) { return std::string(name_of(choice.param)); });

TEST(PrivateBackend, sequences_in_company_have_the_bits_that_they_have_alone) {
  const MemoryModel source;
  const auto memory = CacheMemory::create(source.config().dims, DType::kF32, 1 << 24).value();
  PrivateRig rig(source, mode_of(PrivacyMode::kOtpVerify));
  const std::vector<std::int32_t> prompts[] = {{1, 2, 3, 4, 5}, {400, 300}, {17}};
  std::vector<std::vector<float>> alone;
  for (const auto& prompt : prompts) {
    SequenceCache cache(memory);
    ASSERT_TRUE(cache.promise(8).ok());
    const std::vector<SequencePass> pass = {{prompt, &cache, true}};
    alone.push_back(floats(rig.driver->forward(pass).value()));
  }
  std::vector<SequenceCache> caches;
  caches.reserve(std::size(prompts));
  std::vector<SequencePass> together;
  for (const auto& prompt : prompts) {
    ASSERT_TRUE(caches.emplace_back(memory).promise(8).ok());
    together.push_back({prompt, &caches.back(), true});
  }
  const std::vector<float> all = floats(rig.driver->forward(together).value());
  std::vector<float> expected;
  for (const auto& one : alone) expected.insert(expected.end(), one.begin(), one.end());
  EXPECT_EQ(all, expected);
}

TEST(PrivateBackend, integers_are_near_the_floats) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtpVerify, Int8Weights::kW16));
  const std::vector<float> got = answer(*rig.driver);
  const auto plain = CpuModel::create(source, {DType::kF32, 1, {}}).value();
  LocalBackend backend(plain->make_compute());
  TeeStatsTable tee;
  const auto driver =
      LlamaDriver::create(source.config(), read_norms(source).value(),
                          {.attention = Attention::kTee, .logits = Logits::kAll}, backend, tee)
          .value();
  const std::vector<float> expected = answer(*driver);
  double worst = 0;
  double largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max<double>(worst, std::abs(got[i] - expected[i]));
    largest = std::max<double>(largest, std::abs(expected[i]));
  }
  // Activations have 10 bits and more, weights 16.
  EXPECT_LT(worst, largest * 0.01);
}

TEST(PrivateBackend, nothing_but_integer_linears_crosses) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtpVerify));
  (void)answer(*rig.driver);
  // Four passes: four linears of each of two layers, and lm_head.
  EXPECT_EQ(rig.worker->crossed.size(), 4U * (2 * 4 + 1));
  for (const auto& op : rig.worker->crossed) EXPECT_EQ(op.spec.op, Op::kIntLinear);
}

TEST(PrivateBackend, rows_are_filled_up_with_rows_that_look_like_others) {
  const MemoryModel source;
  PrivacyOptions options = mode_of(PrivacyMode::kOtpVerify);
  options.pad_tokens = {4, 16};
  options.decode_rows = 4;
  PrivateRig rig(source, options);
  PrivateRig plain(source, mode_of(PrivacyMode::kTeeOnly));
  EXPECT_EQ(answer(*rig.driver), answer(*plain.driver));
  std::set<std::vector<std::uint32_t>> rows;
  std::size_t count = 0;
  for (const auto& op : rig.worker->crossed) {
    const Shape& shape = op.spec.inputs[0].shape;
    // lm_head by the rows of a step alone: 9 rows of the prompt's logits, 1 of each step's.
    if (linear_of(op.spec) == Linear::kLmHead) {
      EXPECT_THAT(shape[0], ::testing::AnyOf(4, 9));
    } else {
      EXPECT_THAT(shape[0], ::testing::AnyOf(4, 16));
    }
    const auto columns = static_cast<std::size_t>(shape[1]);
    for (std::size_t at = 0; at < op.inputs[0].size(); at += columns, ++count) {
      const auto begin = op.inputs[0].begin() + static_cast<std::ptrdiff_t>(at);
      rows.emplace(begin, begin + static_cast<std::ptrdiff_t>(columns));
      // No word is small more often than chance has it: 8 of 96 words of 32 bits below 2^16 have a
      // chance of 1e-29.
      EXPECT_LT(std::count_if(begin, begin + static_cast<std::ptrdiff_t>(columns),
                              [](std::uint32_t word) { return word < 0x10000U; }),
                8);
    }
  }
  EXPECT_EQ(rows.size(), count) << "two rows are equal";
}

TEST(PrivateBackend, no_pad_hides_two_rows) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  (void)answer(*rig.driver);
  (void)answer(*rig.driver);
  // The same prompt twice, the same integers: their words on the wire have nothing in common.
  const auto& crossed = rig.worker->crossed;
  const std::size_t half = crossed.size() / 2;
  for (std::size_t op = 0; op < half; ++op) {
    ASSERT_EQ(crossed[op].spec, crossed[op + half].spec);
    const auto& first = crossed[op].inputs[0];
    const auto& second = crossed[op + half].inputs[0];
    std::size_t equal = 0;
    for (std::size_t i = 0; i < first.size(); ++i) equal += first[i] == second[i] ? 1 : 0;
    EXPECT_LE(equal, 2U);
  }
  const std::uint64_t rows = (4 * 2) * (kPrompt.size() + 3) + (kPrompt.size() + 3);
  EXPECT_EQ(rig.stats.pads_used.load(), 2 * rows);
}

/// A change that must not go unseen. `row_words`: of the first result.
struct Lie {
  std::string_view name;
  std::function<void(std::vector<std::uint32_t>& answer, std::size_t row_words)> tell;
};

constexpr std::string_view kBitLie = "a bit";

std::vector<Lie> lies() {
  std::vector<Lie> all = {
      {"one more", [](auto& answer, std::size_t) { ++answer[0]; }},
      {"one less, at the end", [](auto& answer, std::size_t) { --answer.back(); }},
      {"2^31 - 1 more", [](auto& answer, std::size_t) { answer[1] += 0x7fffffffU; }},
      {"rows swapped",
       [](auto& answer, std::size_t words) {
         std::swap_ranges(answer.begin(), answer.begin() + static_cast<std::ptrdiff_t>(words),
                          answer.begin() + static_cast<std::ptrdiff_t>(words));
       }},
      {"two elements swapped", [](auto& answer, std::size_t) { std::swap(answer[0], answer[1]); }},
      {"nothing but zeros", [](auto& answer, std::size_t) { std::ranges::fill(answer, 0U); }},
  };
  for (unsigned bit = 0; bit < 32; ++bit) {
    all.push_back({kBitLie, [bit](auto& answer, std::size_t) { answer[2] ^= 1U << bit; }});
  }
  return all;
}

/// What it said, the same wherever it was.
void expect_caught(PrivateRig& rig, std::string_view what) {
  KvCache cache = rig.driver->make_cache(32).value();
  const auto logits = rig.driver->forward(kPrompt, cache, Logits::kAll);
  ASSERT_FALSE(logits.ok()) << what;
  EXPECT_EQ(logits.status().code(), StatusCode::kMismatch) << what;
  EXPECT_EQ(cache.length(), 0) << what;
  EXPECT_EQ(rig.stats.failures.load(), 1U) << what;
  static std::string said;
  if (said.empty()) said = logits.status().message();
  EXPECT_EQ(logits.status().message(), said) << what;
  const std::size_t asked = rig.worker->crossed.size();
  EXPECT_EQ(rig.driver->forward(kPrompt, cache, Logits::kAll).status().code(),
            StatusCode::kMismatch)
      << what;
  EXPECT_EQ(rig.worker->crossed.size(), asked) << "asked again after a failed check";
}

TEST(PrivateBackend, a_worker_that_lies_is_stopped_within_the_op) {
  const MemoryModel source;
  for (const PrivacyMode mode : {PrivacyMode::kVerify, PrivacyMode::kOtpVerify}) {
    for (const Lie& lie : lies()) {
      const bool is_bit = lie.name == kBitLie;
      for (const std::size_t at : {0, 2, 8}) {  // qkv of layer 0, gate_up, lm_head
        if (is_bit && at != 2) continue;
        PrivateRig rig(source, mode_of(mode));
        rig.worker->lie = [&](std::size_t op, auto& answers) {
          if (op == at) lie.tell(answers.back(), answers.back().size() / kPrompt.size());
        };
        expect_caught(rig, lie.name);
        EXPECT_EQ(rig.worker->crossed.size(), at + 1) << lie.name;
      }
    }
  }
}

TEST(PrivateBackend, an_op_that_passes_does_not_undo_one_that_failed) {
  const MemoryModel source;
  const ModelDims& dims = source.config().dims;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtpVerify));
  rig.worker->lie = [](std::size_t op, auto& answers) { answers[0][0] += op == 0 ? 1 : 0; };
  const Deadline soon = Deadline::after(std::chrono::seconds(60));
  ASSERT_TRUE(rig.backend->prepare(embedding_spec(1, DType::kF32), soon).ok());
  const auto ask = [&] {
    auto op = rig.backend->prepare(lm_head_spec({DType::kF32, {1, dims.hidden}}), soon).value();
    std::ranges::fill(op->input(0).as<float>(), 1.0F);
    EXPECT_TRUE(op->submit().ok());
    return op;
  };
  // Both are under way when the first one fails.
  const auto lied = ask();
  const auto honest = ask();
  EXPECT_EQ(lied->wait().code(), StatusCode::kMismatch);
  EXPECT_EQ(honest->wait().code(), StatusCode::kMismatch);
  EXPECT_EQ(rig.backend->prepare(embedding_spec(1, DType::kF32), soon).status().code(),
            StatusCode::kMismatch);
  EXPECT_EQ(rig.stats.failures.load(), 1U);
}

TEST(PrivateBackend, the_right_answer_to_another_request_is_no_answer) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtpVerify));
  std::vector<std::vector<std::uint32_t>> before;
  KvCache cache = rig.driver->make_cache(64).value();
  // That of the same op, in the pass before.
  rig.worker->lie = [&](std::size_t op, auto& answers) {
    if (op == 3) before = answers;
    if (op == 9 + 3) answers = before;
  };
  ASSERT_TRUE(rig.driver->forward(kPrompt, cache, Logits::kLast).ok());
  EXPECT_EQ(rig.driver->forward(kPrompt, cache, Logits::kLast).status().code(),
            StatusCode::kMismatch);
}

TEST(PrivateBackend, a_dealer_that_lies_is_stopped_within_the_op) {
  const MemoryModel source;
  for (const Lie& lie : lies()) {
    PrivateRig rig(source, mode_of(PrivacyMode::kOtpDealer));
    rig.products->lie = [&](std::size_t op, auto& answers) {
      if (op != 1) return;
      // Some of the rows are for passes to come: the lie is among the others.
      const std::size_t rows = rig.products->crossed[op].inputs[0].size() / 2;
      const std::size_t words = answers.back().size() / rows;
      const auto own = static_cast<std::ptrdiff_t>(kPrompt.size() * words);
      std::vector<std::uint32_t> first(answers.back().begin(), answers.back().begin() + own);
      lie.tell(first, words);
      std::ranges::copy(first, answers.back().begin());
    };
    expect_caught(rig, lie.name);
  }
}

TEST(PrivateBackend, unchecked_a_lie_changes_the_answer) {
  const MemoryModel source;
  PrivateRig honest(source, mode_of(PrivacyMode::kOtp));
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  rig.worker->lie = [](std::size_t, auto& answers) { answers[0][0] ^= 1U << 30; };
  EXPECT_NE(answer(*rig.driver), answer(*honest.driver));
}

TEST(PrivateBackend, what_a_private_mode_never_asks_for_is_refused) {
  const MemoryModel source;
  const ModelDims& dims = source.config().dims;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtpVerify));
  const Deadline soon = Deadline::after(std::chrono::seconds(60));
  const auto code = [&](const OpSpec& spec) {
    return rig.backend->prepare(spec, soon).status().code();
  };
  const TensorDesc x{DType::kF32, {2, dims.hidden}};
  EXPECT_EQ(code(linear_spec({{WeightKind::kO, 0}}, {DType::kF32, {2, 108}}, DType::kF32)),
            StatusCode::kInvalidInput)
      << "before a pass has begun";
  EXPECT_EQ(code(embedding_spec(2, DType::kF32)), StatusCode::kOk);
  const TensorDesc square{DType::kF32, {1, 4, 4}};
  EXPECT_EQ(code(matmul_spec(square, square, Transpose::kNone, DType::kF32)),
            StatusCode::kInvalidInput);
  EXPECT_EQ(code(linear_spec({{WeightKind::kQ, 0}}, x, DType::kF32)), StatusCode::kInvalidInput)
      << "q without k and v";
  EXPECT_EQ(code(lm_head_spec({DType::kBF16, {2, dims.hidden}})), StatusCode::kInvalidInput);
  EXPECT_EQ(code(lm_head_spec(x)), StatusCode::kOk);
}

TEST(PrivateBackend, a_pad_hides_one_row_once) {
  const MemoryModel source;
  const ModelDims& dims = source.config().dims;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  const Deadline soon = Deadline::after(std::chrono::seconds(60));
  const auto begin = [&] { return rig.backend->prepare(embedding_spec(1, DType::kF32), soon); };
  const OpSpec head = lm_head_spec({DType::kF32, {1, dims.hidden}});
  ASSERT_TRUE(begin().ok());
  auto op = rig.backend->prepare(head, soon).value();
  std::ranges::fill(op->input(0).as<float>(), 1.0F);
  ASSERT_TRUE(op->submit().ok());
  EXPECT_EQ(op->submit().code(), StatusCode::kInternal) << "twice";
  ASSERT_TRUE(op->wait().ok());
  auto late = rig.backend->prepare(head, soon).value();
  std::ranges::fill(late->input(0).as<float>(), 2.0F);
  ASSERT_TRUE(begin().ok());
  EXPECT_EQ(late->submit().code(), StatusCode::kInternal) << "after its pass";
}

TEST(PrivateBackend, a_dealer_learns_no_more_of_rows_than_the_worker) {
  const MemoryModel source;
  PrivacyOptions options = mode_of(PrivacyMode::kOtpDealer);
  options.pad_tokens = {16};
  options.decode_rows = 4;
  PrivateRig rig(source, options);
  PrivateRig plain(source, mode_of(PrivacyMode::kTeeOnly));
  EXPECT_EQ(answer(*rig.driver), answer(*plain.driver));
  rig.driver.reset();
  rig.backend.reset();
  rig.pads.reset();
  // Of each linear of each pass, rows from 0 on: as many as the worker sees.
  std::map<std::pair<int, std::uint32_t>, std::set<std::uint32_t>> rows;
  for (const auto& op : rig.products->crossed) {
    const int linear = 8 * layer_of(op.spec) + static_cast<int>(linear_of(op.spec));
    for (std::size_t i = 0; i < op.inputs[0].size(); i += 2)
      rows[{linear, op.inputs[0][i]}].insert(op.inputs[0][i + 1]);
  }
  constexpr int kHead = static_cast<int>(Linear::kLmHead);
  for (const auto& [place, seen] : rows) {
    if (place.second > 3) continue;  // made ahead, for passes that never were
    if (place.first != kHead) {
      EXPECT_THAT(seen.size(), ::testing::AnyOf(4U, 16U));
    }
    EXPECT_GE(seen.size(), 4U);
  }
}

TEST(PrivateBackend, a_session_ends_before_an_epoch_comes_again) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp), 1, 0xffffffffU);
  EXPECT_TRUE(rig.driver->prefill(kPrompt).ok());
  EXPECT_EQ(rig.driver->prefill(kPrompt).status().code(), StatusCode::kUnavailable);
}

TEST(PrivateBackend, a_fork_has_no_keys) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtpVerify));
  ASSERT_TRUE(rig.driver->prefill(kPrompt).ok());
  const pid_t child = ::fork();
  if (child == 0) {
    const auto begun = rig.backend->prepare(embedding_spec(1, DType::kF32),
                                            Deadline::after(std::chrono::seconds(1)));
    const bool drawn = rig.model->secret().draw_key(kPadLabel).ok();
    ::_exit(begun.ok() || drawn ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(PrivateBackend, an_embedding_read_obliviously_is_the_same) {
  for (const DType stored : {DType::kF32, DType::kBF16}) {
    MemoryModel::Options options;
    options.stored_dtype = stored;
    const MemoryModel source(options);
    const EmbeddingTable table = EmbeddingTable::read(source).value();
    const auto pool = ThreadPool::create(2).value();
    Tensor plain({DType::kF32, {static_cast<std::int64_t>(kPrompt.size()), 96}});
    Tensor oblivious(plain.desc());
    table.gather(kPrompt, plain.mutable_view());
    table.gather_obliviously(*pool, kPrompt, oblivious.mutable_view());
    EXPECT_EQ(floats(oblivious), floats(plain));
    EXPECT_NE(floats(plain), std::vector<float>(plain.desc().elements(), 0.0F));
  }
}

}  // namespace
}  // namespace airlock
