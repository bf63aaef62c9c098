#include "gpu_server/page_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gpu_server/http_request.h"

namespace airlock::testing {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using State = HttpRequest::State;

constexpr std::string_view kGet = "GET /page HTTP/1.1\r\nHost: a\r\n\r\n";

class PageServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address_);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address_), bytes), 0);
    ASSERT_EQ(::listen(listener.get(), 64), 0);
    ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address_), &bytes), 0);
    auto server = PageServer::start(std::move(listener), pages());
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(server).value();
  }

  std::vector<Page> pages() {
    const auto page = [this] {
      const std::lock_guard lock(mutex_);
      if (fails_) throw std::bad_alloc();
      return PageText{text_};
    };
    return {{"/page", "text/plain", page}, {"/state", "text/plain", [] {
                                              return PageText{"it is bad\n", true};
                                            }}};
  }

  UniqueFd connect() const {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address_), sizeof(address_)),
              0);
    return fd;
  }
  static void say(const UniqueFd& fd, std::string_view words) {
    EXPECT_EQ(::send(fd.get(), words.data(), words.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(words.size()));
  }
  /// Until the server closes.
  static std::string hear(const UniqueFd& fd) {
    std::string all;
    std::array<char, 4096> piece;
    for (ssize_t got = 0; (got = ::recv(fd.get(), piece.data(), piece.size(), 0)) > 0;)
      all.append(piece.data(), static_cast<std::size_t>(got));
    return all;
  }
  std::string ask(std::string_view words) const {
    const UniqueFd fd = connect();
    say(fd, words);
    return hear(fd);
  }

  void set_text(std::string text) {
    const std::lock_guard lock(mutex_);
    text_ = std::move(text);
  }
  void set_fails(bool fails) {
    const std::lock_guard lock(mutex_);
    fails_ = fails;
  }

  std::mutex mutex_;
  // Read by the server's thread under mutex_; changed by the test alone.
  std::string text_ = "what there is\n";
  bool fails_ = false;
  sockaddr_in address_{};
  std::unique_ptr<PageServer> server_;
};

TEST_F(PageServerTest, answers_get_and_head) {
  const std::string head =
      "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n"
      "Connection: close\r\n\r\n";
  EXPECT_EQ(ask(kGet), head + text_);
  EXPECT_EQ(ask("HEAD /page HTTP/1.1\r\nHost: a\r\n\r\n"), head);
  EXPECT_EQ(ask("GET /page?name=x HTTP/1.0\n\n"), head + text_);
  EXPECT_EQ(ask("\r\nGET http://host:1/page HTTP/1.1\r\n\r\n"), head + text_);
}

TEST_F(PageServerTest, a_page_may_say_that_something_is_bad) {
  const std::string answer = ask("GET /state HTTP/1.1\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 503 Service Unavailable\r\n"));
  EXPECT_THAT(answer, EndsWith("\r\n\r\nit is bad\n"));
}

