#include "tests/tee_runner/serve/http_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cstdlib>

#include "base/check.h"

namespace airlock {
namespace {

constexpr long kWatchdogS = 60;

}  // namespace

struct HttpClient::Tls {
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL* session = SSL_new(context);
  ~Tls() {
    SSL_free(session);
    SSL_CTX_free(context);
  }
};

std::vector<nlohmann::json> HttpResponse::events() const {
  std::vector<nlohmann::json> events;
  std::string_view text = body;
  for (std::size_t end = text.find("\n\n"); end != std::string_view::npos;
       end = text.find("\n\n")) {
    const std::string_view event = text.substr(6, end - 6);
    events.push_back(event == "[DONE]" ? nlohmann::json("[DONE]") : nlohmann::json::parse(event));
    text.remove_prefix(end + 2);
  }
  return events;
}

std::string HttpResponse::streamed_text() const {
  std::string text;
  for (const auto& event : events()) {
    if (!event.is_object() || event.value("choices", nlohmann::json::array()).empty()) continue;
    text += event["choices"][0]["delta"].value("content", "");
  }
  return text;
}

HttpClient::HttpClient(const std::string& url, int receive_buffer_bytes) {
  const bool is_tls = url.starts_with("https://");
  host_ = url.substr(url.find("://") + 3);
  fd_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  CHECK(fd_.valid());
  if (receive_buffer_bytes > 0)
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes,
                 sizeof(receive_buffer_bytes));
  const timeval watchdog{kWatchdogS, 0};
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &watchdog, sizeof(watchdog));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port =
      htons(static_cast<std::uint16_t>(std::atoi(host_.c_str() + host_.rfind(':') + 1)));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  if (!is_tls) return;
  tls_ = std::make_unique<Tls>();
  SSL_set_fd(tls_->session, fd_.get());
  if (SSL_connect(tls_->session) != 1) fd_.reset();
}

HttpClient::~HttpClient() = default;

void HttpClient::send(std::string_view bytes) {
  if (tls_) {
    SSL_write(tls_->session, bytes.data(), static_cast<int>(bytes.size()));
    return;
  }
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) return;  // the reader will see why
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
}

void HttpClient::get(std::string_view path, std::string_view headers) {
  send(fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\n{}\r\n", path, host_, headers));
}

void HttpClient::post(std::string_view path, std::string_view body, std::string_view headers) {
  send(
      fmt::format("POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n"
                  "Content-Length: {}\r\n{}\r\n{}",
                  path, host_, body.size(), headers, body));
}

std::size_t HttpClient::read_some(char* to, std::size_t bytes) {
  if (!fd_.valid()) return 0;
  const ssize_t got =
      tls_ ? SSL_read(tls_->session, to, static_cast<int>(bytes)) : ::recv(fd_.get(), to, bytes, 0);
  CHECK(got >= 0 || tls_ || errno != EAGAIN);  // the watchdog
  return got > 0 ? static_cast<std::size_t>(got) : 0;
}

std::string HttpClient::receive_until(std::string_view end) {
  for (;;) {
    const std::size_t at = received_.find(end);
    if (at != std::string::npos) {
      std::string text = received_.substr(0, at + end.size());
      received_.erase(0, at + end.size());
      return text;
    }
    std::array<char, 4096> piece;
    const std::size_t got = read_some(piece.data(), piece.size());
    if (got == 0) return std::exchange(received_, {});
    received_.append(piece.data(), got);
  }
}

HttpResponse HttpClient::receive() {
  HttpResponse response;
  response.head = receive_until("\r\n\r\n");
  if (!response.head.starts_with("HTTP/1.1 ")) return response;
  response.status = std::atoi(response.head.c_str() + 9);
  const auto exactly = [this](std::size_t bytes) {
    std::string text;
    std::array<char, 4096> piece;
    while (received_.size() < bytes) {
      const std::size_t got = read_some(piece.data(), piece.size());
      if (got == 0) break;
      received_.append(piece.data(), got);
    }
    text = received_.substr(0, bytes);
    received_.erase(0, bytes);
    return text;
  };
  const std::size_t length = response.head.find("Content-Length: ");
  if (length != std::string::npos) {
    response.body = exactly(std::strtoul(response.head.c_str() + length + 16, nullptr, 10));
    return response;
  }
  for (;;) {
    const std::string line = receive_until("\r\n");
    const std::size_t bytes = std::strtoul(line.c_str(), nullptr, 16);
    response.body += exactly(bytes);
    receive_until("\r\n");
    if (bytes == 0) return response;
  }
}

bool HttpClient::is_closed() {
  std::array<char, 4096> piece;
  while (read_some(piece.data(), piece.size()) > 0) {
  }
  return true;
}

void HttpClient::leave() {
  const linger at_once{1, 0};
  ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  fd_.reset();
}

std::string HttpClient::fingerprint() const {
  X509* const certificate = SSL_get1_peer_certificate(tls_->session);
  CHECK(certificate != nullptr);
  std::array<unsigned char, 32> digest;
  CHECK(X509_digest(certificate, EVP_sha256(), digest.data(), nullptr) == 1);
  X509_free(certificate);
  std::string text;
  for (const unsigned char byte : digest) text += fmt::format("{:02x}", byte);
  return text;
}

std::string chat_body(std::string_view text, std::string_view more) {
  return fmt::format(R"({{"model":"tiny","messages":[{{"role":"user","content":"{}"}}]{}}})", text,
                     more);
}

}  // namespace airlock
