#include "tools/airlock_pool/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>

#include "base/available_memory.h"
#include "base/page_buffer.h"
#include "client/pool_client.h"
#include "runtime/json/writer.h"
#include "runtime/program/program.h"
#include "runtime/rpc/endpoint.h"
#include "runtime/text/figures.h"

namespace airlock::pool_tool {
namespace {

/// A vector of so many has fewer bytes than what rides along.
constexpr std::int64_t kMaxColumns = 2048;
/// Of the values of the operand: sums of a row are exact in every type.
constexpr std::size_t kValues = 7;

/// Of the process for one size: what is copied, where the plain memcpy puts it, and the array.
constexpr std::uint64_t kCopies = 3;

float value_at(std::size_t index) { return static_cast<float>(index % kValues); }

class Bench {
 public:
  Bench(const Options& options, std::shared_ptr<PoolClient> client)
      : options_(options), client_(std::move(client)) {}

  Result<Measured> measure(std::uint64_t bytes) {
    Measured measured;
    measured.bytes = bytes;
    const auto available = memory_available_bytes();
    if (available && *available < kCopies * bytes) {
      measured.skipped = fmt::format("skipped: needs {} of memory, {} are available",
                                     size_text(kCopies * bytes), size_text(*available));
      return measured;
    }
    const OperandShape shape = operand_shape(bytes);
    const auto describe = [](std::int64_t rows, std::int64_t columns) {
      return TensorDesc{DType::kF32, Shape{rows, columns}};
    };
    ASSIGN_OR_RETURN(const auto a,
                     alloc(PoolUse::kInput, describe(shape.rows, shape.columns), measured));
    ASSIGN_OR_RETURN(const auto b, alloc(PoolUse::kInput, describe(shape.columns, 1), measured));
    ASSIGN_OR_RETURN(const auto result, alloc(PoolUse::kOutput, describe(shape.rows, 1), measured));
    if (!measured.skipped.empty()) return measured;
    ASSIGN_OR_RETURN(from_, PageBuffer::allocate(bytes));
    ASSIGN_OR_RETURN(to_, PageBuffer::allocate(bytes));
    auto* const values = reinterpret_cast<float*>(from_.data());
    for (std::size_t i = 0; i < bytes / sizeof(float); ++i) values[i] = value_at(i);
    const std::vector<float> ones(static_cast<std::size_t>(shape.columns), 1.0F);
    std::memcpy(b->bytes().data(), ones.data(), b->bytes().size());
    out_.resize(static_cast<std::size_t>(shape.rows));
    RETURN_IF_ERROR(measure_rounds(*a, *b, *result, measured));
    return measured;
  }

 private:
  /// Null where there is no room, which `measured` then says.
  Result<std::unique_ptr<PoolArray>> alloc(PoolUse use, const TensorDesc& desc,
                                           Measured& measured) {
    auto made = client_->alloc(use, desc);
    if (made.status().code() != StatusCode::kResourceExhausted) return made;
    const PoolClientFigures::Use have = client_->figures().uses[use];
    measured.skipped = fmt::format("skipped: needs {} ({}), the lease has {} in a row",
                                   size_text(whole_pages(desc.bytes())), name_of(use),
                                   size_text(have.largest_free));
    return std::unique_ptr<PoolArray>();
  }

  Status measure_rounds(PoolArray& a, PoolArray& b, PoolArray& result, Measured& measured) {
    const PoolClientFigures before = client_->figures();
    Round warm;
    RETURN_IF_ERROR(play(a, b, result, warm));  // touches all of it
    RETURN_IF_ERROR(check(a.desc().shape[1]));
    const std::uint64_t by_zmq = client_->figures().transport[Path::kZmq].sent.bytes -
                                 before.transport[Path::kZmq].sent.bytes;
    measured.path = a.is_inside() ? "pool" : by_zmq >= measured.bytes ? "zmq" : "ring/inline";
    const Deadline end = Deadline::after(options_.max_time);
    std::vector<Round> rounds;
    do {
      RETURN_IF_ERROR(play(a, b, result, rounds.emplace_back()));
    } while (rounds.size() < options_.rounds && !end.expired());
    measured.round_count = rounds.size();
    measured.median = median_of(rounds);
    return {};
  }

  std::uint64_t computed_ns() { return client_->figures().ops[Op::kMatmul].times.server_ns; }

  Status play(PoolArray& a, PoolArray& b, PoolArray& result, Round& round) {
    const std::size_t bytes = a.bytes().size();
    const std::uint64_t computed = computed_ns();
    const auto copy = [&](std::byte* to) {
      const std::uint64_t begin = now_ns();
      std::memcpy(to, from_.data(), bytes);
      return now_ns() - begin;
    };
    // Each of the two comes first in every second round: it finds less of the operand in the
    // caches.
    is_swapped_ = !is_swapped_;
    if (!is_swapped_) round.memcpy_ns = copy(to_.data());
    round.copy_ns = copy(a.bytes().data());
    if (is_swapped_) round.memcpy_ns = copy(to_.data());
    const std::uint64_t start = now_ns();
    ASSIGN_OR_RETURN(const auto job, client_->start_matmul(a, b, Transpose::kNone, result));
    RETURN_IF_ERROR(job->wait());
    const std::uint64_t there = now_ns();
    RETURN_IF_ERROR(client_->copy_out(result, 0, std::as_writable_bytes(std::span(out_))));
    round.total_ns = round.copy_ns + (now_ns() - start);
    round.compute_ns = computed_ns() - computed;
    const std::uint64_t waited = there - start;
    round.wait_ns = waited - std::min(waited, round.compute_ns);
    return {};
  }

