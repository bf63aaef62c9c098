#include "tee_runner/serve/http_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/tee_runner/serve/fake_engine.h"
#include "tests/tee_runner/serve/http_client.h"
#include "tests/tee_runner/serve/tiny_model.h"

namespace airlock {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr std::string_view kChatPath = "/v1/chat/completions";

HttpSettings any_port() {
  HttpSettings settings;
  settings.port = 0;
  return settings;
}

struct Rig {
  explicit Rig(FakeEngine::Options options = {}, const HttpSettings& settings = any_port())
      : engine(options),
        server(std::move(HttpServer::start(settings, tiny_model(), engine)).value()) {}
  HttpClient client() const { return HttpClient(server->url()); }
  FakeEngine engine;
  std::unique_ptr<HttpServer> server;
};

TEST(HttpServer, answers_a_conversation) {
  Rig rig;
  HttpClient client = rig.client();
  client.post(kChatPath, chat_body("hello"));
  const HttpResponse response = client.receive();
  EXPECT_EQ(response.status, 200);
  EXPECT_THAT(response.head, HasSubstr("Content-Type: application/json"));
  // The prompt, which the engine repeats, without its control tokens.
  EXPECT_EQ(response.json()["choices"][0]["message"]["content"], "user\nhello\nassistant\n");
  EXPECT_EQ(response.json()["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
}

TEST(HttpServer, keeps_the_connection_for_the_next_request) {
  Rig rig;
  HttpClient client = rig.client();
  for (int i = 0; i < 3; ++i) {
    client.post("/v1/completions", R"({"model":"tiny","prompt":"abc"})");
    EXPECT_EQ(client.receive().json()["choices"][0]["text"], "abc");
  }
}

TEST(HttpServer, answers_requests_that_are_sent_ahead_in_their_order) {
  Rig rig;
  HttpClient client = rig.client();
  for (const char c : {'a', 'b', 'c'})
    client.post("/v1/completions", std::string(R"({"model":"tiny","prompt":")") + c + "\"}");
  for (const char c : {'a', 'b', 'c'})
    EXPECT_EQ(client.receive().json()["choices"][0]["text"], std::string(1, c));
}

TEST(HttpServer, streams_events_as_tokens_come) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  HttpClient client = rig.client();
  client.post("/v1/completions", R"({"model":"tiny","prompt":"abc","stream":true})");
  rig.engine.wait_for_answers(1);
  rig.engine.let(1);
  EXPECT_THAT(client.receive_until("\n\n"), HasSubstr("text/event-stream"));
  rig.engine.let(10);
  EXPECT_THAT(client.receive_until("[DONE]"), HasSubstr("\"text\":\"c\""));
}

TEST(HttpServer, stream_ends_with_reason_usage_and_done) {
  Rig rig;
  HttpClient client = rig.client();
  client.post(kChatPath,
              chat_body("x", R"(,"stream":true,"stream_options":{"include_usage":true})"));
  const HttpResponse response = client.receive();
  EXPECT_EQ(response.status, 200);
  const auto events = response.events();
  ASSERT_GT(events.size(), 3U);
  EXPECT_EQ(events[0]["choices"][0]["delta"]["role"], "assistant");
  EXPECT_EQ(events[events.size() - 3]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events[events.size() - 2]["usage"]["completion_tokens"], 20);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(response.streamed_text(), "user\nx\nassistant\n");
  // Its end is known: the connection stays.
  client.get("/healthz");
  EXPECT_EQ(client.receive().status, 200);
}

TEST(HttpServer, stop_string_ends_the_answer_in_the_engine_too) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  HttpClient client = rig.client();
  client.post("/v1/completions", R"({"model":"tiny","prompt":"abcd","stop":"cd"})");
  rig.engine.wait_for_answers(1);
  rig.engine.let(4);  // then a cancel alone ends it
  const json answer = client.receive().json();
  EXPECT_EQ(answer["choices"][0]["text"], "ab");
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  rig.engine.wait_for_ended(1);
  EXPECT_EQ(rig.engine.cancelled_count(), 1U);
}

TEST(HttpServer, several_choices_have_seeds_of_their_own) {
  Rig rig;
  HttpClient client = rig.client();
  client.post("/v1/completions",
              R"({"model":"tiny","prompt":"abcd","n":3,"seed":5,"max_tokens":2})");
  const json answer = client.receive().json();
  ASSERT_EQ(answer["choices"].size(), 3U);
  EXPECT_EQ(answer["choices"][2]["text"], "ab");
  EXPECT_EQ(answer["choices"][2]["finish_reason"], "length");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 6);
  EXPECT_EQ(rig.engine.last_request().sampling.seed, 7U);
}

