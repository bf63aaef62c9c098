#include "tools/airlock_xfer/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>

#include "tools/airlock_xfer/host_buffer.h"
#include "tools/airlock_xfer/pattern.h"

namespace airlock::xfer {
namespace {

constexpr std::uint64_t kLeastIterations = 3;
constexpr double kWarmupShare = 0.5;  // of --max-seconds, at most

double seconds_since(std::uint64_t start_ns) {
  return static_cast<double>(now_ns() - start_ns) / 1e9;
}

/// The median time of a memcpy from `source` to warm memory. kResourceExhausted: no memory.
Result<double> memcpy_ns(std::span<const std::byte> source) {
  constexpr std::size_t kBatchBytes = std::size_t{1} << 16;  // a clock's tick must not count
  constexpr std::size_t kMostSamples = 51;
  constexpr std::size_t kLeastSamples = 3;
  constexpr double kMaxSeconds = 0.2;
  ASSIGN_OR_RETURN(const HostBuffer target, HostBuffer::make(source.size()));
  const std::size_t batch = std::max<std::size_t>(1, kBatchBytes / source.size());
  std::vector<double> samples;
  const std::uint64_t begin = now_ns();
  while (samples.size() < kMostSamples &&
         (samples.size() < kLeastSamples || seconds_since(begin) < kMaxSeconds)) {
    const std::uint64_t start = now_ns();
    for (std::size_t i = 0; i < batch; ++i) {
      std::memcpy(target.bytes().data(), source.data(), source.size());
      asm volatile("" : : "r"(target.bytes().data()) : "memory");
    }
    samples.push_back(static_cast<double>(now_ns() - start) / static_cast<double>(batch));
  }
  std::ranges::sort(samples);
  return std::max(percentile(samples, 0.5), 0.1);
}

/// Of the tensors that `channel` sent until now.
PerValue<Path, std::uint64_t> tensors_sent(Channel& channel) {
  PerValue<Path, std::uint64_t> counts;
  for (const Path path : kPaths)
    counts[path] = channel.stats()[path].sent.tensors.load(std::memory_order_relaxed);
  return counts;
}

/// How long the iterations of a row took.
struct Times {
  std::vector<double> each_ns;
  // A message's share of the whole; 0: what most of them took.
  double one_way_ns = 0;
};

/// One pass: messages of one size in one session, until the last one ends it. Its errors are the
/// channel's; kBusy and kDeadlineExceeded: the peer stalled.
class Pass {
 public:
  Pass(Pair& pair, Path session, std::span<std::byte> source, std::uint64_t row)
      : pair_(pair),
        options_(pair.setup().options),
        channel_(pair.channel(session)),
        session_(session),
        room_(pair.room(session)),
        source_(source),
        row_(row) {}

  Status begin(bool peer_check) {
    peer_check_ = peer_check;
    return pair_.tell({.order = Order::kPass,
                       .session = session_,
                       .peer_check = peer_check,
                       .bytes = source_.size(),
                       .row = row_});
  }

  /// How many wrong bytes the peer found.
  Result<std::uint64_t> end() {
    const Deadline deadline = Deadline::after(options_.timeout);
    ASSIGN_OR_RETURN(const auto last, channel_.prepare({}, deadline));
    RETURN_IF_ERROR(channel_.send(*last, encode_head({.kind = kLastMessage}), deadline));
    ASSIGN_OR_RETURN(const ControlPacket done, pair_.answer(Order::kPass, deadline));
    return done.wrong_bytes;
  }

  /// `count` iterations in the mode of the options; fewer, but at least `least`, where they take
  /// longer than `max_seconds`.
  Result<Times> run(std::uint64_t count, std::uint64_t least, double max_seconds) {
    return options_.mode == Mode::kEcho ? echo(count, least, max_seconds)
                                        : stream(count, least, max_seconds);
  }

  /// Of this process's own checks.
  std::uint64_t wrong_bytes() const { return wrong_bytes_; }
  /// Of the replies, where both processes were on one CPU.
  double same_cpu_share() const {
    return static_cast<double>(replies_on_same_cpu_) / static_cast<double>(replies_);
  }

 private:
  void note_reply(const MessageHead& head) {
    ++replies_;
    if (head.cpu == current_cpu()) ++replies_on_same_cpu_;
  }

  /// Of a tensor that the pool has room for; else nowhere.
  PoolPlace take_place() const {
    if (!takes_pool_) return {};
    const auto offset = room_->take(source_.size());
    return offset ? PoolPlace::at(*offset) : PoolPlace();
  }
  void give_place(PoolPlace place) const {
    if (!place.is_nowhere()) room_->give(place.offset(), source_.size());
  }
  /// Gives both places of a message back.
  void give_places(const MessageHead& head) const {
    give_place(head.place);
    give_place(head.reply_place);
  }

