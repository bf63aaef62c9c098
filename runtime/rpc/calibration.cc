#include "runtime/rpc/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "base/deadline.h"
#include "base/page_buffer.h"
#include "proto/calibration.h"

namespace airlock {
namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::array kSizes = {4 * kKiB,    16 * kKiB,   64 * kKiB,   256 * kKiB,
                               1024 * kKiB, 2048 * kKiB, 4096 * kKiB, 8192 * kKiB};
/// Of each size on each way, after one that touches the memory.
constexpr std::size_t kRounds = 5;
/// No size is begun that would end later than this.
constexpr std::uint64_t kBudgetNs = 80'000'000;
/// Of an honest runner: each size on each way, and the end.
constexpr std::size_t kMostTrials = 2 * kSizes.size() * (kRounds + 1) + 1;
constexpr std::chrono::seconds kPatience{10};
/// What is less may be chance.
constexpr double kNoise = 1.1;

class Leader {
 public:
  Leader(Channel& channel, PoolLease* lease, Deadline deadline)
      : channel_(channel), lease_(lease), deadline_(deadline) {}

  Result<Calibration> lead() {
    const std::size_t most = channel_.policy().limit_bytes;
    Calibration found;
    const std::uint64_t start_ns = now_ns();
    std::uint64_t last_ns = 0;
    std::size_t largest = 0;
    for (const std::size_t bytes : kSizes) largest = bytes < most ? bytes : largest;
    for (const std::size_t bytes : kSizes) {
      // It takes as much longer as it is larger.
      const std::size_t growth = found.tried.empty() ? 1 : bytes / found.tried.back().bytes;
      if (bytes > largest || now_ns() - start_ns + growth * last_ns > kBudgetNs) break;
      const std::uint64_t begun_ns = now_ns();
      ASSIGN_OR_RETURN(TriedSize tried, try_size(bytes));
      last_ns = now_ns() - begun_ns;
      found.tried.push_back(tried);
    }
    // What is not tried stays as it is.
    const bool all = !found.tried.empty() && found.tried.back().bytes == largest;
    found.path_limit =
        static_cast<std::uint32_t>(all ? choose_path_limit(found.tried, most) : most);
    Trial end;
    end.path_limit = found.path_limit;
    RETURN_IF_ERROR(send(end, {}));
    return found;
  }

 private:
  Result<TriedSize> try_size(std::size_t bytes) {
    TriedSize tried;
    tried.bytes = bytes;
    ASSIGN_OR_RETURN(const PageBuffer ours, PageBuffer::allocate(bytes));
    ASSIGN_OR_RETURN(const PageBuffer theirs, PageBuffer::allocate(bytes));
    std::memset(ours.data(), 1, bytes);
    Trial ring;
    ring.bytes = bytes;
    ring.by_ring = true;
    Trial rival;
    rival.bytes = bytes;
    const auto take = [&](PoolUse use) {
      return lease_ != nullptr ? lease_->take(use, bytes) : std::nullopt;
    };
    const std::optional<PoolBlock> place = take(PoolUse::kInput);
    const std::optional<PoolBlock> reply_place = take(PoolUse::kOutput);
    if (place && reply_place) {
      tried.rival = Path::kPool;
      rival.place = place->place();
      rival.reply_place = reply_place->place();
    }
    // In turn, so that what disturbs one disturbs the other.
    tried.ring_ns = tried.rival_ns = ~std::uint64_t{0};
    for (std::size_t round = 0; round <= kRounds; ++round) {
      ASSIGN_OR_RETURN(const std::uint64_t by_ring, go_round(ring, ours, theirs));
      ASSIGN_OR_RETURN(const std::uint64_t by_rival, go_round(rival, ours, theirs));
      if (round == 0) continue;
      tried.ring_ns = std::min(tried.ring_ns, by_ring);
      tried.rival_ns = std::min(tried.rival_ns, by_rival);
    }
    return tried;
  }

  Status send(const Trial& trial, std::span<const std::byte> bytes) {
    ASSIGN_OR_RETURN(const MessagePlan plan, plan_trial(channel_.policy(), trial));
    ASSIGN_OR_RETURN(auto message, channel_.claim(plan, deadline_));
    if (!bytes.empty()) std::memcpy(message->tensor(0).data(), bytes.data(), bytes.size());
    return channel_.send(*message, encode(trial), deadline_);
  }

