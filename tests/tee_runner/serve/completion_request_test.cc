#include "tee_runner/serve/completion_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace airlock {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

constexpr auto kText = CompletionKind::kText;
constexpr auto kChat = CompletionKind::kChat;

/// A body of a conversation with more fields: `,"n":2`.
std::string chat_body(const std::string& more) {
  return R"({"model":"m","messages":[{"role":"user","content":"hi"}])" + more + "}";
}
std::string text_body(const std::string& more) {
  return R"({"model":"m","prompt":"hi")" + more + "}";
}

CompletionRequest accepted(CompletionKind kind, const std::string& body) {
  ApiError error;
  auto request = read_completion_request(body, kind, error);
  EXPECT_TRUE(request) << body << ": " << error.message;
  return request.value_or(CompletionRequest());
}

ApiError refused(CompletionKind kind, const std::string& body) {
  ApiError error;
  EXPECT_FALSE(read_completion_request(body, kind, error)) << body;
  EXPECT_FALSE(error.message.empty());
  EXPECT_EQ(error.type, "invalid_request_error");
  return error;
}

TEST(CompletionRequest, conversation_is_read_with_all_its_fields) {
  const CompletionRequest request = accepted(kChat, R"({"model":"m","messages":[
      {"role":"developer","content":"be brief"},
      {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"assistant","content":"c","refusal":null,"tool_calls":[]}],
      "max_completion_tokens":7,"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,
      "repetition_penalty":1.1,"presence_penalty":-1,"frequency_penalty":2,"seed":-3,
      "stop":["x","yz"],"n":3,"stream":true,"stream_options":{"include_usage":true},
      "logprobs":true,"top_logprobs":2,"user":"u"})");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.messages, (std::vector<ChatMessage>{{ChatRole::kSystem, "be brief"},
                                                        {ChatRole::kUser, "ab"},
                                                        {ChatRole::kAssistant, "c"}}));
  EXPECT_EQ(request.max_tokens, 7);
  EXPECT_EQ(request.sampling.temperature, 0.5);
  EXPECT_EQ(request.sampling.top_p, 0.9);
  EXPECT_EQ(request.sampling.top_k, 40);
  EXPECT_EQ(request.sampling.min_p, 0.05);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.1);
  EXPECT_EQ(request.sampling.presence_penalty, -1);
  EXPECT_EQ(request.sampling.frequency_penalty, 2);
  EXPECT_EQ(request.seed, static_cast<std::uint64_t>(-3));
  EXPECT_THAT(request.stop, ElementsAre("x", "yz"));
  EXPECT_EQ(request.choices, 3U);
  EXPECT_TRUE(request.stream);
  EXPECT_TRUE(request.include_usage);
  EXPECT_EQ(request.sampling.log_probabilities, 2);
}

TEST(CompletionRequest, defaults_are_those_of_openai) {
  const CompletionRequest chat = accepted(kChat, chat_body(""));
  EXPECT_EQ(chat.sampling.temperature, 1);
  EXPECT_EQ(chat.max_tokens, std::nullopt);
  EXPECT_EQ(chat.choices, 1U);
  EXPECT_FALSE(chat.stream);
  EXPECT_EQ(chat.sampling.log_probabilities, std::nullopt);
  EXPECT_EQ(accepted(kText, text_body("")).max_tokens, 16);
}

TEST(CompletionRequest, prompt_is_a_text_or_ids) {
  EXPECT_EQ(accepted(kText, R"({"model":"m","prompt":"a b"})").prompt, "a b");
  EXPECT_EQ(accepted(kText, R"({"model":"m","prompt":["a b"]})").prompt, "a b");
  EXPECT_THAT(accepted(kText, R"({"model":"m","prompt":[1,2,3]})").prompt_ids,
              ElementsAre(1, 2, 3));
  EXPECT_THAT(accepted(kText, R"({"model":"m","prompt":[[1,2]]})").prompt_ids, ElementsAre(1, 2));
  for (const std::string prompt : {"[]", "7", R"(["a","b"])", "[[1],[2]]", "[[[1]]]", "[1,-1]",
                                   R"([1,"a"])", "[4294967296]", "[[]]", "{}", "true"}) {
    EXPECT_THAT(refused(kText, R"({"model":"m","prompt":)" + prompt + "}").param,
                HasSubstr("prompt"));
  }
}

