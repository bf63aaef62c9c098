#include "gpu_server/page_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/thread.h"
#include "gpu_server/http_request.h"

namespace airlock {
namespace {

constexpr std::chrono::milliseconds kPause{100};

UniqueFd open_reserve() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

int milliseconds_until(Deadline deadline) {
  return static_cast<int>(
      std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining()).count());
}

/// A whole answer; of HEAD without its text.
std::string response(std::string_view status, std::string_view type, std::string_view text,
                     bool head_only = false, std::string_view more_headers = {}) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n{}",
      status, type, text.size(), more_headers, head_only ? std::string_view() : text);
}

std::string refusal(std::string_view status, bool head_only = false,
                    std::string_view more_headers = {}) {
  return response(status, "text/plain", fmt::format("{}\n", status), head_only, more_headers);
}

}  // namespace

struct PageServer::Connection {
  enum class Stage {
    kRequest,
    kAnswer,
    // The answer is on its way. What the client still sends is read, for to close before would take
    // the answer from it.
    kFarewell,
  };
  explicit Connection(UniqueFd socket) : fd(std::move(socket)) {}
  void enter(Stage next) {
    stage = next;
    deadline = Deadline::after(kPatience);
  }

  UniqueFd fd;
  Stage stage = Stage::kRequest;
  Deadline deadline = Deadline::after(kPatience);
  std::string received;
  std::string answer;
  std::size_t sent = 0;
};

PageServer::PageServer(UniqueFd listener, std::vector<Page> pages)
    : listener_(std::move(listener)), pages_(std::move(pages)), reserve_(open_reserve()) {}

Result<std::unique_ptr<PageServer>> PageServer::start(UniqueFd listener, std::vector<Page> pages) {
  std::unique_ptr<PageServer> server(new PageServer(std::move(listener), std::move(pages)));
  RETURN_IF_ERROR(server->wake_.check());
  ASSIGN_OR_RETURN(server->thread_,
                   start_thread("the pages", [self = server.get()] { self->serve(); }));
  return server;
}

PageServer::~PageServer() {
  stopping_.store(true, std::memory_order_relaxed);  // the join orders the rest
  wake_.set();
  if (thread_.joinable()) thread_.join();
}

// The thread's root.
void PageServer::serve() {
  while (!stopping_.load(std::memory_order_relaxed)) {
    const Status status = without_exceptions([this] { return serve_round(); });
    if (status.ok()) continue;
    // Nobody's connection is worth more than the page for the next one.
    connections_.clear();
    failures_.log(LogLevel::kWarning, status.message());
    pollfd stop{wake_.fd(), POLLIN, 0};
    ::poll(&stop, 1, static_cast<int>(kPause.count()));
  }
}

Status PageServer::serve_round() {
  if (!reserve_.valid()) reserve_ = open_reserve();
  const bool accepts = next_accept_.expired();
  std::vector<pollfd> waiting = {{wake_.fd(), POLLIN, 0},
                                 {accepts ? listener_.get() : -1, POLLIN, 0}};
  int timeout_ms = accepts ? -1 : milliseconds_until(next_accept_);
  for (const Connection& each : connections_) {
    const bool writes = each.stage == Connection::Stage::kAnswer;
    waiting.push_back({each.fd.get(), static_cast<short>(writes ? POLLOUT : POLLIN), 0});
    const int left_ms = milliseconds_until(each.deadline);
    timeout_ms = timeout_ms < 0 ? left_ms : std::min(timeout_ms, left_ms);
  }
  if (::poll(waiting.data(), waiting.size(), timeout_ms) < 0 && errno != EINTR)
    return os_error("wait for clients of the pages", errno);
  std::size_t place = 2;
  std::erase_if(connections_, [&](Connection& each) {
    return waiting[place++].revents != 0 ? !advance(each) : each.deadline.expired();
  });
  if (waiting[1].revents != 0) accept_clients();
  return {};
}