  /// The sums of the rows.
  Status check(std::int64_t columns) const {
    std::size_t index = 0;
    for (std::size_t row = 0; row < out_.size(); ++row) {
      float expected = 0;
      for (std::int64_t k = 0; k < columns; ++k) expected += value_at(index++);
      if (out_[row] == expected) continue;
      return {StatusCode::kMismatch, "row {} of the product is {}, expected {}", row, out_[row],
              expected};
    }
    return {};
  }

  const Options& options_;
  const std::shared_ptr<PoolClient> client_;
  PageBuffer from_;
  PageBuffer to_;
  std::vector<float> out_;
  bool is_swapped_ = false;
};

std::uint64_t result_bytes(std::uint64_t bytes) {
  return whole_pages(static_cast<std::uint64_t>(operand_shape(bytes).rows) * sizeof(float));
}

JsonObject summary(const Options& options, PoolClient& client) {
  const PoolClientFigures figures = client.figures();
  return {{"endpoint", options.endpoint},
          {"device", client.device()},
          {"lease_in_bytes", figures.uses[PoolUse::kInput].leased_bytes},
          {"lease_out_bytes", figures.uses[PoolUse::kOutput].leased_bytes}};
}

}  // namespace

std::vector<std::uint64_t> plan_sizes(std::uint64_t begin, std::uint64_t end) {
  std::vector<std::uint64_t> sizes;
  for (std::uint64_t bytes = begin; bytes <= end; bytes *= 2) sizes.push_back(bytes);
  return sizes;
}

OperandShape operand_shape(std::uint64_t bytes) {
  const std::uint64_t count = bytes / sizeof(float);
  const int half = (std::bit_width(count) - 1) / 2;
  const std::int64_t columns = std::min(std::int64_t{1} << half, kMaxColumns);
  return {static_cast<std::int64_t>(count) / columns, columns};
}

Round median_of(const std::vector<Round>& rounds) {
  const auto median = [&](std::uint64_t Round::*time) {
    std::vector<std::uint64_t> times;
    for (const Round& round : rounds) times.push_back(round.*time);
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::ranges::nth_element(times, middle);
    return *middle;
  };
  return {median(&Round::memcpy_ns), median(&Round::copy_ns), median(&Round::wait_ns),
          median(&Round::compute_ns), median(&Round::total_ns)};
}

Table bench_table() {
  return Table({Column("bytes", {}, 10), left("path", {}, 11), Column("memcpy us", "memcpy_us", 9),
                Column("copy us", "copy_us", 9), Column("wait us", "wait_us", 9),
                Column("compute us", "compute_us", 10), Column("total us", "total_us", 9),
                Column("copy/memcpy", "copy_memcpy_ratio"), Column("rounds", {}), left("note")});
}

Cells row_of(const Measured& measured) {
  if (!measured.skipped.empty()) {
    return {measured.bytes, Cell(), Cell(), Cell(), Cell(),
            Cell(),         Cell(), Cell(), Cell(), measured.skipped};
  }
  Cells row = {measured.bytes, measured.path};
  const Round& median = measured.median;
  for (const std::uint64_t ns :
       {median.memcpy_ns, median.copy_ns, median.wait_ns, median.compute_ns, median.total_ns})
    row.push_back(Cell::real(static_cast<double>(ns) / 1e3, 2));
  row.push_back(median.memcpy_ns == 0 ? Cell()
                                      : Cell::real(static_cast<double>(median.copy_ns) /
                                                       static_cast<double>(median.memcpy_ns),
                                                   2));
  row.emplace_back(measured.round_count);
  row.emplace_back(std::string());
  return row;
}

Status run_bench(const Options& options) {
  ASSIGN_OR_RETURN(const Endpoint endpoint, parse_endpoint(options.endpoint));
  PoolClientOptions wanted;
  wanted.endpoint = options.endpoint;
  wanted.client = "airlock_pool bench";
  wanted.timeout = wanted.op_timeout = options.timeout;
  wanted.lease = {{whole_pages(options.end_bytes), result_bytes(options.end_bytes), 0}};
  ASSIGN_OR_RETURN(wanted.security, open_keys(options.keys, options.endpoint));
  if (wanted.security == nullptr) warn_of_exposure(endpoint);
  ASSIGN_OR_RETURN(const auto client, PoolClient::connect(wanted));
  const bool json = options.form == OutputForm::kJson;
  Table table = bench_table();
  if (!json) {
    const PoolClientFigures figures = client->figures();
    RETURN_IF_ERROR(print(fmt::format(
        "the server computes on {}; leased: {} in, {} out\n\n{}", client->device(),
        size_text(figures.uses[PoolUse::kInput].leased_bytes),
        size_text(figures.uses[PoolUse::kOutput].leased_bytes), table.markdown_head())));
  }
  Status status;
  for (const std::uint64_t bytes : plan_sizes(options.begin_bytes, options.end_bytes)) {
    const auto measured = Bench(options, client).measure(bytes);
    status = measured.status();
    if (!status.ok()) break;
    Cells row = row_of(*measured);
    if (!json) RETURN_IF_ERROR(print(table.markdown_row(row)));
    table.add(std::move(row));
  }
  if (json) {
    JsonObject object = summary(options, *client);
    RETURN_IF_ERROR(print(object.add("rows", table.json()).line()));
  }
  client->close();
  return status;
}

}  // namespace airlock::pool_tool