TEST(CompletionRequest, logprobs_have_the_form_of_each_endpoint) {
  EXPECT_EQ(accepted(kChat, chat_body(R"(,"logprobs":true)")).sampling.log_probabilities, 0);
  EXPECT_EQ(accepted(kChat, chat_body(R"(,"logprobs":false)")).sampling.log_probabilities,
            std::nullopt);
  EXPECT_EQ(accepted(kText, text_body(R"(,"logprobs":5)")).sampling.log_probabilities, 5);
  EXPECT_EQ(refused(kChat, chat_body(R"(,"top_logprobs":5)")).param, "top_logprobs");
  EXPECT_EQ(refused(kChat, chat_body(R"(,"logprobs":5)")).param, "logprobs");
  EXPECT_EQ(refused(kText, text_body(R"(,"logprobs":true)")).param, "logprobs");
  EXPECT_EQ(refused(kText, text_body(R"(,"logprobs":21)")).param, "logprobs");
}

TEST(CompletionRequest, what_is_not_done_is_refused_by_name) {
  const std::vector<std::pair<std::string, std::string>> fields = {
      {"tools", R"([{"type":"function"}])"},
      {"tool_choice", R"("required")"},
      {"functions", R"([{}])"},
      {"function_call", R"({"name":"f"})"},
      {"response_format", R"({"type":"json_object"})"},
      {"logit_bias", R"({"1":2})"},
      {"audio", R"({})"},
      {"modalities", R"(["text","audio"])"},
      {"store", "true"},
      {"metadata", R"({"a":"b"})"},
      {"best_of", "2"},
      {"echo", "true"},
      {"suffix", R"("x")"},
      {"prediction", R"({})"},
      {"reasoning_effort", R"("high")"},
      {"service_tier", R"("flex")"},
      {"web_search_options", R"({})"},
      {"verbosity", R"("low")"}};
  for (const auto& [name, value] : fields) {
    const ApiError error = refused(kChat, chat_body(",\"" + name + "\":" + value));
    EXPECT_EQ(error.param, name);
    EXPECT_EQ(error.code, "unsupported_parameter");
    EXPECT_EQ(error.status, 400);
    EXPECT_THAT(error.message, HasSubstr("'" + name + "'"));
  }
}

TEST(CompletionRequest, what_is_not_done_is_accepted_where_nothing_is_asked) {
  for (const std::string more : {R"(,"tools":[])",
                                 R"(,"tools":null)",
                                 R"(,"logit_bias":null)",
                                 R"(,"logit_bias":{})",
                                 R"(,"best_of":1)",
                                 R"(,"n":1)",
                                 R"(,"echo":false)",
                                 R"(,"suffix":"")",
                                 R"(,"store":false)",
                                 R"(,"response_format":{"type":"text"})",
                                 R"(,"tool_choice":"none")",
                                 R"(,"parallel_tool_calls":true)",
                                 R"(,"modalities":["text"])",
                                 R"(,"service_tier":"auto")",
                                 R"(,"functions":[])",
                                 R"(,"metadata":{})",
                                 R"(,"stop":null)",
                                 R"(,"temperature":null)",
                                 R"(,"stream_options":null)",
                                 R"(,"audio":null)",
                                 R"(,"stop":[])"}) {
    accepted(kChat, chat_body(more));
    accepted(kText, text_body(more));
  }
}

TEST(CompletionRequest, unknown_fields_are_refused_by_name) {
  EXPECT_EQ(refused(kChat, chat_body(R"(,"temprature":1)")).param, "temprature");
  EXPECT_EQ(refused(kChat, chat_body(R"(,"temprature":null)")).code, "unknown_parameter");
  EXPECT_EQ(refused(kChat, chat_body(R"(,"prompt":"a")")).param, "prompt");
  EXPECT_EQ(refused(kText, text_body(R"(,"messages":[])")).param, "messages");
  EXPECT_EQ(refused(kChat, chat_body(R"(,"stream":true,"stream_options":{"x":1})")).param,
            "stream_options.x");
}

