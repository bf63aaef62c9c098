#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "tee_runner/generate/engine.h"
#include "tee_runner/serve/answer_json.h"
#include "tee_runner/serve/routes.h"

namespace airlock {

/// Why an answer ended before its time.
enum class CancelCause : std::uint8_t { kClientLeft, kSlowClient, kShutdown };

constexpr std::string_view name_of(CancelCause cause) {
  switch (cause) {
    case CancelCause::kClientLeft:
      return "client_left";
    case CancelCause::kSlowClient:
      return "slow_client";
    case CancelCause::kShutdown:
      return "shutdown";
  }
  return {};
}

/// Times in buckets, as Prometheus counts them.
class DurationHistogram {
 public:
  void add(std::uint64_t ns);
  void append(std::string& text, std::string_view name, std::string_view help) const;

 private:
  static constexpr std::array kBounds_s = {0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0};
  std::array<std::uint64_t, kBounds_s.size()> counts_{};
  std::uint64_t count_ = 0;
  std::uint64_t sum_ns_ = 0;
};

/// What the endpoint counts: numbers, with labels from fixed sets only; nothing that a client
/// wrote. One thread.
class ServeMetrics {
 public:
  void count_request(Route route, int status) { ++requests_[{route, status}]; }
  void count_answer(const Usage& usage, std::uint64_t ttft_ns, std::uint64_t duration_ns);
  void count_cancelled(CancelCause cause) { ++cancelled_[cause]; }
  void count_connection() { ++connections_; }
  void count_refused_connection() { ++refused_connections_; }

  struct Now {
    std::size_t connections = 0;
    std::size_t answers = 0;
    bool ready = false;
    bool leaving = false;
    EngineFigures engine = {};
  };
  /// In Prometheus' text format.
  std::string text(const Now& now) const;

 private:
  std::map<std::pair<Route, int>, std::uint64_t> requests_;
  PerValue<CancelCause, std::uint64_t> cancelled_;
  std::uint64_t connections_ = 0;
  std::uint64_t refused_connections_ = 0;
  Usage tokens_;
  DurationHistogram ttft_;
  DurationHistogram duration_;
};

}  // namespace airlock