TEST(HttpServer, client_that_leaves_has_its_answer_cancelled_while_nothing_is_written) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  for (const std::string_view more : {"", R"(,"stream":true)"}) {
    HttpClient client = rig.client();
    client.post(kChatPath, chat_body("hello", more));
    rig.engine.wait_for_answers(1);
    client.leave();
    rig.engine.wait_for_answers(0);
  }
  EXPECT_EQ(rig.engine.cancelled_count(), 2U);
}

TEST(HttpServer, client_that_leaves_in_a_stream_has_all_its_choices_cancelled) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  HttpClient client = rig.client();
  client.post(kChatPath, chat_body("hello", R"(,"stream":true,"n":4)"));
  rig.engine.wait_for_answers(4);
  rig.engine.let(1);
  client.receive_until("data:");
  rig.engine.wait_for_answers(4);  // all have their token: a cancel alone ends them
  client.leave();
  rig.engine.wait_for_answers(0);
  EXPECT_EQ(rig.engine.cancelled_count(), 4U);
}

TEST(HttpServer, prompt_beyond_the_context_is_refused) {
  FakeEngine::Options options;
  options.context = 8;
  Rig rig(options);
  HttpClient client = rig.client();
  client.post("/v1/completions", R"({"model":"tiny","prompt":"12345678"})");
  const HttpResponse response = client.receive();
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.json()["error"]["code"], "context_length_exceeded");
  client.post("/v1/completions", R"({"model":"tiny","prompt":"1234567"})");
  EXPECT_EQ(client.receive().json()["choices"][0]["finish_reason"], "length");
}

TEST(HttpServer, full_engine_is_429_with_a_time_to_wait) {
  FakeEngine::Options options;
  options.gated = true;
  options.most_answers = 1;
  Rig rig(options);
  HttpClient first = rig.client();
  first.post(kChatPath, chat_body("a"));
  rig.engine.wait_for_answers(1);
  HttpClient second = rig.client();
  second.post(kChatPath, chat_body("b"));
  const HttpResponse response = second.receive();
  EXPECT_EQ(response.status, 429);
  EXPECT_THAT(response.head, HasSubstr("Retry-After: 1\r\n"));
  // All choices or none.
  first.leave();
  rig.engine.wait_for_answers(0);
  second.post(kChatPath, chat_body("b", R"(,"n":2)"));
  EXPECT_EQ(second.receive().status, 429);
  rig.engine.wait_for_answers(0);
}

TEST(HttpServer, engine_that_is_away_is_503_and_not_ready) {
  Rig rig;
  HttpClient client = rig.client();
  client.get("/readyz");
  EXPECT_EQ(client.receive().status, 200);
  rig.engine.set_health(Status(StatusCode::kUnavailable, "the server is away"));
  client.get("/readyz");
  const HttpResponse ready = client.receive();
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(ready.body, "the server is away\n");
  client.get("/healthz");
  EXPECT_EQ(client.receive().status, 200);
  client.post(kChatPath, chat_body("a"));
  EXPECT_EQ(client.receive().status, 503);
}

TEST(HttpServer, engine_that_hangs_is_not_healthy) {
  FakeEngine::Options options;
  options.stall_after = std::chrono::milliseconds(200);
  Rig rig(options);
  HttpClient client = rig.client();
  const auto health_becomes = [&client](int wanted) {
    const Deadline patience = Deadline::after(std::chrono::seconds(60));
    for (;;) {
      client.get("/healthz");
      const HttpResponse response = client.receive();
      if (response.status == wanted || patience.expired()) return response.body;
    }
  };
  EXPECT_EQ(health_becomes(200), "ok\n");
  rig.engine.set_frozen(true);
  EXPECT_EQ(health_becomes(503), "the thread has not moved\n");
  rig.engine.set_frozen(false);
  EXPECT_EQ(health_becomes(200), "ok\n");
}

TEST(HttpServer, failure_before_the_first_token_is_a_status_and_none_of_its_words) {
  Rig rig;
  rig.engine.set_failure(Status(StatusCode::kInternal, "secret words"));
  HttpClient client = rig.client();
  for (const std::string_view more : {"", R"(,"stream":true)"}) {
    client.post(kChatPath, chat_body("a", more));
    const HttpResponse response = client.receive();
    EXPECT_EQ(response.status, 500);
    EXPECT_THAT(response.body, Not(HasSubstr("secret")));
  }
}