  Deadline message_deadline() const { return xfer::message_deadline(options_, source_.size()); }

  /// One round trip; its time.
  Result<std::uint64_t> echo_once() {
    const std::uint64_t number = next_message_++;
    const std::uint64_t seed = pattern_seed(row_, number);
    if (options_.check) fill_pattern(source_, seed);
    const AcceptPlan accept = accept_exactly(channel_.policy(), source_.size());
    const Deadline deadline = message_deadline();

    const std::uint64_t start = now_ns();
    MessageHead head{.kind = kDataMessage, .message = number};
    head.place = take_place();
    head.reply_place = take_place();
    ASSIGN_OR_RETURN(const MessagePlan plan,
                     plan_tensor(channel_.policy(), source_.size(), head.place));
    ASSIGN_OR_RETURN(const auto message, channel_.claim(plan, deadline));
    std::memcpy(message->tensor(0).data(), source_.data(), source_.size());
    RETURN_IF_ERROR(channel_.send(*message, encode_head(head), deadline));
    ASSIGN_OR_RETURN(const auto reply, channel_.receive(accept, deadline));
    const std::uint64_t round_trip_ns = now_ns() - start;

    ASSIGN_OR_RETURN(const MessageHead echoed, decode_head(reply->header()));
    if (reply->tensor_count() != 1 || echoed.message != number) {
      return Status(StatusCode::kProtocolError, "the peer's reply is not to this message");
    }
    note_reply(echoed);
    if (options_.check) wrong_bytes_ += count_wrong(reply->tensor(0), seed);
    give_places(head);
    return round_trip_ns;
  }

  Result<Times> echo(std::uint64_t count, std::uint64_t least, double max_seconds) {
    Times times;
    const std::uint64_t start = now_ns();
    for (std::uint64_t i = 0; i < count; ++i) {
      if (i >= least && seconds_since(start) > max_seconds) break;
      RETURN_IF_ERROR(pair_.life().check());
      ASSIGN_OR_RETURN(const std::uint64_t round_trip_ns, echo_once());
      times.each_ns.push_back(static_cast<double>(round_trip_ns) / 2);
    }
    return times;
  }

  Status take_reply(Times& times, Deadline deadline) {
    ASSIGN_OR_RETURN(const auto reply,
                     channel_.receive(accept_exactly(channel_.policy(), 0), deadline));
    ASSIGN_OR_RETURN(const MessageHead head, decode_head(reply->header()));
    if (head.message + started_ns_.size() != next_message_) {
      return {StatusCode::kProtocolError, "the peer's reply is not to the oldest message"};
    }
    note_reply(head);
    times.each_ns.push_back(static_cast<double>(now_ns() - started_ns_.front()));
    started_ns_.pop_front();
    give_place(places_.front());
    places_.pop_front();
    return {};
  }

  /// Sends, and takes replies wherever there is no room: else the two sides could wait for each
  /// other.
  Status post(Message& message, PoolPlace place, Times& times) {
    constexpr std::chrono::milliseconds kRetry{1};
    const auto head = encode_head({.kind = kDataMessage, .message = next_message_, .place = place});
    const Deadline deadline = message_deadline();
    for (;;) {
      const Status sent = channel_.send(message, head, deadline.slice(kRetry));
      if (sent.code() != StatusCode::kBusy || deadline.expired()) return sent;
      if (started_ns_.empty()) continue;
      const Status taken = take_reply(times, Deadline::now());
      if (!taken.ok() && taken.code() != StatusCode::kDeadlineExceeded) return taken;
    }
  }

  Result<Times> stream(std::uint64_t count, std::uint64_t least, double max_seconds) {
    Times times;
    const std::uint64_t begin = now_ns();
    const std::uint64_t first = next_message_;
    for (bool enough = false; !enough || !started_ns_.empty();) {
      RETURN_IF_ERROR(pair_.life().check());
      const std::uint64_t sent_count = next_message_ - first;
      enough = enough || sent_count >= count ||
               (sent_count >= least && seconds_since(begin) > max_seconds);
      const Deadline deadline = message_deadline();
      if (enough || started_ns_.size() >= options_.inflight) {
        if (!started_ns_.empty()) RETURN_IF_ERROR(take_reply(times, deadline));
        continue;
      }
      const std::uint64_t start = now_ns();
      const PoolPlace pool_place = take_place();
      ASSIGN_OR_RETURN(const MessagePlan plan,
                       plan_tensor(channel_.policy(), source_.size(), pool_place));
      const auto message = channel_.claim(plan, started_ns_.empty() ? deadline : Deadline::now());
      if (message.status().code() == StatusCode::kBusy && !started_ns_.empty()) {
        give_place(pool_place);
        RETURN_IF_ERROR(take_reply(times, deadline));
        continue;
      }
      if (!message.ok()) return message.status();
      const std::span<std::byte> place = (*message)->tensor(0);
      if (peer_check_) {
        fill_pattern(place, pattern_seed(row_, next_message_));
      } else {
        std::memcpy(place.data(), source_.data(), source_.size());
      }
      pair_.setup().call_hook(place);
      RETURN_IF_ERROR(post(**message, pool_place, times));
      started_ns_.push_back(start);
      places_.push_back(pool_place);
      ++next_message_;
    }
    times.one_way_ns =
        static_cast<double>(now_ns() - begin) / static_cast<double>(times.each_ns.size());
    return times;
  }