  /// The nanoseconds of one trial.
  Result<std::uint64_t> go_round(const Trial& trial, const PageBuffer& ours,
                                 const PageBuffer& theirs) {
    const std::uint64_t start_ns = now_ns();
    RETURN_IF_ERROR(send(trial, {ours.data(), trial.bytes}));
    const AcceptPlan accept = [&](std::span<const std::byte> header) -> Result<MessagePlan> {
      ASSIGN_OR_RETURN(const Trial reply, decode_trial(header, channel_.policy().limit_bytes));
      if (!(reply == trial))
        return Status(StatusCode::kProtocolError, "a trial's reply is another one's");
      return plan_trial_reply(channel_.policy(), trial);
    };
    ASSIGN_OR_RETURN(const auto reply, channel_.receive(accept, deadline_));
    std::memcpy(theirs.data(), reply->tensor(0).data(), trial.bytes);
    return now_ns() - start_ns;
  }

  Channel& channel_;
  PoolLease* const lease_;
  const Deadline deadline_;
};

/// That there is no room by the deadline is a deadline that passed.
Status as_deadline(const Status& status) {
  if (status.code() != StatusCode::kBusy && status.code() != StatusCode::kDeadlineExceeded)
    return status;
  return {StatusCode::kDeadlineExceeded, "the peer took too long to find the path limit"};
}

}  // namespace

std::string Calibration::text() const {
  std::string text = fmt::format("path limit {} bytes, found by trying", path_limit);
  for (const TriedSize& size : tried) {
    text +=
        fmt::format("{} {} KiB by ring {:.1f} us, {} {:.1f} us", &size == tried.data() ? ":" : ",",
                    size.bytes / kKiB, static_cast<double>(size.ring_ns) / 1e3, name_of(size.rival),
                    static_cast<double>(size.rival_ns) / 1e3);
  }
  return text;
}

std::size_t choose_path_limit(std::span<const TriedSize> tried, std::size_t most) {
  std::size_t limit = most;
  for (auto size = tried.rbegin(); size != tried.rend(); ++size) {
    if (kNoise * static_cast<double>(size->rival_ns) >= static_cast<double>(size->ring_ns)) break;
    limit = size->bytes;
  }
  return limit;
}

Result<Calibration> lead_calibration(Channel& channel, PoolLease* lease, Deadline deadline) {
  auto found = Leader(channel, lease, deadline).lead();
  if (!found.ok()) return as_deadline(found.status());
  return found;
}

namespace {

/// Answers one trial. The limit where it was the end.
Result<std::optional<std::uint32_t>> answer_trial(Channel& channel, std::optional<PageBuffer>& copy,
                                                  Deadline deadline) {
  const PathPolicy& policy = channel.policy();
  Trial trial;
  const AcceptPlan accept = [&](std::span<const std::byte> header) -> Result<MessagePlan> {
    ASSIGN_OR_RETURN(trial, decode_trial(header, policy.limit_bytes));
    return plan_trial(policy, trial);
  };
  ASSIGN_OR_RETURN(auto received, channel.receive(accept, deadline));
  if (trial.bytes == 0) return std::optional(trial.path_limit);
  if (!copy || copy->bytes() < trial.bytes) {
    ASSIGN_OR_RETURN(copy, PageBuffer::allocate(trial.bytes));
  }
  std::memcpy(copy->data(), received->tensor(0).data(), trial.bytes);
  received.reset();
  ASSIGN_OR_RETURN(const MessagePlan plan, plan_trial_reply(policy, trial));
  ASSIGN_OR_RETURN(auto reply, channel.claim(plan, deadline));
  std::memcpy(reply->tensor(0).data(), copy->data(), trial.bytes);
  RETURN_IF_ERROR(channel.send(*reply, encode(trial), deadline));
  return std::optional<std::uint32_t>();
}

}  // namespace

Result<std::uint32_t> follow_calibration(Channel& channel, const PeerWatch& watch) {
  const Deadline deadline = Deadline::after(kPatience);
  std::optional<PageBuffer> copy;
  for (std::size_t trials = 0; trials < kMostTrials; ++trials) {
    RETURN_IF_ERROR(watch.check());
    const auto limit = answer_trial(channel, copy, deadline);
    if (!limit.ok()) return as_deadline(limit.status());
    if (*limit) return **limit;
  }
  return Status(StatusCode::kProtocolError, "more than {} trials of a path limit", kMostTrials);
}

}  // namespace airlock
