#include "tee_runner/serve/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>
#include <utility>

#include "base/thread.h"
#include "tee_runner/serve/serve_page.h"

namespace airlock {

namespace asio = boost::asio;
namespace http = boost::beast::http;

namespace {

/// More than all other clients' largest requests take.
constexpr std::chrono::minutes kMostPreparing{5};

}  // namespace

Connection::Connection(ServeState& state, std::unique_ptr<ByteStream> stream)
    : state_(state), stream_(std::move(stream)) {
  boost::system::error_code error;
  const auto peer = stream_->socket().remote_endpoint(error);
  if (error) return;
  const auto address = peer.address();
  from_loopback_ = address.is_loopback() ||
                   (address.is_v6() && address.to_v6().is_v4_mapped() &&
                    asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).is_loopback());
}

/// The root of what the network's thread does for this client: what is thrown ends this client
/// alone.
void Connection::guard(const std::function<void()>& body) {
  if (stage_ == Stage::kClosed) return;
  const Status status = without_exceptions([&]() -> Status {
    body();
    return {};
  });
  if (status.ok()) return;
  state_.failures.log(LogLevel::kWarning, "serve: a connection failed: " + status.message());
  close(CancelCause::kShutdown);
}

void Connection::enter(Stage stage, std::optional<Deadline> deadline) {
  stage_ = stage;
  stage_since_ns_ = now_ns();
  deadline_ = deadline;
}

void Connection::start() {
  enter(Stage::kHandshake, Deadline::after(state_.settings.head_timeout));
  stream_->handshake([self = shared_from_this()](const auto& error, std::size_t) {
    self->guard([&] {
      if (error) return self->close(CancelCause::kClientLeft);
      self->enter(Stage::kIdle, Deadline::after(self->state_.settings.head_timeout));
      self->read();
    });
  });
}

void Connection::read() {
  stream_->read_some(asio::buffer(chunk_),
                     [self = shared_from_this()](const auto& error, std::size_t bytes) {
                       self->guard([&] { self->on_read(error, bytes); });
                     });
}

void Connection::on_read(const boost::system::error_code& error, std::size_t bytes) {
  if (error) return on_end_of_input();
  // The rest of a request that was refused.
  if (stage_ == Stage::kFarewell || (stage_ == Stage::kFlushing && !keep_alive_)) {
    dropped_bytes_ += bytes;
    if (dropped_bytes_ > state_.settings.max_body_bytes) return close(CancelCause::kClientLeft);
    return read();
  }
  input_.append(chunk_.data(), bytes);
  advance();
  if (stage_ == Stage::kClosed) return;
  if (input_.size() > kMaxAheadBytes) return close(CancelCause::kClientLeft);
  read();
}

void Connection::on_end_of_input() {
  // A response that is whole is sent to its end, as far as the client takes it.
  if (stage_ == Stage::kFlushing && writing_) {
    input_ended_ = true;
    return;
  }
  close(CancelCause::kClientLeft);
}

void Connection::advance() {
  if (stage_ == Stage::kIdle) {
    // A client may send an empty line after a body.
    std::size_t blank_bytes = 0;
    while (input_.compare(blank_bytes, 2, "\r\n") == 0) blank_bytes += 2;
    input_.erase(0, blank_bytes);
    if (!input_.empty()) begin_request();
  }
  if (stage_ == Stage::kHead) read_head();
  if (stage_ == Stage::kBody) read_body();
}

void Connection::begin_request() {
  parser_.emplace();
  parser_->header_limit(state_.settings.max_header_bytes);
  parser_->body_limit(state_.settings.max_body_bytes);
  admission_ = {};
  request_began_ns_ = now_ns();
  is_let_in_ = false;
  head_only_ = false;
  keep_alive_ = false;
  head_sent_ = false;
  status_ = 0;
  enter(Stage::kHead, Deadline::after(state_.settings.head_timeout));
}

/// false: more is needed, or the request was refused.
bool Connection::put() {
  if (input_.empty()) return false;
  boost::system::error_code error;
  const std::size_t used = parser_->put(asio::buffer(input_), error);
  input_.erase(0, used);
  if (!error) return used > 0;
  if (error != http::error::need_more) refuse_parse(error);
  return false;
}

void Connection::read_head() {
  while (stage_ == Stage::kHead && !parser_->is_header_done()) {
    if (!put() && !(stage_ == Stage::kHead && parser_->is_header_done())) return;
  }
  if (stage_ == Stage::kHead) on_head();
}

