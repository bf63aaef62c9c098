// What clients that mean no good, or cannot do better, may take of the server.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tee_runner/serve/http_server.h"
#include "tests/tee_runner/serve/fake_engine.h"
#include "tests/tee_runner/serve/http_client.h"
#include "tests/tee_runner/serve/tiny_model.h"

namespace airlock {
namespace {

using testing::HasSubstr;

constexpr std::string_view kChatPath = "/v1/chat/completions";
constexpr std::string_view kKey = "key-one-0123456789";

struct Rig {
  explicit Rig(const std::function<void(HttpSettings&)>& change = {},
               FakeEngine::Options options = {})
      : engine(options) {
    HttpSettings settings;
    settings.port = 0;
    if (change) change(settings);
    server = std::move(HttpServer::start(settings, tiny_model(), engine)).value();
  }
  HttpClient client() const { return HttpClient(server->url()); }
  FakeEngine engine;
  std::unique_ptr<HttpServer> server;
};

FakeEngine::Options endless() {
  FakeEngine::Options options;
  options.endless = true;
  options.gated = true;
  options.context = 1 << 24;
  return options;
}

/// Over 1 MB of events, and fewer tokens than a mailbox takes: it ends when it is given up alone.
void let_a_long_answer(FakeEngine& engine) {
  engine.wait_for_answers(1);
  engine.let(8000);
}

HttpResponse answer_to(const Rig& rig, const std::string& bytes) {
  HttpClient client = rig.client();
  client.send(bytes);
  return client.receive();
}

TEST(HttpLimits, wrong_key_is_401_before_the_body_has_come) {
  Rig rig([](HttpSettings& settings) {
    settings.keys = std::move(ApiKeys::parse(kKey, "keys")).value();
  });
  HttpClient client = rig.client();
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Content-Length: 1000000\r\nAuthorization: Bearer nobodys\r\n\r\n");
  const HttpResponse response = client.receive();
  EXPECT_EQ(response.status, 401);
  EXPECT_THAT(response.head, HasSubstr("WWW-Authenticate: Bearer"));
  EXPECT_EQ(response.json()["error"]["code"], "invalid_api_key");
  // What it goes on to send does not take the answer from it, and leads nowhere.
  client.send(std::string(1'000'000, 'x'));
  EXPECT_TRUE(client.is_closed());
}

TEST(HttpLimits, key_is_the_owner_of_what_is_kept) {
  Rig rig([](HttpSettings& settings) {
    settings.keys = std::move(ApiKeys::parse("anna " + std::string(kKey), "keys")).value();
  });
  HttpClient client = rig.client();
  client.post(kChatPath, chat_body("a"), "Authorization: Bearer " + std::string(kKey) + "\r\n");
  EXPECT_EQ(client.receive().status, 200);
  EXPECT_EQ(rig.engine.last_request().owner, "key:anna");
}

TEST(HttpLimits, body_and_head_that_are_too_long_are_refused) {
  Rig rig([](HttpSettings& settings) {
    settings.max_body_bytes = 1000;
    settings.max_header_bytes = 1000;
  });
  HttpClient client = rig.client();
  client.post(kChatPath, chat_body(std::string(1000, 'a')));
  EXPECT_EQ(client.receive().status, 413);
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
      "Content-Type: application/json\r\n";
  EXPECT_EQ(answer_to(rig, head + "Transfer-Encoding: chunked\r\n\r\n7d0\r\n" +
                               std::string(2000, 'a') + "\r\n0\r\n\r\n")
                .status,
            413);
  EXPECT_EQ(answer_to(rig, head + "X: " + std::string(2000, 'a')).status, 431);
}

TEST(HttpLimits, bodies_on_their_way_have_a_limit_together) {
  Rig rig([](HttpSettings& settings) { settings.max_bodies_bytes = 1500; });
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
      "application/json\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n";
  {
    HttpClient first = rig.client();
    first.send(head);
    EXPECT_THAT(first.receive_until("\r\n\r\n"), HasSubstr("100 Continue"));
    EXPECT_EQ(answer_to(rig, head).status, 429);
  }
  // The first has left: there is room again.
  for (;;) {
    HttpClient second = rig.client();
    second.send(head);
    if (second.receive_until("\r\n\r\n").find("100 Continue") != std::string::npos) break;
  }
}

TEST(HttpLimits, clients_that_come_and_go_leave_nothing_behind) {
  Rig rig([](HttpSettings& settings) { settings.max_connections = 4; });
  const std::string body = chat_body(std::string(200'000, 'a'));
  for (int i = 0; i < 50; ++i) {
    HttpClient client = rig.client();
    client.post(kChatPath, body);
    client.leave();
  }
  // All places come back.
  for (int served = 0; served < 4;) {
    HttpClient client = rig.client();
    client.post(kChatPath, chat_body("a"));
    served += client.receive().status == 200 ? 1 : 0;
  }
}

TEST(HttpLimits, chunked_body_is_read) {
  Rig rig;
  const HttpResponse response = answer_to(
      rig,
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n10\r\n{\"model\":\"tiny\",\r\n"
      "e\r\n\"prompt\":\"abc\"\r\n1\r\n}\r\n0\r\n\r\n");
  EXPECT_EQ(response.json()["choices"][0]["text"], "abc");
}

TEST(HttpLimits, what_is_no_http_is_refused) {
  Rig rig;
  EXPECT_EQ(answer_to(rig, "what?\r\n\r\n").status, 400);
  EXPECT_EQ(answer_to(rig, "GET / HTTP/2.0\r\n\r\n").status, 505);
  EXPECT_EQ(answer_to(rig,
                      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                      "application/json\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcde")
                .status,
            400);
  EXPECT_EQ(answer_to(rig,
                      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                      "application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
                      "\r\n0\r\n\r\n")
                .status,
            400);
  HttpClient client = rig.client();
  client.send(std::string("\x16\x03\x01\x02\x00\x01\x00\x01", 8));  // a client of TLS
  client.leave();
  EXPECT_EQ(answer_to(rig, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
}

TEST(HttpLimits, one_connection_too_many_is_told_so) {
  Rig rig([](HttpSettings& settings) { settings.max_connections = 2; }, {.gated = true});
  HttpClient first = rig.client();
  first.post(kChatPath, chat_body("a"));
  HttpClient second = rig.client();
  second.post(kChatPath, chat_body("b"));
  rig.engine.wait_for_answers(2);
  HttpClient third = rig.client();
  EXPECT_EQ(third.receive().status, 503);
}

TEST(HttpLimits, idle_connection_makes_room_for_a_new_one) {
  Rig rig([](HttpSettings& settings) { settings.max_connections = 2; });
  std::vector<std::unique_ptr<HttpClient>> clients;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(std::make_unique<HttpClient>(rig.server->url()));
    clients.back()->get("/healthz");
    EXPECT_EQ(clients.back()->receive().status, 200);
  }
  EXPECT_TRUE(clients.front()->is_closed());
}

TEST(HttpLimits, connection_that_says_nothing_makes_room_for_a_new_one) {
  Rig rig([](HttpSettings& settings) { settings.max_connections = 2; }, {.gated = true});
  HttpClient busy = rig.client();
  busy.post(kChatPath, chat_body("a"));
  rig.engine.wait_for_answers(1);
  HttpClient silent = rig.client();
  silent.send("GET / HTTP/1.1\r\n");
  EXPECT_EQ(answer_to(rig, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
  EXPECT_TRUE(silent.is_closed());
}

TEST(HttpLimits, connection_that_takes_no_response_makes_room_unless_an_answer_was_let_in) {
  Rig rig([](HttpSettings& settings) { settings.max_connections = 2; }, {.gated = true});
  HttpClient busy = rig.client();
  busy.post(kChatPath, chat_body("a"));
  rig.engine.wait_for_answers(1);
  HttpClient takes_nothing(rig.server->url(), 4096);
  std::string pages;  // many times what the kernel holds
  for (int i = 0; i < 400; ++i) pages += "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
  takes_nothing.send(pages);
  EXPECT_THAT(takes_nothing.receive_until("\r\n\r\n"), HasSubstr(" 200 "));
  EXPECT_EQ(answer_to(rig, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
  EXPECT_TRUE(takes_nothing.is_closed());
  rig.engine.let(25);  // as many as it takes
  EXPECT_EQ(busy.receive().status, 200);
}

TEST(HttpLimits, slow_senders_reach_a_deadline) {
  Rig rig([](HttpSettings& settings) {
    settings.head_timeout = settings.body_timeout = std::chrono::milliseconds(50);
  });
  EXPECT_EQ(answer_to(rig, "GET / HTTP/1.1\r\n").status, 408);
  EXPECT_EQ(answer_to(rig,
                      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                      "application/json\r\nContent-Length: 10\r\n\r\n{")
                .status,
            408);
  // One that says nothing is only closed.
  EXPECT_EQ(answer_to(rig, "").status, 0);
}

TEST(HttpLimits, idle_connections_reach_a_deadline) {
  Rig rig([](HttpSettings& settings) { settings.idle_timeout = std::chrono::milliseconds(50); });
  HttpClient client = rig.client();
  client.get("/healthz");
  EXPECT_EQ(client.receive().status, 200);
  EXPECT_TRUE(client.is_closed());
}

TEST(HttpLimits, slow_reader_is_cancelled_when_its_buffer_is_full) {
  Rig rig({}, endless());
  HttpClient client(rig.server->url(), 4096);
  client.post(kChatPath, chat_body("abc", R"(,"stream":true)"));
  let_a_long_answer(rig.engine);
  rig.engine.wait_for_ended(1);
}

TEST(HttpLimits, slow_reader_is_cancelled_when_it_takes_nothing_for_long) {
  Rig rig(
      [](HttpSettings& settings) {
        settings.max_unread_bytes = std::size_t{1} << 40;
        settings.read_timeout = std::chrono::milliseconds(100);
      },
      endless());
  HttpClient client(rig.server->url(), 4096);
  client.post(kChatPath, chat_body("abc", R"(,"stream":true)"));
  let_a_long_answer(rig.engine);
  rig.engine.wait_for_ended(1);
}

TEST(HttpLimits, client_that_sends_on_and_on_is_dropped) {
  Rig rig({}, {.gated = true});
  HttpClient client = rig.client();
  client.post(kChatPath, chat_body("a"));
  rig.engine.wait_for_answers(1);
  client.send(std::string(200'000, 'x'));
  rig.engine.wait_for_answers(0);
  EXPECT_TRUE(client.is_closed());
}

TEST(HttpLimits, tls_shows_the_certificate_that_was_made) {
  auto tls = std::move(TlsMaterial::self_signed("127.0.0.1")).value();
  Rig rig([&](HttpSettings& settings) { settings.tls = tls; }, {.gated = true});
  EXPECT_TRUE(rig.server->url().starts_with("https://"));
  HttpClient client = rig.client();
  EXPECT_EQ(client.fingerprint(), tls.fingerprint);
  client.post(kChatPath, chat_body("hello", R"(,"stream":true)"));
  rig.engine.wait_for_answers(1);
  rig.engine.let(25);  // as many as it takes
  EXPECT_EQ(client.receive().streamed_text(), "user\nhello\nassistant\n");
  // Also seen when it leaves while nothing is written.
  client.post(kChatPath, chat_body("hello"));
  HttpClient other = rig.client();
  other.post(kChatPath, chat_body("other"));
  rig.engine.wait_for_answers(2);
  client.leave();
  rig.engine.wait_for_answers(1);
}

TEST(HttpLimits, plain_client_of_a_tls_server_is_closed) {
  auto tls = std::move(TlsMaterial::self_signed("127.0.0.1")).value();
  Rig rig([&](HttpSettings& settings) { settings.tls = tls; });
  HttpClient client("http://" + rig.server->url().substr(8));
  client.get("/healthz");
  EXPECT_TRUE(client.is_closed());
}

}  // namespace
}  // namespace airlock
