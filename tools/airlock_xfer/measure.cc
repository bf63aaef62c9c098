#include "tools/airlock_xfer/measure.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "tools/airlock_xfer/pattern.h"

namespace airlock::xfer {
namespace {

constexpr std::uint64_t kLeastIterations = 3;
constexpr double kWarmupShare = 0.5;  // of --max-seconds, at most

double seconds_since(std::uint64_t start_ns) {
  return static_cast<double>(now_ns() - start_ns) / 1e9;
}

using TensorCounts = PerValue<Path, std::uint64_t>;

TensorCounts tensors_sent(Channel& channel) {
  TensorCounts counts;
  for (const Path path : kPaths)
    counts[path] = channel.stats()[path].sent.tensors.load(std::memory_order_relaxed);
  return counts;
}

/// By the same counters before and after.
std::string path_taken(const TensorCounts& before, const TensorCounts& after) {
  std::string taken;
  for (const Path path : kPaths) {
    if (after[path] != before[path]) taken = taken.empty() ? name_of(path) : "mixed";
  }
  return taken;
}

Measured summarize(std::vector<double> times, double one_way_ns) {
  std::ranges::sort(times);
  Measured measured;
  measured.iterations = times.size();
  measured.p50_ns = percentile(times, 0.50);
  measured.p90_ns = percentile(times, 0.90);
  measured.p99_ns = percentile(times, 0.99);
  measured.max_ns = times.back();
  measured.one_way_ns = one_way_ns > 0 ? one_way_ns : measured.p50_ns;
  return measured;
}

/// No room by the deadline means that the peer took nothing for so long.
Status as_stall(const Status& status) {
  if (status.code() != StatusCode::kBusy) return status;
  return {StatusCode::kDeadlineExceeded, status.message()};
}

}  // namespace

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

Status Meter::start_size(std::size_t bytes) {
  if (source_.bytes().size() == bytes) return {};
  source_ = {};  // first: two of the largest need not fit
  ASSIGN_OR_RETURN(source_, HostBuffer::make(bytes));
  fill_pattern(source_.bytes(), pattern_seed(row_, 0));
  ASSIGN_OR_RETURN(memcpy_ns_, memcpy_ns(source_.bytes()));
  return {};
}

Result<Row> Meter::measure(PathAsked path, std::size_t bytes) {
  Row row{bytes, path, std::nullopt};
  if (path == PathAsked::kRing && bytes >= options_.geometry.slot_bytes) return row;
  ++row_;
  RETURN_IF_ERROR(start_size(bytes));
  const ChannelKind kind = channel_of(path);
  const TensorCounts before = tensors_sent(pair_.channel(kind));
  ASSIGN_OR_RETURN(row.measured,
                   options_.mode == Mode::kEcho ? measure_echo(kind) : measure_stream(kind));
  row.measured->taken = path_taken(before, tensors_sent(pair_.channel(kind)));
  row.measured->memcpy_ns = memcpy_ns_;
  return row;
}

void Meter::Pass::note_reply(std::uint32_t peer_cpu) {
  ++replies;
  if (peer_cpu == current_cpu()) ++replies_on_same_cpu;
}

Result<Meter::Pass> Meter::begin_pass(ChannelKind kind, bool peer_check) {
  ControlPacket order;
  order.kind = ControlKind::kPass;
  order.channel = kind;
  order.bytes = source_.bytes().size();
  order.row = row_;
  order.is_echo = options_.mode == Mode::kEcho ? 1 : 0;
  order.peer_check = peer_check ? 1 : 0;
  RETURN_IF_ERROR(pair_.control().send(order));
  return Pass{pair_.channel(kind), order, source_.bytes().size()};
}

Result<std::uint64_t> Meter::end_pass(Pass& pass) {
  const Deadline deadline = Deadline::after(options_.timeout);
  auto last = pass.channel.prepare({}, deadline);
  if (!last.ok()) return as_stall(last.status());
  const auto head = encode_head({kLastMessage, current_cpu(), 0});
  if (const Status sent = pass.channel.send(**last, head, deadline); !sent.ok()) {
    return as_stall(sent);
  }
  ASSIGN_OR_RETURN(const ControlPacket done,
                   pair_.control().receive(ControlKind::kPassDone, deadline, pair_.life()));
  return done.wrong_bytes;
}

/// One round trip; its time.
Result<std::uint64_t> Meter::echo_once(Pass& pass, std::uint64_t& wrong_bytes) {
  const std::uint64_t number = pass.next_message++;
  const std::uint64_t seed = pattern_seed(row_, number);
  if (options_.check) fill_pattern(source_.bytes(), seed);
  const std::size_t sizes[] = {pass.bytes};
  const Accept accept = accept_exactly(pass.bytes);
  const auto head = encode_head({kDataMessage, current_cpu(), number});
  const Deadline deadline = message_deadline(options_.timeout, pass.bytes);

  const std::uint64_t start = now_ns();
  auto message = pass.channel.prepare(sizes, deadline);
  if (!message.ok()) return as_stall(message.status());
  std::memcpy((*message)->tensor(0).data(), source_.bytes().data(), pass.bytes);
  if (const Status sent = pass.channel.send(**message, head, deadline); !sent.ok()) {
    return as_stall(sent);
  }
  ASSIGN_OR_RETURN(const auto reply, pass.channel.receive(accept, deadline));
  const std::uint64_t round_trip_ns = now_ns() - start;

  ASSIGN_OR_RETURN(const MessageHead echoed, decode_head(reply->header()));
  if (reply->tensor_count() != 1 || echoed.message != number) {
    return Status(StatusCode::kProtocolError, "the peer's reply is not to this message");
  }
  pass.note_reply(echoed.cpu);
  if (options_.check) wrong_bytes += count_wrong(reply->tensor(0), seed);
  return round_trip_ns;
}

Result<Measured> Meter::measure_echo(ChannelKind kind) {
  ASSIGN_OR_RETURN(Pass pass, begin_pass(kind, false));
  std::uint64_t wrong_bytes = 0;
  const std::uint64_t warmup_start = now_ns();
  for (std::uint64_t i = 0; i < options_.warmup; ++i) {
    if (i > 0 && seconds_since(warmup_start) > options_.max_seconds * kWarmupShare) break;
    RETURN_IF_ERROR(pair_.life().check());
    ASSIGN_OR_RETURN([[maybe_unused]] const std::uint64_t ignored, echo_once(pass, wrong_bytes));
  }
  std::vector<double> half_ns;
  const std::uint64_t start = now_ns();
  for (std::uint64_t i = 0; i < options_.iterations; ++i) {
    if (i >= kLeastIterations && seconds_since(start) > options_.max_seconds) break;
    RETURN_IF_ERROR(pair_.life().check());
    ASSIGN_OR_RETURN(const std::uint64_t round_trip_ns, echo_once(pass, wrong_bytes));
    half_ns.push_back(static_cast<double>(round_trip_ns) / 2);
  }
  ASSIGN_OR_RETURN([[maybe_unused]] const std::uint64_t none, end_pass(pass));
  Measured measured = summarize(std::move(half_ns), 0);
  measured.same_cpu_share = pass.same_cpu_share();
  measured.wrong_bytes = wrong_bytes;
  return measured;
}

Status Meter::take_reply(Pass& pass, std::deque<std::uint64_t>& started_ns, Times& times,
                         Deadline deadline) {
  ASSIGN_OR_RETURN(const auto reply, pass.channel.receive(accept_exactly(0), deadline));
  ASSIGN_OR_RETURN(const MessageHead head, decode_head(reply->header()));
  if (head.message + started_ns.size() != pass.next_message) {
    return {StatusCode::kProtocolError, "the peer's reply is not to the oldest message"};
  }
  pass.note_reply(head.cpu);
  times.each_ns.push_back(static_cast<double>(now_ns() - started_ns.front()));
  started_ns.pop_front();
  return {};
}

/// Sends, and takes replies wherever there is no room: else the two sides could wait for each
/// other.
Status Meter::post(Pass& pass, Message& message, std::deque<std::uint64_t>& started_ns,
                   Times& times) {
  constexpr std::chrono::milliseconds kRetry{1};
  const auto head = encode_head({kDataMessage, current_cpu(), pass.next_message});
  const Deadline deadline = message_deadline(options_.timeout, pass.bytes);
  for (;;) {
    const Status sent = pass.channel.send(message, head, deadline.slice(kRetry));
    if (sent.code() != StatusCode::kBusy || deadline.expired()) return as_stall(sent);
    if (started_ns.empty()) continue;
    const Status taken = take_reply(pass, started_ns, times, Deadline::now());
    if (!taken.ok() && taken.code() != StatusCode::kDeadlineExceeded) return taken;
  }
}

Result<Meter::Times> Meter::stream(Pass& pass, std::uint64_t count, double max_seconds) {
  Times times;
  std::deque<std::uint64_t> started_ns;  // of the messages that have no reply yet
  const std::size_t sizes[] = {pass.bytes};
  const std::uint64_t begin = now_ns();
  const std::uint64_t first = pass.next_message;
  for (bool enough = false; !enough || !started_ns.empty();) {
    RETURN_IF_ERROR(pair_.life().check());
    const std::uint64_t sent_count = pass.next_message - first;
    enough = enough || sent_count >= count ||
             (sent_count >= kLeastIterations && seconds_since(begin) > max_seconds);
    const Deadline deadline = message_deadline(options_.timeout, pass.bytes);
    if (enough || started_ns.size() >= options_.inflight) {
      if (!started_ns.empty()) RETURN_IF_ERROR(take_reply(pass, started_ns, times, deadline));
      continue;
    }
    const std::uint64_t start = now_ns();
    auto message = pass.channel.prepare(sizes, started_ns.empty() ? deadline : Deadline::now());
    if (message.status().code() == StatusCode::kBusy && !started_ns.empty()) {
      RETURN_IF_ERROR(take_reply(pass, started_ns, times, deadline));
      continue;
    }
    if (!message.ok()) return as_stall(message.status());
    const std::span<std::byte> place = (*message)->tensor(0);
    if (pass.order.peer_check != 0) {
      fill_pattern(place, pattern_seed(row_, pass.next_message));
    } else {
      std::memcpy(place.data(), source_.bytes().data(), pass.bytes);
    }
    if (pair_.hooks().on_write) pair_.hooks().on_write(written_, place);
    ++written_;
    RETURN_IF_ERROR(post(pass, **message, started_ns, times));
    started_ns.push_back(start);
    ++pass.next_message;
  }
  times.total_ns = static_cast<double>(now_ns() - begin);
  return times;
}

Result<Measured> Meter::measure_stream(ChannelKind kind) {
  ASSIGN_OR_RETURN(Pass pass, begin_pass(kind, false));
  ASSIGN_OR_RETURN([[maybe_unused]] const Times ignored,
                   stream(pass, options_.warmup, options_.max_seconds * kWarmupShare));
  ASSIGN_OR_RETURN(Times times, stream(pass, options_.iterations, options_.max_seconds));
  ASSIGN_OR_RETURN([[maybe_unused]] const std::uint64_t none, end_pass(pass));
  const double each_ns = times.total_ns / static_cast<double>(times.each_ns.size());
  Measured measured = summarize(std::move(times.each_ns), each_ns);
  measured.same_cpu_share = pass.same_cpu_share();
  if (!options_.check) return measured;
  ASSIGN_OR_RETURN(Pass checked, begin_pass(kind, true));
  ASSIGN_OR_RETURN([[maybe_unused]] const Times untimed,
                   stream(checked, options_.iterations, options_.max_seconds));
  ASSIGN_OR_RETURN(measured.wrong_bytes, end_pass(checked));
  return measured;
}

}  // namespace airlock::xfer
