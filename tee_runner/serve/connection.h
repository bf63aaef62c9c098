#pragma once
// Internal to tee_runner/serve.

#include <array>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "base/log_limiter.h"
#include "base/mix.h"
#include "tee_runner/generate/engine.h"
#include "tee_runner/serve/answer.h"
#include "tee_runner/serve/byte_stream.h"
#include "tee_runner/serve/http_settings.h"
#include "tee_runner/serve/mailbox.h"
#include "tee_runner/serve/routes.h"
#include "tee_runner/serve/serve_metrics.h"
#include "tee_runner/serve/served_model.h"

namespace airlock {

class Connection;

/// What all connections of a server share. All but `work` belongs to the network's thread.
struct ServeState {
  ServeState(const HttpSettings& of, std::shared_ptr<const ServedModel> served, Engine& asked)
      : settings(of), model(std::move(served)), engine(asked) {}

  const HttpSettings settings;
  const std::shared_ptr<const ServedModel> model;
  Engine& engine;
  // The network's thread runs this one; the other threads run `work`: what takes long.
  boost::asio::io_context io{1};
  boost::asio::io_context work;
  ServeMetrics metrics;
  LogLimiter access_log;
  LogLimiter failures;
  std::set<std::shared_ptr<Connection>> connections;
  std::size_t bodies_bytes = 0;
  std::uint64_t random_state = 0;
  // The end was asked for: /readyz says so, and no connection outlives its request.
  bool leaving = false;
  // No new request is answered.
  bool draining = false;

  /// What /readyz says.
  Status readiness() const {
    return leaving ? Status(StatusCode::kUnavailable, "shutting down") : engine.health();
  }
  /// For ids of responses, and for seeds that nobody asked for.
  std::uint64_t random() { return mix(random_state += 0x9e3779b97f4a7c15U); }
};

/// One client: its requests, one after the other, and the answers. Lives on the network's thread,
/// held by what is under way for it and by ServeState::connections. Something is always being read,
/// also while an answer is computed: so it is known at once when the client has left.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  /// Of what a client sends before its answer is there; one that sends more is dropped.
  static constexpr std::size_t kMaxAheadBytes = std::size_t{64} << 10;
  /// What is counted of a request whose client did not wait for all of the response.
  static constexpr int kClientLeftStatus = 499;

  Connection(ServeState& state, std::unique_ptr<ByteStream> stream);

  void start();
  /// Looks at the deadlines; called now and then.
  void check();
  /// What is lost with it: nothing, between two requests; little, where no completion was let in,
  /// so that who may not ask keeps nobody out, however slowly it takes what it is told.
  enum class Worth : std::uint8_t { kNone, kLittle, kMuch };
  Worth worth() const;
  /// Of worth().
  std::uint64_t since_ns() const { return stage_since_ns_; }
  bool is_answering() const { return mailbox_ != nullptr; }
  /// It asked for a completion that was let in, and the response is made or goes out: an end waits
  /// for it.
  bool is_owed() const;
  /// Ends it, or where an answer is under way says so after that.
  void drain();
  /// The answer that is under way ends now; the client is told.
  void cancel_answer();
  /// At once.
  void close(CancelCause cause);

 private:
  // In the order in which a request passes them, by which they are compared.
  enum class Stage : std::uint8_t {
    kHandshake,
    kIdle,
    kHead,
    kBody,
    // Another thread reads the request and makes its prompt.
    kPreparing,
    kAnswering,
    // The response is whole and goes out.
    kFlushing,
    // It is out, and no other one comes. What the client still sends is read: to close before would
    // take the response from it.
    kFarewell,
    kClosed,
  };
  enum class KeepAlive : std::uint8_t { kIfAsked, kNo };
  struct Prepared;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  void guard(const std::function<void()>& body);
  void enter(Stage stage, std::optional<Deadline> deadline);

  // Reading.
  void read();
  void on_read(const boost::system::error_code& error, std::size_t bytes);
  void on_end_of_input();
  void advance();
  void begin_request();
  void read_head();
  void on_head();
  void read_body();
  void on_body();
  bool put();
  void refuse_parse(const boost::system::error_code& error);
  std::string_view field(boost::beast::http::field name) const;

  // Answering.
  void serve_get(Route route);
  void serve_state(const Status& state, std::string_view good);
  void on_prepared(Prepared prepared);
  std::optional<ApiError> submit(const Prompt& prompt);
  void on_mail();
  void stream_events();
  void finish_answer();
  void drop_answer();
  void end_preparing();
  void release_body();

  // Writing.
  void respond(int status, std::string_view type, std::string body,
               KeepAlive keep_alive = KeepAlive::kIfAsked, std::string_view more_headers = {});
  void refuse(const ApiError& error, KeepAlive keep_alive = KeepAlive::kIfAsked,
              std::string_view more_headers = {});
  std::string response_head(int status, std::string_view type, std::string_view framing,
                            std::string_view more_headers);
  void note_request();
  void finish_response();
  void on_flushed();
  void send(std::string text);
  void write_more();
  void on_written(const boost::system::error_code& error, std::size_t bytes);

  ServeState& state_;
  const std::unique_ptr<ByteStream> stream_;
  bool from_loopback_ = false;
  Stage stage_ = Stage::kHandshake;
  std::uint64_t stage_since_ns_ = 0;
  std::optional<Deadline> deadline_;

  std::array<char, std::size_t{16} << 10> chunk_;
  // Not parsed yet.
  std::string input_;
  std::size_t dropped_bytes_ = 0;
  bool input_ended_ = false;

  // What goes out, what of it is being written, and how much of that has been.
  std::string output_;
  std::string in_flight_;
  std::size_t sent_ = 0;
  bool writing_ = false;
  std::optional<Deadline> write_deadline_;

  // Of the request.
  std::optional<Parser> parser_;
  Admission admission_;
  bool is_let_in_ = false;  // a completion, by a server that was not draining
  std::uint64_t request_began_ns_ = 0;
  std::size_t reserved_bytes_ = 0;
  bool preparing_ = false;
  // Tells the thread that prepares not to begin; what it makes is dropped in any case.
  std::atomic<bool> has_left_{false};
  bool head_only_ = false;
  bool keep_alive_ = false;
  bool head_sent_ = false;
  int status_ = 0;

  std::optional<Answer> answer_;
  std::shared_ptr<Mailbox> mailbox_;
  std::vector<GenerationId> generations_;
};

}  // namespace airlock