void PageServer::accept_clients() {
  // As many at once as there can be: those that are here already are served between two rounds.
  for (std::size_t i = 0; i < kMaxConnections; ++i) {
    // Without a free descriptor accept() fails before it looks whether anybody waits.
    pollfd waiting{listener_.get(), POLLIN, 0};
    if (::poll(&waiting, 1, 0) != 1) return;
    const int accepted = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (accepted >= 0) {
      if (connections_.size() >= kMaxConnections) drop_one();
      connections_.emplace_back(UniqueFd(accepted));
      // What it asks for is often here already; then no newer one takes its place.
      if (!advance(connections_.back())) connections_.pop_back();
      continue;
    }
    if (errno == EAGAIN) return;
    if (errno == EMFILE || errno == ENFILE) {
      if (!connections_.empty()) {
        drop_one();
        continue;
      }
      if (reserve_.valid()) {
        reserve_.reset();
        continue;
      }
    }
    const bool of_the_client = errno == EINTR || errno == ECONNABORTED || errno == EPROTO;
    if (of_the_client) continue;
    next_accept_ = Deadline::after(kPause);
    return;
  }
}

void PageServer::drop_one() {
  const auto at = [this](Connection::Stage stage) {
    return std::ranges::find(connections_, stage, &Connection::stage);
  };
  auto worst = at(Connection::Stage::kFarewell);
  if (worst == connections_.end()) worst = at(Connection::Stage::kRequest);
  connections_.erase(worst == connections_.end() ? connections_.begin() : worst);
}

// false: the connection is over.
bool PageServer::advance(Connection& connection) {
  if (connection.stage == Connection::Stage::kRequest) return read_request(connection);
  if (connection.stage == Connection::Stage::kAnswer) return write_answer(connection);
  std::array<char, 4096> dropped;
  const ssize_t got = ::recv(connection.fd.get(), dropped.data(), dropped.size(), MSG_DONTWAIT);
  return (got > 0 && !connection.deadline.expired()) ||
         (got < 0 && (errno == EAGAIN || errno == EINTR));
}

bool PageServer::read_request(Connection& connection) {
  std::array<char, 4096> piece;
  const ssize_t got = ::recv(connection.fd.get(), piece.data(), piece.size(), MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 0 || connection.deadline.expired()) return false;
  connection.received.append(piece.data(), static_cast<std::size_t>(got));
  connection.answer = answer(connection.received);
  if (connection.answer.empty()) return true;
  connection.enter(Connection::Stage::kAnswer);
  return write_answer(connection);
}

bool PageServer::write_answer(Connection& connection) {
  while (connection.sent < connection.answer.size()) {
    const ssize_t count =
        ::send(connection.fd.get(), connection.answer.data() + connection.sent,
               connection.answer.size() - connection.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0) {
      return (errno == EAGAIN || errno == EINTR) && !connection.deadline.expired();
    }
    connection.sent += static_cast<std::size_t>(count);
  }
  ::shutdown(connection.fd.get(), SHUT_WR);
  connection.enter(Connection::Stage::kFarewell);
  return true;
}

// Empty: the request is not whole yet.
std::string PageServer::answer(std::string_view received) {
  const HttpRequest request = read_http_request(received);
  switch (request.state) {
    case HttpRequest::State::kIncomplete:
      return {};
    case HttpRequest::State::kTooLong:
      return refusal("431 Request Header Fields Too Large");
    case HttpRequest::State::kMalformed:
      return refusal("400 Bad Request");
    case HttpRequest::State::kOtherVersion:
      return refusal("505 HTTP Version Not Supported");
    case HttpRequest::State::kComplete:
      break;
  }
  const bool head_only = request.method == "HEAD";
  const auto page = std::ranges::find(pages_, request.path, &Page::path);
  if (page == pages_.end()) return refusal("404 Not Found", head_only);
  if (!head_only && request.method != "GET")
    return refusal("405 Method Not Allowed", false, "Allow: GET, HEAD\r\n");
  PageText shown;
  const Status made = without_exceptions([&]() -> Status {
    shown = page->show();
    return {};
  });
  if (made.ok()) {
    return response(shown.is_bad ? "503 Service Unavailable" : "200 OK", page->content_type,
                    shown.text, head_only);
  }
  failures_.log(LogLevel::kWarning, made.message());
  return refusal("500 Internal Server Error", head_only);
}

}  // namespace airlock
