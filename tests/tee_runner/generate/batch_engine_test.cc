// Many answers at once, over a driver whose products are exact.

#include <gmock/gmock.h>

#include <algorithm>
#include <vector>

#include "tests/tee_runner/generate/batch_engine_rig.h"

namespace airlock::testing {
namespace {

using ::testing::HasSubstr;

TEST_F(BatchEngineTest, answers_as_if_each_token_had_its_own_prefill) {
  const auto engine = start(options());
  const auto prompt = prompt_of(70, 1);
  const auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of(prompt, 12), answer).ok());
  const Finish end = answer->end();
  EXPECT_EQ(end.reason, FinishReason::kLength);
  EXPECT_EQ(end.prompt_tokens, 70u);
  EXPECT_EQ(end.generated_tokens, 12u);
  EXPECT_GT(end.ttft_ns, 0u);
  EXPECT_EQ(answer->ids(), greedy(prompt, 12));
}

TEST_F(BatchEngineTest, answers_in_company_are_those_alone) {
  auto crowded = options();
  crowded.max_sequences = 6;
  const auto engine = start(crowded);
  std::vector<std::shared_ptr<Answer>> answers;
  std::vector<GenerateRequest> requests;
  for (unsigned i = 0; i < 20; ++i) {
    GenerateRequest request = request_of(prompt_of(1 + i * 7 % 60, i), 5 + i % 9);
    request.sampling.temperature = i % 2 == 0 ? 0 : 1.3;
    request.sampling.seed = i;
    requests.push_back(request);
    answers.push_back(std::make_shared<Answer>());
    ASSERT_TRUE(engine->submit(request, answers.back()).ok());
  }
  for (const auto& answer : answers) EXPECT_EQ(answer->end().reason, FinishReason::kLength);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto alone = std::make_shared<Answer>();
    requests[i].owner = "nobody has cached anything for " + std::to_string(i);
    ASSERT_TRUE(engine->submit(requests[i], alone).ok());
    EXPECT_EQ(alone->end().cached_tokens, 0u);
    EXPECT_EQ(alone->ids(), answers[i]->ids()) << i;
  }
  EXPECT_EQ(stats_.finished.load(), 40u);
}

TEST_F(BatchEngineTest, a_stop_id_ends_an_answer_and_is_not_given_out) {
  const auto engine = start(options());
  const auto prompt = prompt_of(10, 2);
  const auto whole = greedy(prompt, 8);
  GenerateRequest request = request_of(prompt, 8);
  request.stop_ids = {whole[3]};
  const auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request, answer).ok());
  EXPECT_EQ(answer->end().reason, FinishReason::kStop);
  const auto first = std::ranges::find(whole, whole[3]);
  EXPECT_EQ(answer->ids(), std::vector(whole.begin(), first));
}

TEST_F(BatchEngineTest, a_sink_that_has_enough_ends_its_answer) {
  const auto engine = start(options());
  const auto answer = std::make_shared<Answer>(3);
  ASSERT_TRUE(engine->submit(request_of(prompt_of(10, 2), 50), answer).ok());
  EXPECT_EQ(answer->end().reason, FinishReason::kStop);
  EXPECT_EQ(answer->ids().size(), 3u);
}

TEST_F(BatchEngineTest, the_context_ends_an_answer) {
  auto small = options();
  small.context_length = 20;
  const auto engine = start(small);
  const auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of(prompt_of(15, 3), 50), answer).ok());
  EXPECT_EQ(answer->end().reason, FinishReason::kLength);
  EXPECT_EQ(answer->ids().size(), 5u);
  EXPECT_TRUE(engine->exceeds_context(20));
  const auto refused = engine->submit(request_of(prompt_of(20, 3), 1), answer);
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidInput);
  EXPECT_THAT(refused.status().message(), HasSubstr("context of 20"));
}

TEST_F(BatchEngineTest, no_tokens_asked_for_computes_nothing) {
  const auto engine = start(options());
  const auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of(prompt_of(5, 4), 0), answer).ok());
  EXPECT_EQ(answer->end().reason, FinishReason::kLength);
  EXPECT_EQ(world_.passes, 0);
}

TEST_F(BatchEngineTest, refuses_what_it_cannot_answer) {
  auto small = options();
  small.cache_bytes = 2 * std::uint64_t{43008};  // two blocks
  const auto engine = start(small);
  const auto answer = std::make_shared<Answer>();
  const auto code = [&](const GenerateRequest& request) {
    return engine->submit(request, answer).status().code();
  };
  EXPECT_EQ(code(request_of({}, 5)), StatusCode::kInvalidInput);
  EXPECT_EQ(code(request_of({kVocab}, 5)), StatusCode::kInvalidInput);
  EXPECT_EQ(code(request_of({1}, -1)), StatusCode::kInvalidInput);
  // Two blocks are a context of 128.
  EXPECT_EQ(engine->context_length(), 128);
  EXPECT_EQ(code(request_of(prompt_of(128, 1), 1)), StatusCode::kInvalidInput);
  GenerateRequest hot = request_of({1}, 1);
  hot.sampling.temperature = -1;
  EXPECT_EQ(code(hot), StatusCode::kInvalidInput);
}

