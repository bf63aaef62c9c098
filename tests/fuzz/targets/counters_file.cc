// A server's counters file that somebody else has written into.
//
//   input: u16 bytes that are cut off at the end, then for each word that is changed
//          u16 which one (of 8 bytes), u64 its value

#include "runtime/stats/counters_file.h"

#include <sys/stat.h>

#include "base/check.h"
#include "base/safe_text.h"
#include "runtime/stats/counters_reader.h"
#include "tests/fuzz/take.h"
#include "tests/fuzz/target.h"
#include "tests/stats/sample_server_info.h"
#include "tests/support/temp_dir.h"

namespace airlock::fuzz {
namespace {

using counters_layout::Header;
using counters_layout::SessionBlock;

constexpr std::size_t kBlocks = 2;
constexpr std::uint64_t kSlot = 1 << 20;
constexpr std::size_t kGenerationWord =
    (offsetof(Header, live) + offsetof(counters_layout::Live, generation)) / 8;

const TempDir& directory() {
  static const TempDir kept;
  return kept;
}

/// As a server left it that was killed with one session under way.
const std::string& valid_file() {
  static const std::string kept = [] {
    ServerInfo info = sample_server_info();
    info.start_ns = 5;
    info.pool = {kSlot, {{4, 2, 0}}, 2};
    const std::string path = directory().file("made.stats");
    auto file = CountersFile::create(path, info, kBlocks).value();
    SessionBlock* const ended = file->open_session(1, "first", 6);
    ended->ops[Op::kPing].calls.fetch_add(2);
    file->close_session(*ended);
    SessionBlock* const block = file->open_session(2, "second", 7);
    block->transport[Path::kZmq].parks.fetch_add(5);
    block->transport[Path::kRing].latency_ns.record(1000);
    file->live().service_ns[Op::kMatmul].record(2000);
    PoolFigures figures;
    figures.own = {{PoolFigures::Free{2, 1}, PoolFigures::Free{2, 2}, PoolFigures::Free{}}};
    figures.spare = {1, 1};
    figures.leased_bytes = figures.high_water_bytes = {{2 * kSlot, 4096, 0}};
    figures.high_water_all_bytes = figures.leased_all_bytes();
    figures.granted = 2;
    file->set_lease(*block,
                    {8,
                     {{2 * kSlot, 4096, 0}},
                     {{PoolUse::kInput, kSlot, 2 * kSlot}, {PoolUse::kOutput, 6 * kSlot, 4096}}},
                    figures);
    return read_all(path);
  }();
  return kept;
}

std::vector<Bytes> seeds() {
  Bytes as_it_is;
  put(as_it_is, std::uint16_t{0});
  Bytes changed = as_it_is;
  put(changed, static_cast<std::uint16_t>(offsetof(counters_layout::Identity, endpoint) / 8));
  put(changed, std::uint64_t{0x2f2f3a637069});
  put(changed,
      static_cast<std::uint16_t>((offsetof(Header, ended) + offsetof(SessionBlock, ops)) / 8));
  put(changed, std::uint64_t{1} << 40);
  Bytes leased_elsewhere = as_it_is;
  // The session's, in the second block.
  constexpr std::size_t kLease = sizeof(Header) + offsetof(SessionBlock, lease);
  put(leased_elsewhere,
      static_cast<std::uint16_t>((kLease + offsetof(counters_layout::Lease, extents) + 8) / 8));
  put(leased_elsewhere, std::uint64_t{0});
  return {as_it_is, changed, leased_elsewhere};
}

/// Sums over what was believed stay small, and no slot has two holders.
void check_pool(const CountersSnapshot& read) {
  const PoolShape& shape = read.server.pool;
  CHECK(shape == PoolShape{} || check_shape(shape).ok());
  CHECK(read.holders.size() <= kBlocks);
  CHECK(!read.settled || read.pool.leased_all_bytes() <= shape.bytes());
  std::uint64_t held = 0;
  for (const CountersSnapshot::Holder& holder : read.holders) {
    CHECK(!has_controls(holder.client));
    for (const PoolExtent& extent : holder.lease.extents) {
      CHECK(extent.offset + extent.bytes <= shape.bytes());
      held += extent.bytes;
    }
  }
  CHECK(!read.settled || held <= read.pool.leased_all_bytes());
}

void check_text(const std::string& text) { CHECK(!has_controls(text)); }

bool run(std::span<const std::byte> input) {
  std::string file = valid_file();
  const std::size_t cut = take<std::uint16_t>(input);
  while (input.size() >= 10) {
    const std::size_t word = take<std::uint16_t>(input) % (file.size() / 8);
    auto value = take<std::uint64_t>(input);
    // An odd one makes the reader wait 200 ms for a server that is in the middle of something.
    if (word == kGenerationWord) value &= ~std::uint64_t{1};
    std::memcpy(file.data() + word * 8, &value, sizeof(value));
  }
  file.resize(file.size() - std::min(cut, file.size()));
  const std::string path = write_all(directory().file("read.stats"), file);
  CHECK(::chmod(path.c_str(), 0600) == 0);
  const auto read = read_counters_file(path);
  if (!read.ok()) {
    check_refusal(read.status());
    return false;
  }
  CHECK(!read->alive && read->sessions_active <= kBlocks);
  CHECK(read->report.sessions.size() <= kBlocks + 1);
  for (const std::string* text :
       {&read->server.endpoint, &read->server.model, &read->server.digest, &read->server.dtype,
        &read->server.host.device, &read->server.host.name, &read->server.host.cpu}) {
    check_text(*text);
  }
  CounterSums sums;
  for (const SessionReport& session : read->report.sessions) {
    check_text(session.client);
    sums.merge(session);
  }
  CHECK(sums.ops == read->report.ops && sums.transport == read->report.transport);
  check_pool(*read);
  (void)report_table(read->report);
  return true;
}

}  // namespace

constinit const Target kCountersFile = {"counters_file", seeds, run};

}  // namespace airlock::fuzz
