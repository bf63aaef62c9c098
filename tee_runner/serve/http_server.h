#pragma once

#include <memory>
#include <string>

#include "base/deadline.h"
#include "base/status.h"
#include "tee_runner/generate/engine.h"
#include "tee_runner/serve/http_settings.h"
#include "tee_runner/serve/served_model.h"

namespace airlock {

/// OpenAI's endpoints over an engine: one thread for the network and two that read requests and
/// make prompts, whatever the number of clients. Thread-safe.
class HttpServer {
 public:
  /// `engine` outlives it. Listens and answers when this returns. kInUse, kInvalidInput: the
  /// address cannot be listened at, or the TLS material is not taken; kResourceExhausted: no
  /// thread.
  static Result<std::unique_ptr<HttpServer>> start(const HttpSettings& settings,
                                                   std::shared_ptr<const ServedModel> model,
                                                   Engine& engine);
  /// What is under way is cancelled, and every connection closed.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// "https://127.0.0.1:8000", with the real port.
  const std::string& url() const { return url_; }
  /// From here on /readyz is 503, and each response the last of its connection; requests are
  /// answered still.
  void leave();
  /// leave(); and prompts are refused (503), while /readyz, /healthz and /metrics are answered to
  /// the end. Waits until the answers that are under way have reached their clients. Those that
  /// have not by `deadline` are cancelled, and their clients told. Whether all had ended by
  /// themselves.
  bool drain(Deadline deadline);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
  std::string url_;
};

}  // namespace airlock
