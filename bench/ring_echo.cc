// Round trips over two rings to a forked peer that copies each payload into its reply, against two
// copies of the same size within one process (which is what the two sides must do at least), and of
// 64 B against a bare spin: two processes that hand the bytes over behind one flag each.
//   ring_echo [ROUNDS [-o md|json]]      (3000, fewer for large payloads; md)
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "bench/record.h"
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

/// A new one now and then: an op has one for all that it waits for.
Deadline in_a_while() {
  constexpr std::uint64_t kUses = 256;
  static std::uint64_t uses = 0;
  static Deadline deadline = Deadline::now();
  if (uses++ % kUses == 0) deadline = Deadline::after(std::chrono::seconds(20));
  return deadline;
}

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

/// Each way: a flag and a payload of its own line, with no look at anything but the flag.
struct SpinLines {
  struct Way {
    alignas(128) std::atomic<std::uint64_t> flag{0};
    alignas(64) std::byte payload[64];
  };
  Way there;
  Way back;
};

void await(const std::atomic<std::uint64_t>& flag, std::uint64_t value) {
  while (flag.load(std::memory_order_acquire) != value) {
  }
}

/// Median round trip of a bare spin.
double measure_spin(std::size_t rounds) {
  void* const memory =
      ::mmap(nullptr, sizeof(SpinLines), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail(os_error("map memory for a spin", errno));
  auto& lines = *new (memory) SpinLines;
  std::byte bytes[64]{};
  const pid_t peer = ::fork();
  if (peer == 0) {
    for (std::uint64_t i = 1; i <= rounds; ++i) {
      await(lines.there.flag, i);
      std::memcpy(lines.back.payload, lines.there.payload, sizeof(bytes));
      lines.back.flag.store(i, std::memory_order_release);
    }
    ::_exit(0);
  }
  std::vector<double> echo_ns;
  for (std::uint64_t i = 1; i <= rounds; ++i) {
    const std::uint64_t start = now_ns();
    std::memcpy(lines.there.payload, bytes, sizeof(bytes));
    lines.there.flag.store(i, std::memory_order_release);
    await(lines.back.flag, i);
    const std::uint64_t echoed = now_ns();
    std::memcpy(bytes, lines.back.payload, sizeof(bytes));
    if (i > rounds / 10) echo_ns.push_back(static_cast<double>(echoed - start));
  }
  ::waitpid(peer, nullptr, 0);
  ::munmap(memory, sizeof(SpinLines));
  return bench::median_of(std::move(echo_ns));
}

struct Row {
  std::size_t bytes = 0;
  std::size_t rounds = 0;
  double echo_ns = 0;  // medians
  double copies_ns = 0;
  std::uint64_t spins = 0;
  std::uint64_t parks = 0;
  double spin_ns = 0;  // of a bare spin, for the smallest
};

Row measure(RingProducer& requests, RingConsumer& replies, std::size_t bytes, std::size_t rounds) {
  const WaitCounters counted_before = replies.counters();
  std::vector<std::byte> source(bytes, std::byte{1});
  // The peer learns the size from the payload.
  std::memcpy(source.data(), &bytes, sizeof(bytes));
  std::vector<std::byte> middle(bytes), target(bytes);
  std::vector<double> echo_ns, copies_ns;
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
    echo_ns.push_back(static_cast<double>(echoed - start));
    copies_ns.push_back(static_cast<double>(copied - before));
  }
  const WaitCounters counted = replies.counters();
  return {.bytes = bytes,
          .rounds = rounds,
          .echo_ns = bench::median_of(std::move(echo_ns)),
          .copies_ns = bench::median_of(std::move(copies_ns)),
          .spins = counted.spins - counted_before.spins,
          .parks = counted.parks - counted_before.parks};
}

void print_markdown(const std::vector<Row>& rows) {
  fmt::print(
      "| payload bytes | rounds | echo, median us | two memcpys, median us | ratio | spins | parks "
      "| bare spin, median us | echo over spin |\n"
      "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (const Row& row : rows)
    fmt::print("| {} | {} | {:.2f} | {:.2f} | {:.2f} | {} | {} | {} |\n", row.bytes, row.rounds,
               row.echo_ns / 1e3, row.copies_ns / 1e3, row.echo_ns / row.copies_ns, row.spins,
               row.parks,
               row.spin_ns == 0
                   ? std::string(" |")
                   : fmt::format("{:.2f} | {:.2f}", row.spin_ns / 1e3, row.echo_ns / row.spin_ns));
}

void print_json(const std::vector<Row>& rows) {
  std::vector<std::string> records;
  for (const Row& row : rows)
    records.push_back(bench::Record()
                          .count("bytes", row.bytes)
                          .count("rounds", row.rounds)
                          .number("echo_ns", row.echo_ns)
                          .number("copies_ns", row.copies_ns)
                          .number("spin_ns", row.spin_ns)
                          .count("spins", row.spins)
                          .count("parks", row.parks)
                          .json());
  fmt::print("{{\"results\":[\n{}\n]}}\n", fmt::join(records, ",\n"));
}

int run(std::size_t rounds, void (*print)(const std::vector<Row>&)) {
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
  std::vector<Row> rows;
  for (const std::size_t bytes :
       {std::size_t{64}, std::size_t{1} << 20, std::size_t{4} << 20, std::size_t{8} << 20}) {
    const std::size_t count =
        bytes < 4096 ? rounds * 10 : std::max<std::size_t>(rounds / (bytes >> 20), 10);
    rows.push_back(measure(requests, replies, bytes, count));
    // In the same minute: the peer of the rings sleeps meanwhile.
    if (bytes == 64) rows.back().spin_ns = measure_spin(count);
  }
  print(rows);
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
  const std::vector<std::string_view> args(argv + 1, argv + argc);
  const unsigned long rounds = args.empty() ? 3000 : std::strtoul(argv[1], nullptr, 10);
  const bool json = args.size() == 3 && args[1] == "-o" && args[2] == "json";
  const bool markdown = args.size() < 2 || (args.size() == 3 && args[1] == "-o" && args[2] == "md");
  if (rounds == 0 || rounds > 1'000'000 || (!json && !markdown)) {
    std::fprintf(stderr, "usage: ring_echo [ROUNDS, 1 to 1000000 [-o md|json]]\n");
    return 2;
  }
  return airlock::run(rounds, json ? airlock::print_json : airlock::print_markdown);
}
