// What it takes to find a place inside a lease, and how the lease's room falls to pieces: the
// tensors of prefills of 16 to 2048 tokens (LLaMA-3.2-1B's shape, fp32, attention offloaded), two
// ops under way, results read by two ops more, as many prefills as make a million operations.
//   pool_allocation [OPERATIONS]
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <optional>
#include <random>
#include <string_view>
#include <vector>

#include "base/deadline.h"
#include "bench/llama_1b.h"
#include "pool/first_fit.h"
#include "pool/lease.h"
#include "proto/path.h"
#include "runtime/model/forward_plan.h"

namespace airlock {
namespace {

constexpr std::uint64_t kLeaseBytes = std::uint64_t{1} << 30;
constexpr std::size_t kUnderWay = 2;
constexpr std::size_t kRead = 2;  // results that are still read, of so many ops
// A larger one goes to the pool from here on: more of them than a session has today.
constexpr std::size_t kFromBytes = 10240;

struct Block {
  std::uint64_t begin = 0;
  std::uint64_t bytes = 0;
};

/// One half of a lease, its times and its state after each operation.
class Measured {
 public:
  Measured() { room_.add(0, kLeaseBytes); }
  std::optional<Block> take(std::uint64_t bytes) {
    const std::uint64_t start = now_ns();
    const auto begin = room_.take(bytes);
    ns_.push_back(static_cast<std::uint32_t>(now_ns() - start));
    look();
    if (!begin) {
      ++without_room_;
      return std::nullopt;
    }
    return Block{*begin, bytes};
  }
  void give(const Block& block) {
    const std::uint64_t start = now_ns();
    room_.give(block.begin, block.bytes);
    give_ns_.push_back(static_cast<std::uint32_t>(now_ns() - start));
    look();
  }
  std::size_t operations() const { return ns_.size() + give_ns_.size(); }
  void print(std::string_view name) {
    const auto at = [](auto& values, double share) {
      const auto place = values.begin() + static_cast<std::ptrdiff_t>(
                                              share * static_cast<double>(values.size() - 1));
      std::nth_element(values.begin(), place, values.end());
      return *place;
    };
    fmt::print("| {} | {} | {} | {} | {} | {} | {} | {:.1f} | {:.1f} | {:.1f} | {} |\n", name,
               operations(), at(ns_, 0.5), at(ns_, 0.99), at(ns_, 0.9999), at(give_ns_, 0.5),
               at(give_ns_, 0.99), at(broken_, 0.5), at(broken_, 0.99), at(broken_, 1.0),
               without_room_);
  }

 private:
  void look() {
    const double free = static_cast<double>(room_.free_length());
    broken_.push_back(free == 0 ? 0 : 100 - 100 * static_cast<double>(room_.longest_run()) / free);
  }

  FirstFit room_{limits::kPoolPageBytes};
  std::vector<std::uint32_t> ns_;
  std::vector<std::uint32_t> give_ns_;
  std::vector<double> broken_;  // per cent
  std::uint64_t without_room_ = 0;
};

struct Op {
  std::vector<Block> inputs;
  std::vector<Block> results;
};

void run(std::size_t operations) {
  Measured in;
  Measured out;
  std::mt19937 random(1);
  std::deque<Op> under_way;
  std::deque<std::vector<Block>> read;
  const auto finish = [&] {
    for (const Block& block : under_way.front().inputs) in.give(block);
    read.push_back(std::move(under_way.front().results));
    under_way.pop_front();
    if (read.size() <= kRead) return;
    for (const Block& block : read.front()) out.give(block);
    read.pop_front();
  };
  std::size_t prefills = 0;
  while (in.operations() + out.operations() < operations) {
    ++prefills;
    const std::int64_t tokens = std::int64_t{1} << std::uniform_int_distribution(4, 11)(random);
    const std::int64_t odd = std::uniform_int_distribution<std::int64_t>(0, tokens / 3)(random);
    const auto plan =
        plan_forward(bench::kLlama1B, {.tokens = tokens - odd, .wire = DType::kF32}).value();
    for (const PlannedOp& planned : plan) {
      Op op;
      for (const TensorDesc& input : planned.spec.inputs) {
        if (input.bytes() < kFromBytes) continue;
        if (const auto block = in.take(input.bytes())) op.inputs.push_back(*block);
      }
      const auto results = op_results(planned.spec, bench::kLlama1B).value();
      for (const TensorDesc& result : results) {
        if (result.bytes() < kFromBytes) continue;
        if (const auto block = out.take(result.bytes())) op.results.push_back(*block);
      }
      under_way.push_back(std::move(op));
      if (under_way.size() > kUnderWay) finish();
    }
  }
  fmt::print("{} prefills; a clock of {} ns is in each time\n\n", prefills, [] {
    const std::uint64_t start = now_ns();
    for (int i = 0; i < 1000; ++i) (void)now_ns();
    return (now_ns() - start) / 1000;
  }());
  fmt::print(
      "| lease of 1 GiB | operations | take, median ns | p99 | p99.99 | give, median ns | p99 | "
      "fragmentation, median % | p99 | most | without room |\n"
      "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  in.print("operands");
  out.print("results");
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const unsigned long operations = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1'000'000;
  if (argc > 2 || operations == 0 || operations > 1'000'000'000) {
    std::fprintf(stderr, "usage: pool_allocation [OPERATIONS, 1 to 10^9]\n");
    return 2;
  }
  airlock::run(operations);
  return 0;
}