TEST(HttpServer, failure_in_a_stream_is_an_event_without_done) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  HttpClient client = rig.client();
  client.post(kChatPath, chat_body("abc", R"(,"stream":true)"));
  rig.engine.wait_for_answers(1);
  rig.engine.let(2);
  client.receive_until("\"role\"");
  rig.engine.set_failure(Status(StatusCode::kUnavailable, ""));
  rig.engine.let(1);
  const std::string rest = client.receive_until("0\r\n\r\n");
  EXPECT_THAT(rest, HasSubstr("\"error\""));
  EXPECT_THAT(rest, Not(HasSubstr("[DONE]")));
  EXPECT_TRUE(client.is_closed());
}

TEST(HttpServer, two_hundred_clients_get_each_its_own_answer) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  constexpr std::size_t kClients = 200;
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (std::size_t i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<HttpClient>(rig.server->url()));
    clients.back()->post(
        kChatPath, chat_body("I am " + std::to_string(i), i % 2 == 0 ? R"(,"stream":true)" : ""));
  }
  rig.engine.wait_for_answers(kClients);
  rig.engine.let(1000);
  for (std::size_t i = 0; i < kClients; ++i) {
    const HttpResponse response = clients[i]->receive();
    ASSERT_EQ(response.status, 200);
    const std::string wanted = "user\nI am " + std::to_string(i) + "\nassistant\n";
    if (i % 2 == 0) {
      EXPECT_EQ(response.streamed_text(), wanted);
    } else {
      EXPECT_EQ(response.json()["choices"][0]["message"]["content"], wanted);
    }
  }
}

TEST(HttpServer, drain_lets_answers_finish_and_takes_no_new_ones) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  HttpClient client = rig.client();
  HttpClient idle = rig.client();
  idle.get("/healthz");
  idle.receive();
  client.post("/v1/completions", R"({"model":"tiny","prompt":"abc"})");
  rig.engine.wait_for_answers(1);
  bool all_ended = false;
  std::thread drain([&] { all_ended = rig.server->drain(Deadline::after(std::chrono::hours(1))); });
  EXPECT_TRUE(idle.is_closed());
  rig.engine.let(100);
  const HttpResponse response = client.receive();
  EXPECT_EQ(response.json()["choices"][0]["text"], "abc");
  EXPECT_THAT(response.head, HasSubstr("Connection: close"));
  EXPECT_TRUE(client.is_closed());
  client.leave();
  drain.join();
  EXPECT_TRUE(all_ended);
}

TEST(HttpServer, one_that_leaves_answers_and_is_not_ready) {
  Rig rig;
  HttpClient client = rig.client();
  HttpClient idle = rig.client();
  idle.get("/readyz");
  EXPECT_EQ(idle.receive().status, 200);
  rig.server->leave();
  client.get("/readyz");
  const HttpResponse ready = client.receive();
  EXPECT_EQ(ready.status, 503);
  EXPECT_EQ(ready.body, "shutting down\n");
  EXPECT_THAT(ready.head, HasSubstr("Connection: close"));
  // On a connection that was there, and on a new one.
  HttpClient other = rig.client();
  for (HttpClient* const each : {&idle, &other}) {
    each->post("/v1/completions", R"({"model":"tiny","prompt":"abc"})");
    const HttpResponse response = each->receive();
    EXPECT_EQ(response.json()["choices"][0]["text"], "abc");
    EXPECT_THAT(response.head, HasSubstr("Connection: close"));
  }
}

/// An answer under way, and a drain that waits for it.
struct Draining {
  Draining() : rig(gated()), client(rig.client()) {
    client.post(kChatPath, chat_body("a"));
    rig.engine.wait_for_answers(1);
    drain = std::thread(
        [this] { all_ended = rig.server->drain(Deadline::after(std::chrono::hours(1))); });
    while (status_of("/readyz") != 503 && !patience.expired()) {
    }
  }
  static FakeEngine::Options gated() {
    FakeEngine::Options options;
    options.gated = true;
    return options;
  }
  int status_of(std::string_view path) {
    HttpClient look = rig.client();
    look.get(path);
    return look.receive().status;
  }
  /// The answer comes, and its client leaves.
  void end_answer() {
    rig.engine.let(100);
    EXPECT_EQ(client.receive().status, 200);
    client.leave();
  }
  void expect_drained() {
    drain.join();
    EXPECT_TRUE(all_ended);
  }

  Rig rig;
  HttpClient client;
  const Deadline patience = Deadline::after(std::chrono::seconds(60));
  bool all_ended = false;
  std::thread drain;
};