  Pair& pair_;
  const Options& options_;
  Channel& channel_;
  const Path session_;
  FirstFit* const room_;
  const std::span<std::byte> source_;
  const std::array<std::size_t, 1> size_ = {source_.size()};
  const bool takes_pool_ =
      room_ != nullptr && plan_message(channel_.policy(), size_)->uses(Path::kPool);
  const std::uint64_t row_;
  bool peer_check_ = false;
  std::uint64_t next_message_ = 0;
  // Of a stream's messages that have no reply yet.
  std::deque<std::uint64_t> started_ns_;
  std::deque<PoolPlace> places_;
  std::uint64_t replies_ = 0;
  std::uint64_t replies_on_same_cpu_ = 0;
  std::uint64_t wrong_bytes_ = 0;
};

Result<Measured> measure_row(Pair& pair, Path session, std::span<std::byte> source,
                             std::uint64_t row) {
  const Options& options = pair.setup().options;
  const auto before = tensors_sent(pair.channel(session));
  Pass pass(pair, session, source, row);
  RETURN_IF_ERROR(pass.begin(false));
  RETURN_IF_ERROR(pass.run(options.warmup, 1, options.max_seconds * kWarmupShare).status());
  ASSIGN_OR_RETURN(Times times,
                   pass.run(options.iterations, kLeastIterations, options.max_seconds));
  RETURN_IF_ERROR(pass.end().status());
  std::ranges::sort(times.each_ns);
  Measured measured;
  measured.iterations = times.each_ns.size();
  measured.p50_ns = percentile(times.each_ns, 0.50);
  measured.p90_ns = percentile(times.each_ns, 0.90);
  measured.p99_ns = percentile(times.each_ns, 0.99);
  measured.max_ns = times.each_ns.back();
  measured.one_way_ns = times.one_way_ns > 0 ? times.one_way_ns : measured.p50_ns;
  measured.same_cpu_share = pass.same_cpu_share();
  measured.wrong_bytes = pass.wrong_bytes();
  if (options.mode == Mode::kStream && options.check) {
    Pass checked(pair, session, source, row);
    RETURN_IF_ERROR(checked.begin(true));
    RETURN_IF_ERROR(
        checked.run(options.iterations, kLeastIterations, options.max_seconds).status());
    ASSIGN_OR_RETURN(measured.wrong_bytes, checked.end());
  }
  const auto after = tensors_sent(pair.channel(session));
  for (const Path taken : kPaths) {
    if (after[taken] != before[taken])
      measured.taken = measured.taken.empty() ? name_of(taken) : "mixed";
  }
  return measured;
}

}  // namespace

Status measure_all(Pair& pair, ResultTable& table) {
  const Options& options = pair.setup().options;
  std::uint64_t row_number = 0;
  for (const std::size_t bytes : options.sizes) {
    HostBuffer source;
    double copy_ns = 0;
    for (const auto path : options.paths) {
      // Of what is not shown nothing more need be known.
      RETURN_IF_ERROR(table.written());
      Row row{bytes, path, std::nullopt};
      const auto measure = [&]() -> Status {
        ++row_number;
        if (source.bytes().empty()) {
          ASSIGN_OR_RETURN(source, HostBuffer::make(bytes));
          fill_pattern(source.bytes(), pattern_seed(row_number, 0));
          ASSIGN_OR_RETURN(copy_ns, memcpy_ns(source.bytes()));
        }
        ASSIGN_OR_RETURN(row.measured,
                         measure_row(pair, session_of(path), source.bytes(), row_number));
        row.measured->memcpy_ns = copy_ns;
        return {};
      };
      const bool carries = !path || pair.channel(*path).policy().carries(*path, bytes);
      if (const Status status = carries ? measure() : Status(); !status.ok()) {
        return pair.explain(status).with_context(
            fmt::format("{} bytes by {}", bytes, path_name(path)));
      }
      table.add(row);
    }
  }
  return {};
}

}  // namespace airlock::xfer
