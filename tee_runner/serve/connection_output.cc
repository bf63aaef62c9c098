// How a Connection writes.

#include <fmt/format.h>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/http/verb.hpp>
#include <utility>

#include "tee_runner/serve/connection.h"

namespace airlock {

namespace asio = boost::asio;
namespace http = boost::beast::http;

namespace {

constexpr std::chrono::seconds kFarewellTime{2};

std::string_view reason_of(int status) {
  const auto reason = http::obsolete_reason(static_cast<http::status>(status));
  return {reason.data(), reason.size()};
}

}  // namespace

std::string Connection::response_head(int status, std::string_view type, std::string_view framing,
                                      std::string_view more_headers) {
  if (state_.leaving) keep_alive_ = false;
  return fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\n{}{}Cache-Control: no-store\r\n"
      "X-Content-Type-Options: nosniff\r\nConnection: {}\r\n\r\n",
      status, reason_of(status), type, framing, more_headers, keep_alive_ ? "keep-alive" : "close");
}

void Connection::respond(int status, std::string_view type, std::string body, KeepAlive keep_alive,
                         std::string_view more_headers) {
  if (keep_alive == KeepAlive::kNo) keep_alive_ = false;
  status_ = status;
  std::string text =
      response_head(status, type, fmt::format("Content-Length: {}\r\n", body.size()), more_headers);
  if (!head_only_) text += body;
  send(std::move(text));
  finish_response();
}

void Connection::refuse(const ApiError& error, KeepAlive keep_alive,
                        std::string_view more_headers) {
  std::string headers(more_headers);
  if (error.status == 429 || error.status == 503) headers += "Retry-After: 1\r\n";
  if (error.status == 401) headers += "WWW-Authenticate: Bearer\r\n";
  respond(error.status, "application/json", error_json(error), keep_alive, headers);
}

void Connection::note_request() {
  state_.metrics.count_request(admission_.route, status_);
  // Who looks again and again fills no log.
  if (admission_.route == Route::kHealth || admission_.route == Route::kReady) return;
  const http::verb verb = parser_ ? parser_->get().method() : http::verb::unknown;
  const auto name = http::to_string(verb);
  const std::string_view method =
      verb == http::verb::unknown ? "other" : std::string_view(name.data(), name.size());
  state_.access_log.log(LogLevel::kInfo,
                        fmt::format("serve: {} {} {} {} ms", method, name_of(admission_.route),
                                    status_, (now_ns() - request_began_ns_) / 1'000'000));
}

/// The response is whole: what is left is to send it.
void Connection::finish_response() {
  release_body();
  enter(Stage::kFlushing, std::nullopt);
  if (!writing_ && output_.empty()) on_flushed();
}

void Connection::on_flushed() {
  note_request();
  parser_.reset();
  enter(Stage::kFarewell, Deadline::after(kFarewellTime));
  if (input_ended_) return close(CancelCause::kClientLeft);
  if (keep_alive_ && !state_.draining) {
    enter(Stage::kIdle, Deadline::after(state_.settings.idle_timeout));
    // What came meanwhile.
    return advance();
  }
  boost::system::error_code ignored;
  stream_->socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
}

void Connection::send(std::string text) {
  if (output_.empty()) {
    output_ = std::move(text);
  } else {
    output_ += text;
  }
  if (!writing_ && !output_.empty()) {
    in_flight_ = std::exchange(output_, {});
    sent_ = 0;
    write_more();
  }
}

void Connection::write_more() {
  writing_ = true;
  write_deadline_ = Deadline::after(state_.settings.read_timeout);
  stream_->write_some(asio::buffer(in_flight_.data() + sent_, in_flight_.size() - sent_),
                      [self = shared_from_this()](const auto& error, std::size_t bytes) {
                        self->guard([&] { self->on_written(error, bytes); });
                      });
}

void Connection::on_written(const boost::system::error_code& error, std::size_t bytes) {
  if (error) return close(CancelCause::kClientLeft);
  sent_ += bytes;
  if (sent_ < in_flight_.size()) return write_more();
  in_flight_.clear();
  sent_ = 0;
  writing_ = false;
  write_deadline_.reset();
  if (!output_.empty()) return send({});
  if (stage_ == Stage::kFlushing) on_flushed();
}

}  // namespace airlock
