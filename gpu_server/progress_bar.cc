#include "gpu_server/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/deadline.h"
#include "base/log.h"

namespace airlock {

namespace {
constexpr std::uint64_t kRedrawNs = 100'000'000;
constexpr std::size_t kBarWidth = 30;
}  // namespace

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)), terminal_(::isatty(STDERR_FILENO) == 1), start_ns_(now_ns()) {}

ProgressBar::~ProgressBar() { clear(); }

void ProgressBar::clear() {
  if (std::exchange(drawn_, false)) std::fputs("\r\033[K", stderr);
}

void ProgressBar::update(std::size_t done_bytes, std::size_t total_bytes) {
  const std::uint64_t now = now_ns();
  if (done_bytes == 0) start_ns_ = now;
  done_bytes_ = done_bytes;
  last_ns_ = now;
  if (!terminal_ || total_bytes == 0 || (now - drawn_ns_ < kRedrawNs && done_bytes < total_bytes))
    return;
  drawn_ns_ = now;
  const std::size_t filled = std::min(kBarWidth, done_bytes * kBarWidth / total_bytes);
  const double mb_per_s =
      static_cast<double>(done_bytes) * 1e3 / static_cast<double>(now - start_ns_ + 1);
  const std::string line =
      fmt::format("\r{} [{}{}] {:3}% {:.0f} MB/s ", what_, std::string(filled, '#'),
                  std::string(kBarWidth - filled, ' '), done_bytes * 100 / total_bytes, mb_per_s);
  std::fputs(line.c_str(), stderr);
  drawn_ = true;
}

void ProgressBar::finish() {
  clear();
  const double seconds = static_cast<double>(std::max(last_ns_, start_ns_ + 1) - start_ns_) / 1e9;
  const double bytes_per_s = static_cast<double>(done_bytes_) / seconds;
  log_info(fmt::format("{}: {:.0f} MB in {:.1f} s, {}", what_,
                       static_cast<double>(done_bytes_) / 1e6, seconds,
                       bytes_per_s < 1e9 ? fmt::format("{:.0f} MB/s", bytes_per_s / 1e6)
                                         : fmt::format("{:.2f} GB/s", bytes_per_s / 1e9)));
}

}  // namespace airlock