TEST(HttpServer, who_asks_how_a_draining_server_is_hears_it) {
  Draining drained;
  Rig& rig = drained.rig;
  HttpClient silent = rig.client();  // holds nothing up
  EXPECT_EQ(drained.status_of("/readyz"), 503);
  EXPECT_EQ(drained.status_of("/healthz"), 200);
  EXPECT_EQ(drained.status_of("/metrics"), 200);
  HttpClient late = rig.client();
  late.post(kChatPath, chat_body("b"));
  EXPECT_EQ(late.receive().status, 503);
  drained.end_answer();
  late.leave();
  drained.expect_drained();
}

TEST(HttpServer, probes_and_who_is_refused_hold_no_drain_up) {
  Draining drained;
  Rig& rig = drained.rig;
  const Deadline patience = drained.patience;
  // New ones all the time, of which none leaves: at each look some are being said farewell to.
  std::atomic<bool> ends{false};
  std::thread others([&] {
    std::deque<std::unique_ptr<HttpClient>> held;
    while (!ends && !patience.expired()) {
      held.push_back(std::make_unique<HttpClient>(rig.server->url()));
      if (held.size() % 2 == 0) {
        held.back()->get("/readyz");
      } else {
        held.back()->post(kChatPath, chat_body("b"));
      }
      if (held.back()->receive().status != 503) return;  // it is over
      if (held.size() > 50) held.pop_front();
    }
  });
  drained.end_answer();
  drained.expect_drained();
  EXPECT_FALSE(patience.expired());
  ends = true;
  others.join();
}

TEST(HttpServer, drain_refuses_what_has_not_come_whole) {
  Rig rig;
  HttpClient client = rig.client();
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n");
  client.receive_until("\r\n\r\n");
  std::thread drain([&] { rig.server->drain(Deadline::after(std::chrono::hours(1))); });
  EXPECT_EQ(client.receive().status, 503);
  client.leave();
  drain.join();
}

TEST(HttpServer, drain_cancels_what_takes_too_long_and_says_so) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  HttpClient client = rig.client();
  client.post(kChatPath, chat_body("a"));
  rig.engine.wait_for_answers(1);
  EXPECT_FALSE(rig.server->drain(Deadline::now()));
  EXPECT_EQ(client.receive().status, 503);
  rig.engine.wait_for_answers(0);
}

TEST(HttpServer, end_of_the_server_cancels_what_is_under_way) {
  FakeEngine::Options options;
  options.gated = true;
  Rig rig(options);
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(std::make_unique<HttpClient>(rig.server->url()));
    clients.back()->post(kChatPath, chat_body("abc", R"(,"stream":true)"));
  }
  rig.engine.wait_for_answers(20);
  rig.engine.let(1);
  clients.back()->receive_until("data:");
  rig.engine.wait_for_answers(20);  // all have their token: a cancel alone ends them
  rig.server.reset();
  rig.engine.wait_for_answers(0);
  EXPECT_EQ(rig.engine.cancelled_count(), 20U);
}

TEST(HttpServer, models_page_and_metrics_are_there) {
  Rig rig;
  HttpClient client = rig.client();
  client.get("/v1/models");
  EXPECT_EQ(client.receive().json()["data"][0]["id"], "tiny");
  client.get("/v1/models/tiny");
  EXPECT_EQ(client.receive().json()["object"], "model");
  client.get("/v1/models/other");
  EXPECT_EQ(client.receive().status, 404);
  client.get("/");
  const HttpResponse page = client.receive();
  EXPECT_THAT(page.head,
              HasSubstr("Content-Security-Policy: default-src 'none'; script-src 'sha256-"));
  EXPECT_THAT(page.body, HasSubstr("<!doctype html>"));
  client.post(kChatPath, chat_body("sesame"));
  client.receive();
  client.get("/metrics");
  const std::string metrics = client.receive().body;
  EXPECT_THAT(
      metrics,
      HasSubstr("airlock_serve_requests_total{path=\"/v1/chat/completions\",status=\"200\"} 1\n"));
  EXPECT_THAT(metrics, Not(HasSubstr("sesame")));
  for (const char* line :
       {"airlock_serve_ready 1", "airlock_serve_draining 0", "airlock_serve_sequences_limit 16",
        "airlock_serve_free_sequences 13", "airlock_serve_queue_limit 64",
        "airlock_serve_oldest_wait_seconds 1.5", "airlock_serve_engine_generated_tokens_total 77"})
    EXPECT_THAT(metrics, HasSubstr("\n" + std::string(line) + "\n"));
  rig.server->leave();
  client.get("/metrics");
  EXPECT_THAT(client.receive().body, HasSubstr("\nairlock_serve_draining 1\n"));
}

}  // namespace
}  // namespace airlock
