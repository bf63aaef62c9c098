#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace airlock {

struct HttpResponse {
  int status = 0;  // 0: the connection ended before
  std::string head;
  std::string body;
  nlohmann::json json() const { return nlohmann::json::parse(body); }
  /// The JSONs of a stream's events; "[DONE]" as a text.
  std::vector<nlohmann::json> events() const;
  /// Of a stream's conversation.
  std::string streamed_text() const;
};

/// A client's connection, plain or TLS, which waits for everything; a watchdog ends each wait.
class HttpClient {
 public:
  /// `url` as HttpServer::url() gives it. A receive buffer of 0 is the system's own.
  explicit HttpClient(const std::string& url, int receive_buffer_bytes = 0);
  ~HttpClient();

  void send(std::string_view bytes);
  void get(std::string_view path, std::string_view headers = {});
  void post(std::string_view path, std::string_view body, std::string_view headers = {});
  /// The next response, to its end.
  HttpResponse receive();
  /// What comes up to and with `end`; what came where the connection ends before.
  std::string receive_until(std::string_view end);
  /// Whether the server ends the connection, after whatever it still sends.
  bool is_closed();
  /// As a program that is killed does: at once.
  void leave();
  /// Of TLS: the digest of the server's certificate, in hex.
  std::string fingerprint() const;

 private:
  struct Tls;
  std::size_t read_some(char* to, std::size_t bytes);

  UniqueFd fd_;
  std::unique_ptr<Tls> tls_;
  std::string host_;
  std::string received_;
};

/// A body for /v1/chat/completions of "tiny".
std::string chat_body(std::string_view text, std::string_view more = {});

}  // namespace airlock