void Connection::refuse_parse(const boost::system::error_code& error) {
  ApiError refusal{.message = "this is no HTTP request that is understood here"};
  if (error == http::error::body_limit) {
    refusal = {.status = 413,
               .message = fmt::format("a body may have {} bytes", state_.settings.max_body_bytes)};
  } else if (error == http::error::header_limit) {
    refusal = {.status = 431,
               .message = fmt::format("the head of a request may have {} bytes",
                                      state_.settings.max_header_bytes)};
  } else if (error == http::error::bad_version) {
    refusal = {.status = 505, .message = "HTTP/1.1 is spoken here"};
  }
  refuse(refusal, KeepAlive::kNo);
}

std::string_view Connection::field(http::field name) const {
  const auto value = parser_->get()[name];
  return {value.data(), value.size()};
}

void Connection::on_head() {
  const auto& request = parser_->get();
  const auto length = parser_->content_length();
  const bool has_body = parser_->chunked() || (length && *length > 0);
  head_only_ = request.method() == http::verb::head;
  keep_alive_ = request.keep_alive();
  const auto method = request.method_string();
  const auto target = request.target();
  admission_ = admit({.method = {method.data(), method.size()},
                      .target = {target.data(), target.size()},
                      .host = field(http::field::host),
                      .origin = field(http::field::origin),
                      .authorization = field(http::field::authorization),
                      .content_type = field(http::field::content_type),
                      .content_encoding = field(http::field::content_encoding),
                      .has_body = has_body,
                      .from_loopback = from_loopback_},
                     state_.settings);
  // What was not read of a request cannot be told from the next one.
  const KeepAlive keep = has_body ? KeepAlive::kNo : KeepAlive::kIfAsked;
  if (admission_.refusal) {
    const std::string allow =
        admission_.allow.empty() ? "" : fmt::format("Allow: {}\r\n", admission_.allow);
    return refuse(*admission_.refusal, keep, allow);
  }
  if (admission_.route != Route::kCompletions && admission_.route != Route::kChat)
    return serve_get(admission_.route);
  if (state_.draining) return refuse(api_error(Status(StatusCode::kUnavailable, "")), keep);
  const std::size_t wanted =
      length ? static_cast<std::size_t>(*length) : (has_body ? state_.settings.max_body_bytes : 0);
  if (wanted > state_.settings.max_body_bytes)
    return refuse_parse(make_error_code(http::error::body_limit));
  if (state_.bodies_bytes + wanted > state_.settings.max_bodies_bytes) {
    return refuse(api_error(Status(StatusCode::kResourceExhausted, "")), keep);
  }
  is_let_in_ = true;
  reserved_bytes_ = wanted;
  state_.bodies_bytes += wanted;
  if (boost::beast::iequals(request[http::field::expect], "100-continue") && has_body)
    send("HTTP/1.1 100 Continue\r\n\r\n");
  parser_->eager(true);
  enter(Stage::kBody, Deadline::after(state_.settings.body_timeout));
}

void Connection::read_body() {
  while (!parser_->is_done()) {
    if (!put() && (stage_ != Stage::kBody || !parser_->is_done())) return;
  }
  on_body();
}

/// What was read of a request by another thread.
struct Connection::Prepared {
  std::optional<CompletionRequest> request;
  std::optional<Prompt> prompt;
  ApiError error{};
};

void Connection::on_body() {
  enter(Stage::kPreparing, Deadline::after(kMostPreparing));
  preparing_ = true;
  const CompletionKind kind =
      admission_.route == Route::kChat ? CompletionKind::kChat : CompletionKind::kText;
  std::string body = std::move(parser_->get().body());
  asio::post(state_.work, [self = shared_from_this(), model = state_.model, kind,
                           body = std::move(body)]() mutable {
    Prepared prepared;
    const Status status = without_exceptions([&]() -> Status {
      if (self->has_left_.load(std::memory_order_relaxed)) return {};
      prepared.request = read_completion_request(body, kind, prepared.error);
      if (prepared.request) prepared.prompt = model->prepare(*prepared.request, prepared.error);
      return {};
    });
    if (!status.ok()) {
      prepared.prompt.reset();
      prepared.error = api_error(status);
    }
    body = {};
    // The last hold on the connection goes with it: connections end on the network's thread.
    asio::io_context& io = self->state_.io;
    asio::post(io, [self = std::move(self), prepared = std::move(prepared)]() mutable {
      self->end_preparing();
      self->guard([&] { self->on_prepared(std::move(prepared)); });
    });
  });
}

