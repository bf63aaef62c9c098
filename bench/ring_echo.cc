// Round trips over two rings to a forked peer that copies each payload into its reply, against two
// copies of the same size within one process (which is what the two sides must do at least). Prints
// a Markdown table.
//   ring_echo [ROUNDS]      (1000; fewer for large payloads)
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "shm/ring.h"

namespace airlock {
namespace {

constexpr RingGeometry kGeometry{limits::kDefaultSlotCount, limits::kDefaultSlotBytes};
constexpr std::uint64_t kEpoch = 1;

[[noreturn]] void fail(const Status& status) {
  std::fprintf(stderr, "ring_echo: %s\n", status.to_string().c_str());
  std::exit(exit_code(status.code()));
}

template <typename T>
T must(Result<T> result) {
  if (!result.ok()) fail(result.status());
  return std::move(result).value();
}

Deadline in_a_while() { return Deadline::after(std::chrono::seconds(20)); }

/// `data` starts with its own size: the peer learns it there, and no header costs time.
Status send(RingProducer& producer, const std::byte* data, std::size_t bytes) {
  ASSIGN_OR_RETURN(const auto slots, producer.claim(1, in_a_while(), {}));
  std::memcpy(producer.payload(slots[0]).data(), data, bytes);
  return producer.commit(slots, {});
}

/// Echoes until a size of 0 comes.
Status echo(RingConsumer& requests, RingProducer& replies) {
  while (true) {
    ASSIGN_OR_RETURN(const RingMessage message, requests.receive(in_a_while(), {}));
    const std::byte* const data = requests.payload(message.slots[0]).data();
    std::size_t bytes = 0;
    std::memcpy(&bytes, data, sizeof(bytes));
    if (bytes == 0) return {};
    RETURN_IF_ERROR(send(replies, data, bytes));
    requests.release(message.slots[0]);
  }
}

std::unique_ptr<Segment> make_segment(SegmentDirection direction) {
  const std::string name =
      make_segment_name(::geteuid(), static_cast<std::uint64_t>(::getpid()), direction);
  auto segment = must(Segment::create(name, must(ring_segment_bytes(kGeometry))));
  if (Status status = format_ring(*segment, kGeometry, kEpoch); !status.ok()) fail(status);
  return segment;
}

std::uint64_t median(std::vector<std::uint64_t> times) {
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return times[times.size() / 2];
}

struct Timing {
  std::uint64_t echo_ns = 0;
  std::uint64_t copies_ns = 0;
};

Timing measure(RingProducer& requests, RingConsumer& replies, std::size_t bytes,
               std::size_t rounds) {
  std::vector<std::byte> source(bytes, std::byte{1});
  std::memcpy(source.data(), &bytes, sizeof(bytes));
  std::vector<std::byte> middle(bytes), target(bytes);
  std::vector<std::uint64_t> echo_ns, copies_ns;
  for (std::size_t i = 0; i < rounds + rounds / 10 + 1; ++i) {  // the first tenth warms up
    const std::uint64_t start = now_ns();
    if (Status status = send(requests, source.data(), bytes); !status.ok()) fail(status);
    const RingMessage message = must(replies.receive(in_a_while(), {}));
    const std::uint64_t echoed = now_ns();
    replies.release(message.slots[0]);
    const std::uint64_t before = now_ns();
    std::memcpy(middle.data(), source.data(), bytes);
    asm volatile("" : : "r"(middle.data()) : "memory");
    std::memcpy(target.data(), middle.data(), bytes);
    asm volatile("" : : "r"(target.data()) : "memory");
    const std::uint64_t copied = now_ns();
    if (i <= rounds / 10) continue;
    echo_ns.push_back(echoed - start);
    copies_ns.push_back(copied - before);
  }
  return {median(std::move(echo_ns)), median(std::move(copies_ns))};
}

int run(std::size_t rounds) {
  auto request_segment = make_segment(SegmentDirection::kRequest);
  auto reply_segment = make_segment(SegmentDirection::kReply);
  std::fflush(stdout);
  const pid_t peer = ::fork();
  if (peer == 0) {
    auto requests = must(RingConsumer::create(*request_segment, kGeometry, kEpoch));
    auto replies = must(RingProducer::create(*reply_segment, kGeometry, kEpoch));
    ::_exit(echo(requests, replies).ok() ? 0 : 1);
  }
  request_segment->unlink();
  reply_segment->unlink();
  auto requests = must(RingProducer::create(*request_segment, kGeometry, kEpoch));
  auto replies = must(RingConsumer::create(*reply_segment, kGeometry, kEpoch));
  std::printf(
      "| payload bytes | rounds | echo, median us | two memcpys, median us | ratio | spins | parks "
      "|\n");
  std::printf("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const std::size_t bytes :
       {std::size_t{64}, std::size_t{1} << 20, std::size_t{4} << 20, std::size_t{8} << 20}) {
    const std::size_t count =
        bytes < 4096 ? rounds * 10 : std::max<std::size_t>(rounds / (bytes >> 20), 10);
    const WaitCounters before = replies.counters();
    const Timing timing = measure(requests, replies, bytes, count);
    const WaitCounters after = replies.counters();
    std::printf("| %zu | %zu | %.2f | %.2f | %.2f | %llu | %llu |\n", bytes, count,
                static_cast<double>(timing.echo_ns) / 1e3,
                static_cast<double>(timing.copies_ns) / 1e3,
                static_cast<double>(timing.echo_ns) /
                    static_cast<double>(std::max<std::uint64_t>(timing.copies_ns, 1)),
                static_cast<unsigned long long>(after.spins - before.spins),
                static_cast<unsigned long long>(after.parks - before.parks));
  }
  constexpr std::size_t kEnd = 0;
  const auto* const end = reinterpret_cast<const std::byte*>(&kEnd);
  if (Status status = send(requests, end, sizeof(kEnd)); !status.ok()) fail(status);
  int state = 0;
  ::waitpid(peer, &state, 0);
  return WIFEXITED(state) ? WEXITSTATUS(state) : 1;
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const unsigned long rounds = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1000;
  if (rounds == 0 || rounds > 1'000'000) {
    std::fprintf(stderr, "usage: ring_echo [ROUNDS, 1 to 1000000]\n");
    return 2;
  }
  return airlock::run(rounds);
}