TEST_F(PageServerTest, refuses_what_it_does_not_have) {
  EXPECT_THAT(ask("GET / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(ask("POST /other HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
  const std::string post = ask("POST /page HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
  EXPECT_THAT(post, StartsWith("HTTP/1.1 405 "));
  EXPECT_THAT(post, HasSubstr("\r\nAllow: GET, HEAD\r\n"));
  EXPECT_THAT(ask("HEAD /x HTTP/1.1\r\n\r\n"), EndsWith("\r\n\r\n"));
  EXPECT_THAT(ask("not airlock at all\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), StartsWith("HTTP/1.1 505 "));
}

TEST_F(PageServerTest, a_request_may_come_in_pieces_and_with_garbage_behind_it) {
  const UniqueFd fd = connect();
  for (const char& c : kGet) say(fd, {&c, 1});
  EXPECT_THAT(hear(fd), EndsWith(text_));
  EXPECT_THAT(ask(std::string(kGet) + std::string(100'000, 'x')), EndsWith(text_));
  EXPECT_THAT(ask(std::string(kGet) + std::string(kGet)), EndsWith("\r\n\r\n" + text_));
}

TEST_F(PageServerTest, endless_headers_are_cut_off) {
  std::string endless = "GET /page HTTP/1.1\r\n";
  while (endless.size() <= kMaxHttpHeadBytes) endless += "Name: value\r\n";
  EXPECT_THAT(ask(endless), StartsWith("HTTP/1.1 431 "));
}

TEST_F(PageServerTest, a_text_larger_than_a_socket_takes_comes_whole) {
  set_text(std::string(std::size_t{16} << 20, 'x'));
  EXPECT_THAT(ask(kGet).size(), ::testing::Gt(text_.size()));
}

TEST_F(PageServerTest, silent_clients_delay_nobody) {
  // More than there is room for, of each kind of silence; those that got no answer in their second
  // are closed, so that this ends.
  std::vector<UniqueFd> silent;
  for (int i = 0; i < 40; ++i) {
    silent.push_back(connect());
    if (i % 2 == 0) say(silent.back(), kGet.substr(0, 10));
    EXPECT_THAT(ask(kGet), EndsWith(text_)) << i;
  }
  for (const UniqueFd& fd : silent) EXPECT_EQ(hear(fd), "");
}

TEST_F(PageServerTest, one_that_takes_no_answer_is_dropped) {
  set_text(std::string(std::size_t{16} << 20, 'x'));
  const UniqueFd deaf = connect();
  say(deaf, kGet);
  const UniqueFd also_deaf = connect();
  say(also_deaf, kGet);
  EXPECT_THAT(ask(kGet).size(), ::testing::Gt(text_.size()));
  // The second of this one ends after theirs.
  const UniqueFd silent = connect();
  EXPECT_EQ(hear(silent), "");
  // What their sockets hold; the rest was never sent.
  EXPECT_LT(hear(deaf).size(), text_.size());
  EXPECT_LT(hear(also_deaf).size(), text_.size());
}

TEST_F(PageServerTest, a_page_that_cannot_be_made_is_an_answer) {
  set_fails(true);
  EXPECT_THAT(ask(kGet), StartsWith("HTTP/1.1 500 "));
  set_fails(false);
  EXPECT_THAT(ask(kGet), StartsWith("HTTP/1.1 200 "));
}

TEST_F(PageServerTest, serves_where_no_descriptor_is_left) {
  const UniqueFd mine(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd second(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  std::vector<UniqueFd> taken;
  for (int fd = 0; (fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;) taken.emplace_back(fd);
  ASSERT_EQ(errno, EMFILE);
  for (const UniqueFd* fd : {&mine, &second}) {
    ASSERT_EQ(::connect(fd->get(), reinterpret_cast<sockaddr*>(&address_), sizeof(address_)), 0);
    say(*fd, kGet);
    EXPECT_THAT(hear(*fd), EndsWith(text_));
  }
}

TEST(HttpRequest, is_read_once_its_head_has_ended) {
  for (std::size_t bytes = 0; bytes < kGet.size(); ++bytes)
    EXPECT_EQ(read_http_request(kGet.substr(0, bytes)).state, State::kIncomplete) << bytes;
  const HttpRequest whole = read_http_request(kGet);
  EXPECT_EQ(whole.state, State::kComplete);
  EXPECT_EQ(whole.method, "GET");
  EXPECT_EQ(whole.path, "/page");
}

TEST(HttpRequest, is_refused_where_it_is_none) {
  for (const char* bad :
       {"\x16\x03\x01\n\n", "GET\n\n", "GET /\n\n", "GET  HTTP/1.1\n\n", " / HTTP/1.1\n\n",
        "GET / HTTP/1.1 \n\n", "GET / HTTP/11\n\n", "G\x01T / HTTP/1.1\n\n",
        "GET /\x7f HTTP/1.1\n\n", "GET / / HTTP/1.1\n\n", "GET /\u00e9 HTTP/1.1\n\n"})
    EXPECT_EQ(read_http_request(bad).state, State::kMalformed) << bad;
  EXPECT_EQ(read_http_request("GET / HTTP/3.0\n\n").state, State::kOtherVersion);
  EXPECT_EQ(read_http_request(std::string(kMaxHttpHeadBytes + 1, '\n')).state, State::kTooLong);
  EXPECT_EQ(read_http_request("GET http://h HTTP/1.1\n\n").path, "/");
}

}  // namespace
}  // namespace airlock::testing