TEST_F(BatchEngineTest, who_finds_no_memory_waits_its_turn) {
  auto small = options();
  small.cache_bytes = 2 * std::uint64_t{43008};
  const auto engine = start(small);
  std::vector<std::shared_ptr<Answer>> answers;
  for (unsigned i = 0; i < 6; ++i) {
    answers.push_back(std::make_shared<Answer>());
    ASSERT_TRUE(engine->submit(request_of(prompt_of(60, i), 30), answers.back()).ok());
  }
  for (unsigned i = 0; i < 6; ++i) {
    EXPECT_EQ(answers[i]->end().reason, FinishReason::kLength);
    EXPECT_EQ(answers[i]->ids(), greedy(prompt_of(60, i), 30));
  }
}

TEST_F(BatchEngineTest, answers_that_outgrow_the_memory_give_way_and_say_the_same) {
  auto small = options();
  small.cache_bytes = 5 * std::uint64_t{43008};
  const auto engine = start(small);
  std::vector<std::shared_ptr<Answer>> answers;
  for (unsigned i = 0; i < 4; ++i) {
    GenerateRequest request = request_of(prompt_of(30 + i, i), 200);
    request.sampling.temperature = i == 2 ? 1 : 0;
    request.sampling.seed = i;
    answers.push_back(std::make_shared<Answer>());
    ASSERT_TRUE(engine->submit(request, answers.back()).ok());
  }
  for (unsigned i = 0; i < 4; ++i) {
    const Finish end = answers[i]->end();
    EXPECT_EQ(end.reason, FinishReason::kLength);
    EXPECT_EQ(end.generated_tokens, 200u);
    if (i != 2) {
      EXPECT_EQ(answers[i]->ids(), greedy(prompt_of(30 + i, i), 200)) << i;
    }
  }
  EXPECT_EQ(stats_.begun.load(), 4u);
  EXPECT_EQ(stats_.generated_tokens.load(), 800u);
}

TEST_F(BatchEngineTest, a_full_queue_refuses) {
  auto small = options();
  small.max_sequences = 1;
  small.max_queue = 2;
  const auto engine = start(small);
  const auto first = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 380), first).ok());
  first->await_tokens(1);
  const auto waits = std::make_shared<Answer>();
  const auto id = engine->submit(request_of({2}, 2), waits);
  const auto also = std::make_shared<Answer>();
  ASSERT_TRUE(id.ok() && engine->submit(request_of({3}, 2), also).ok());
  EXPECT_EQ(engine->submit(request_of({4}, 2), waits).status().code(),
            StatusCode::kResourceExhausted);
  const EngineFigures figures = engine->figures();
  EXPECT_EQ(figures.active, 1u);
  EXPECT_EQ(figures.max_active, 1u);
  EXPECT_EQ(figures.max_queued, 2u);
  EXPECT_GT(figures.oldest_wait_ns, 0u);
  engine->cancel(*id);
  EXPECT_EQ(waits->end().reason, FinishReason::kCancelled);
  EXPECT_EQ(first->end().reason, FinishReason::kLength);
  EXPECT_EQ(also->end().reason, FinishReason::kLength);
}

TEST_F(BatchEngineTest, an_answer_that_is_cancelled_ends_soon_and_others_go_on) {
  const auto engine = start(options());
  const auto other = std::make_shared<Answer>();
  const auto answer = std::make_shared<Answer>();
  const auto id = engine->submit(request_of({1}, 300), answer);
  ASSERT_TRUE(id.ok() && engine->submit(request_of({2}, 40), other).ok());
  answer->await_tokens(2);
  engine->cancel(*id);
  EXPECT_EQ(answer->end().reason, FinishReason::kCancelled);
  EXPECT_EQ(other->end().reason, FinishReason::kLength);
  EXPECT_EQ(other->ids(), greedy({2}, 40));
  engine->cancel(*id);  // nothing
}