/// A client that left meanwhile kept its place and its share of the bodies: else those who come and
/// go would fill the other threads' queue.
void Connection::end_preparing() {
  preparing_ = false;
  if (stage_ != Stage::kClosed) return;
  release_body();
  state_.connections.erase(shared_from_this());
}

void Connection::release_body() { state_.bodies_bytes -= std::exchange(reserved_bytes_, 0); }

void Connection::serve_get(Route route) {
  switch (route) {
    case Route::kHealth:
      return serve_state(state_.engine.liveness(), "ok\n");
    case Route::kReady:
      return serve_state(state_.readiness(), "ready\n");
    case Route::kPage:
      return respond(200, "text/html; charset=utf-8", std::string(serve_page().text),
                     KeepAlive::kIfAsked, serve_page().headers);
    case Route::kMetrics: {
      const auto answers = std::ranges::count_if(state_.connections,
                                                 [](const auto& c) { return c->is_answering(); });
      return respond(
          200, "text/plain; version=0.0.4; charset=utf-8",
          state_.metrics.text({state_.connections.size(), static_cast<std::size_t>(answers),
                               state_.readiness().ok(), state_.leaving, state_.engine.figures()}));
    }
    case Route::kModels:
      return respond(200, "application/json", models_json(*state_.model));
    default: {
      const auto target = parser_->get().target();
      if (model_in({target.data(), target.size()}) == state_.model->name())
        return respond(200, "application/json", model_json(*state_.model));
      return refuse({.status = 404,
                     .message = "there is no such model here",
                     .param = "model",
                     .code = "model_not_found"});
    }
  }
}

void Connection::serve_state(const Status& state, std::string_view good) {
  if (state.ok()) return respond(200, "text/plain", std::string(good));
  respond(503, "text/plain", state.message() + "\n", KeepAlive::kIfAsked, "Retry-After: 1\r\n");
}

void Connection::on_prepared(Prepared prepared) {
  release_body();
  if (!prepared.request || !prepared.prompt) return refuse(prepared.error);
  if (prepared.request->stream && parser_->get().version() < 11) {
    return refuse({.message = "'stream' needs HTTP/1.1", .param = "stream"}, KeepAlive::kNo);
  }
  if (state_.draining) return refuse(api_error(Status(StatusCode::kUnavailable, "")));
  if (state_.engine.exceeds_context(prepared.prompt->ids.size())) {
    const bool is_chat = prepared.request->kind == CompletionKind::kChat;
    return refuse(
        {.message = fmt::format("the prompt has {} tokens; this model's context has {}, of which "
                                "an answer needs at least one",
                                prepared.prompt->ids.size(), state_.engine.context_length()),
         .param = is_chat ? "messages" : "prompt",
         .code = "context_length_exceeded"});
  }
  auto answer = Answer::create(state_.model, std::move(*prepared.request), state_.random());
  if (!answer.ok()) {
    return refuse({.message = answer.status().message(), .param = "stop"});
  }
  answer_.emplace(std::move(*answer));
  mailbox_ = std::make_shared<Mailbox>([weak = weak_from_this(), io = &state_.io] {
    asio::post(*io, [weak] {
      if (const auto self = weak.lock()) self->guard([&] { self->on_mail(); });
    });
  });
  enter(Stage::kAnswering, std::nullopt);
  const auto refusal = submit(*prepared.prompt);
  if (!refusal) return;
  drop_answer();
  refuse(*refusal);
}

std::optional<ApiError> Connection::submit(const Prompt& prompt) {
  const CompletionRequest& asked = answer_->request();
  const std::int64_t room =
      state_.engine.context_length() - static_cast<std::int64_t>(prompt.ids.size());
  GenerateRequest request{.prompt = prompt.ids,
                          .sampling = asked.sampling,
                          .max_tokens = std::min(asked.max_tokens.value_or(room), room),
                          .stop_ids = prompt.stop_ids,
                          .owner = admission_.owner};
  const std::uint64_t seed = asked.seed.value_or(state_.random());
  for (std::size_t i = 0; i < asked.choices; ++i) {
    request.sampling.seed = seed + i;
    const auto id = state_.engine.submit(request, mailbox_->sink(i));
    if (!id.ok()) return api_error(id.status());
    generations_.push_back(*id);
  }
  return std::nullopt;
}

