#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/log_limiter.h"
#include "base/status.h"
#include "base/unique_fd.h"
#include "base/wake_event.h"

namespace airlock {

/// What a page shows now; with status 503 where it says that something is not as it should be.
struct PageText {
  std::string text;
  bool is_bad = false;
};

/// One of the pages that there are.
struct Page {
  std::string path;
  std::string content_type;
  // Called for each GET and HEAD, from the server's thread; what it throws is a 500.
  std::function<PageText()> show;
};

/// Serves pages by HTTP/1, GET and HEAD, to anybody who reaches its socket, with one thread of
/// its own. No client holds up another one: connections are waited for together, each has a second
/// for its request and one for taking the answer, and where a new one comes while there are
/// kMaxConnections one goes: the oldest that has its answer, else the oldest that has said nothing
/// whole, else the oldest. Each is closed after its answer.
/// Where the process has no descriptor left, one in reserve serves a client at a time.
class PageServer {
 public:
  static constexpr std::size_t kMaxConnections = 16;
  static constexpr std::chrono::seconds kPatience{1};

  /// `listener` listens and does not block. kResourceExhausted: no descriptor or no thread.
  static Result<std::unique_ptr<PageServer>> start(UniqueFd listener, std::vector<Page> pages);
  /// Ends the thread; what is under way is dropped.
  ~PageServer();
  PageServer(const PageServer&) = delete;
  PageServer& operator=(const PageServer&) = delete;

 private:
  struct Connection;
  using Connections = std::list<Connection>;

  PageServer(UniqueFd listener, std::vector<Page> pages);
  void serve();
  Status serve_round();
  void accept_clients();
  void drop_one();
  std::string answer(std::string_view received);
  bool advance(Connection& connection);
  bool read_request(Connection& connection);
  bool write_answer(Connection& connection);

  const UniqueFd listener_;
  const std::vector<Page> pages_;
  WakeEvent wake_;
  std::atomic<bool> stopping_{false};

  // The thread's own. The oldest connection is the first.
  UniqueFd reserve_;
  Connections connections_;
  // After accept() failed for want of something: not before.
  Deadline next_accept_ = Deadline::now();
  LogLimiter failures_;
  std::thread thread_;
};

}  // namespace airlock