TEST_F(BatchEngineTest, a_conversations_next_turn_uses_what_is_there) {
  const auto engine = start(options());
  auto text = prompt_of(100, 5);
  const auto first = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of(text, 10), first).ok());
  EXPECT_EQ(first->end().cached_tokens, 0u);
  const auto said = first->ids();
  text.insert(text.end(), said.begin(), said.end());
  const auto question = prompt_of(8, 6);
  text.insert(text.end(), question.begin(), question.end());
  const auto next = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of(text, 10), next).ok());
  EXPECT_EQ(next->end().cached_tokens, 109u);  // all but the token that was chosen last
  EXPECT_EQ(next->ids(), greedy(text, 10));
  // The same beginning with another end takes a copy, and both are right.
  auto other = std::vector(text.begin(), text.begin() + 90);
  other.push_back(7);
  const auto branch = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of(other, 10), branch).ok());
  EXPECT_EQ(branch->end().cached_tokens, 90u);
  EXPECT_EQ(branch->ids(), greedy(other, 10));
  EXPECT_EQ(stats_.cached_tokens.load(), 199u);
  EXPECT_GE(stats_.cache_peak_bytes.load(), 4 * std::uint64_t{43008});
}

TEST_F(BatchEngineTest, nobody_uses_what_another_owner_said) {
  const auto engine = start(options());
  GenerateRequest request = request_of(prompt_of(100, 5), 3);
  request.owner = "alice";
  const auto first = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request, first).ok());
  (void)first->end();
  request.owner = "bob";
  const auto second = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request, second).ok());
  EXPECT_EQ(second->end().cached_tokens, 0u);
  request.owner = "alice";
  const auto third = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request, third).ok());
  EXPECT_EQ(third->end().cached_tokens, 99u);
  EXPECT_EQ(third->ids(), first->ids());
}

TEST_F(BatchEngineTest, log_probabilities_come_with_their_tokens) {
  const auto engine = start(options());
  GenerateRequest request = request_of({1, 2}, 4);
  request.sampling.log_probabilities = 5;
  const auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request, answer).ok());
  (void)answer->end();
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(answer->top_count(i), 5u);
}

TEST_F(BatchEngineTest, logits_that_are_no_numbers_fail_their_answer) {
  const auto engine = start(options());
  world_.gives_nan = true;
  const auto answer = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 4), answer).ok());
  const Finish end = answer->end();
  EXPECT_EQ(end.reason, FinishReason::kFailed);
  EXPECT_EQ(end.status.code(), StatusCode::kProtocolError);
  world_.gives_nan = false;
  const auto next = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 4), next).ok());
  EXPECT_EQ(next->end().reason, FinishReason::kLength);
}

TEST_F(BatchEngineTest, a_pass_that_throws_ends_its_answers_and_not_the_engine) {
  const auto engine = start(options());
  world_.throws = true;
  const auto one = std::make_shared<Answer>();
  const auto other = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 4), one).ok());
  ASSERT_TRUE(engine->submit(request_of({2}, 4), other).ok());
  for (const auto& answer : {one, other}) {
    const Finish end = answer->end();
    EXPECT_EQ(end.reason, FinishReason::kFailed);
    EXPECT_EQ(end.status.code(), StatusCode::kResourceExhausted);
  }
  world_.throws = false;
  const auto next = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of({1}, 4), next).ok());
  EXPECT_EQ(next->end().reason, FinishReason::kLength);
  EXPECT_EQ(next->ids(), greedy({1}, 4));
}

TEST_F(BatchEngineTest, a_prompt_that_waits_leaves_others_what_they_kept) {
  auto small = options();
  small.cache_bytes = 6 * std::uint64_t{43008};
  const auto engine = start(small);
  GenerateRequest request = request_of(prompt_of(60, 5), 3);
  request.owner = "alice";
  const auto first = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request, first).ok());
  (void)first->end();
  // One that has four blocks, and one that wants as many: what alice has would not be enough.
  const auto runs = std::make_shared<Answer>();
  const auto waits = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request_of(prompt_of(190, 6), 60), runs).ok());
  runs->await_tokens(1);
  ASSERT_TRUE(engine->submit(request_of(prompt_of(190, 7), 60), waits).ok());
  (void)runs->end();
  EXPECT_EQ(waits->end().reason, FinishReason::kLength);
  const auto next = std::make_shared<Answer>();
  ASSERT_TRUE(engine->submit(request, next).ok());
  EXPECT_EQ(next->end().reason, FinishReason::kLength);
  EXPECT_EQ(next->ids(), first->ids());
}

TEST_F(BatchEngineTest, an_engine_that_ends_tells_everybody) {
  const auto answer = std::make_shared<Answer>();
  const auto waits = std::make_shared<Answer>();
  {
    auto small = options();
    small.max_sequences = 1;
    const auto engine = start(small);
    ASSERT_TRUE(engine->submit(request_of({1}, 390), answer).ok());
    ASSERT_TRUE(engine->submit(request_of({2}, 390), waits).ok());
    answer->await_tokens(1);
  }
  EXPECT_EQ(answer->end().reason, FinishReason::kCancelled);
  EXPECT_EQ(waits->end().reason, FinishReason::kCancelled);
}

}  // namespace
}  // namespace airlock::testing