TEST(CompletionRequest, values_out_of_range_are_refused_by_name) {
  for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
           {"temperature", "2.5"},
           {"temperature", "\"1\""},
           {"temperature", "-0.1"},
           {"top_p", "1.5"},
           {"top_p", "0"},
           {"repetition_penalty", "0.0"},
           {"top_k", "-2"},
           {"top_k", "1.5"},
           {"min_p", "2"},
           {"repetition_penalty", "-1"},
           {"presence_penalty", "3"},
           {"frequency_penalty", "-3"},
           {"seed", "1.5"},
           {"n", "0"},
           {"n", "9"},
           {"max_tokens", "0"},
           {"max_tokens", "-1"},
           {"max_completion_tokens", "1e3"},
           {"stream", "1"},
           {"stop", "[\"a\",\"b\",\"c\",\"d\",\"e\"]"},
           {"stop", "[\"a\",1]"},
           {"stop", "\"\""},
           {"user", "7"},
           {"stream_options", "{\"include_usage\":true}"}}) {
    EXPECT_THAT(refused(kChat, chat_body(",\"" + name + "\":" + value)).param, HasSubstr(name))
        << value;
  }
  EXPECT_EQ(refused(kChat, chat_body(R"(,"max_tokens":1,"max_completion_tokens":2)")).param,
            "max_completion_tokens");
  EXPECT_EQ(refused(kChat, chat_body(R"(,"stop":")" + std::string(300, 'a') + "\"")).param, "stop");
}

TEST(CompletionRequest, messages_are_refused_by_place) {
  const auto param_of = [](const std::string& messages) {
    return refused(kChat, R"({"model":"m","messages":)" + messages + "}").param;
  };
  EXPECT_EQ(param_of("[]"), "messages");
  EXPECT_EQ(param_of("{}"), "messages");
  EXPECT_EQ(param_of("[7]"), "messages[0]");
  EXPECT_EQ(param_of(R"([{"content":"a"}])"), "messages[0].role");
  EXPECT_EQ(param_of(R"([{"role":"tool","content":"a"}])"), "messages[0].role");
  EXPECT_EQ(param_of(R"([{"role":"user"}])"), "messages[0]");
  EXPECT_EQ(param_of(R"([{"role":"user","content":null}])"), "messages[0].content");
  EXPECT_EQ(param_of(R"([{"role":"user","content":"a"},{"role":"user","content":7}])"),
            "messages[1].content");
  EXPECT_EQ(param_of(R"([{"role":"user","content":[{"type":"image_url"}]}])"),
            "messages[0].content[0]");
  EXPECT_EQ(param_of(R"([{"role":"user","content":[{"type":"text"}]}])"), "messages[0].content[0]");
  EXPECT_EQ(param_of(R"([{"role":"user","content":"a","name":"n"}])"), "messages[0].name");
  EXPECT_EQ(param_of(R"([{"role":"assistant","content":"a","tool_calls":[{}]}])"),
            "messages[0].tool_calls");
}

TEST(CompletionRequest, what_is_missing_is_named) {
  EXPECT_EQ(refused(kChat, R"({"model":"m"})").param, "messages");
  EXPECT_EQ(refused(kText, R"({"model":"m"})").param, "prompt");
  EXPECT_EQ(refused(kText, R"({"prompt":"a"})").param, "model");
  EXPECT_EQ(refused(kText, R"({"prompt":"a","model":null})").param, "model");
}

TEST(CompletionRequest, what_is_no_json_object_is_refused) {
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  for (const std::string& body :
       {std::string(), std::string("{"), std::string("[]"), std::string("{\"model\":NaN}"),
        std::string("{\"a\":1,\"a\":1}"), std::string("\xff"), deep, std::string("null"),
        std::string("{} {}")})
    EXPECT_EQ(refused(kChat, body).status, 400);
}

TEST(CompletionRequest, refusals_do_not_repeat_what_the_client_wrote) {
  const std::string secret = "sesame";
  for (const std::string body :
       {R"({"model":"m","messages":"sesame"})", R"({"model":"m","messages":[{"role":"sesame"}]})",
        R"({"model":"m","prompt":["sesame","sesame"]})", R"({"model": sesame)",
        R"({"model":"m","prompt":"a","temperature":"sesame"})",
        R"({"model":"m","messages":[{"role":"user","content":[{"type":"sesame"}]}]})",
        R"({"model":"m","prompt":"a","stop":{"a":"sesame"}})"}) {
    EXPECT_THAT(refused(kChat, body).message, Not(HasSubstr(secret)));
    EXPECT_THAT(refused(kText, body).message, Not(HasSubstr(secret)));
  }
}

}  // namespace
}  // namespace airlock