void Connection::on_mail() {
  if (stage_ != Stage::kAnswering || mailbox_ == nullptr) return;
  for (const Mailbox::Letter& letter : mailbox_->take()) answer_->take(letter);
  if (mailbox_->is_broken()) answer_->fail(api_error(Status(StatusCode::kInternal, "")));
  for (const std::size_t choice : answer_->take_ended()) state_.engine.cancel(generations_[choice]);
  if (answer_->failure() && !head_sent_) {
    const ApiError failure = *answer_->failure();
    drop_answer();
    return refuse(failure);
  }
  if (answer_->request().stream) stream_events();
  if (stage_ != Stage::kAnswering) return;
  if (answer_->done() || answer_->failure()) finish_answer();
}

void Connection::stream_events() {
  const std::string events = answer_->take_events();
  if (events.empty()) return;
  if (!std::exchange(head_sent_, true)) {
    status_ = 200;
    send(response_head(200, "text/event-stream", "Transfer-Encoding: chunked\r\n", {}));
  }
  send(fmt::format("{:x}\r\n{}\r\n", events.size(), events));
  if (output_.size() + in_flight_.size() - sent_ > state_.settings.max_unread_bytes)
    close(CancelCause::kSlowClient);
}

void Connection::finish_answer() {
  state_.metrics.count_answer(answer_->usage(), answer_->ttft_ns(), now_ns() - request_began_ns_);
  const bool is_stream = answer_->request().stream;
  if (answer_->failure()) keep_alive_ = false;
  std::string whole = is_stream ? std::string() : answer_->whole();
  drop_answer();
  if (!is_stream) return respond(200, "application/json", std::move(whole));
  send("0\r\n\r\n");
  finish_response();
}

/// Nobody waits for it any more, or it is over.
void Connection::drop_answer() {
  if (mailbox_ == nullptr) return;
  mailbox_->close();
  mailbox_.reset();
  const bool over = answer_ && answer_->done();
  for (const GenerationId id : std::exchange(generations_, {})) {
    if (!over) state_.engine.cancel(id);
  }
  answer_.reset();
}

bool Connection::is_owed() const {
  return is_let_in_ && stage_ >= Stage::kPreparing && stage_ < Stage::kClosed;
}

Connection::Worth Connection::worth() const {
  if (stage_ == Stage::kIdle || stage_ == Stage::kFarewell) return Worth::kNone;
  return is_let_in_ ? Worth::kMuch : Worth::kLittle;
}

void Connection::cancel_answer() {
  guard([&] {
    if (stage_ != Stage::kAnswering) return;
    state_.metrics.count_cancelled(CancelCause::kShutdown);
    answer_->fail({.status = 503,
                   .message = "the server is shutting down",
                   .type = "server_error",
                   .code = "unavailable"});
    on_mail();
  });
}

void Connection::drain() {
  guard([&] {
    if (stage_ == Stage::kIdle || stage_ == Stage::kHandshake) return close(CancelCause::kShutdown);
    if (stage_ == Stage::kHead || stage_ == Stage::kBody)
      refuse(api_error(Status(StatusCode::kUnavailable, "")), KeepAlive::kNo);
  });
}

void Connection::check() {
  guard([&] {
    if (write_deadline_ && write_deadline_->expired()) return close(CancelCause::kSlowClient);
    if (stage_ == Stage::kAnswering && mailbox_->is_broken()) return on_mail();
    if (!deadline_ || !deadline_->expired()) return;
    if (stage_ == Stage::kHead || stage_ == Stage::kBody) {
      return refuse(
          {.status = 408, .message = "the request did not come in time", .code = "request_timeout"},
          KeepAlive::kNo);
    }
    close(CancelCause::kClientLeft);
  });
}

void Connection::close(CancelCause cause) {
  if (stage_ == Stage::kClosed) return;
  const bool answering = mailbox_ != nullptr || stage_ == Stage::kPreparing;
  if (answering || stage_ == Stage::kFlushing) {
    status_ = kClientLeftStatus;
    note_request();
  }
  enter(Stage::kClosed, std::nullopt);
  if (answering) state_.metrics.count_cancelled(cause);
  drop_answer();
  boost::system::error_code ignored;
  stream_->socket().close(ignored);
  has_left_.store(true, std::memory_order_relaxed);
  if (preparing_) return;
  release_body();
  state_.connections.erase(shared_from_this());
}

}  // namespace airlock
