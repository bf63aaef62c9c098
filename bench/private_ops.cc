// The linears of a private mode with LLaMA-3.2-1B's shape, in this process: products of masked and
// of plain integers against bf16's, and what rounding, hiding and checking take. The contenders
// take turns, linear by linear.
//   private_ops [THREADS [ROUNDS [ROWS...]]]
#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/deadline.h"
#include "base/mix.h"
#include "bench/llama_1b.h"
#include "bench/record.h"
#include "runtime/cpu/cpu_model.h"
#include "runtime/local_backend.h"
#include "tee_runner/privacy/private_backend.h"

namespace airlock {
namespace {

// Enough of them that no weight stays in a cache from one round to the next.
constexpr std::int64_t kLayers = 4;

Deadline late() { return Deadline::after(std::chrono::seconds(300)); }

OpSpec float_spec(const ModelDims& dims, const LinearId& id, std::int64_t rows, DType dtype) {
  if (id.linear == Linear::kLmHead) return lm_head_spec({dtype, {rows, dims.hidden}});
  const std::vector<WeightId> weights = weights_of(id.linear, id.layer);
  const std::int64_t columns = weight_shape(dims, weights[0].kind)[1];
  return linear_spec(weights, {dtype, {rows, columns}}, dtype);
}

/// The time of one op of `backend`, whose input `fill` writes; in ms.
template <typename Fill>
double time_op(Backend& backend, const OpSpec& spec, const Fill& fill) {
  auto op = backend.prepare(spec, late()).value();
  fill(op->input(0));
  const std::uint64_t start_ns = now_ns();
  CHECK(op->submit().ok());
  CHECK(op->wait().ok());
  return static_cast<double>(now_ns() - start_ns) / 1e6;
}

void fill_words(MutableTensorView words, std::uint32_t mask) {
  std::uint64_t state = 1;
  for (std::uint32_t& word : words.as<std::uint32_t>()) {
    word = static_cast<std::uint32_t>(mix(++state)) & mask;
  }
}

void fill_halves(MutableTensorView x) {
  std::uint64_t state = 1;
  // bf16 of [1, 2), of either sign.
  for (std::uint16_t& half : x.as<std::uint16_t>())
    half = static_cast<std::uint16_t>(0x3f80U | (mix(++state) & 0x807fU));
}

void fill_floats(MutableTensorView x) {
  std::uint64_t state = 1;
  for (float& value : x.as<float>())
    value = static_cast<float>(mix(++state) & 0xffffU) / 32768.0F - 1.0F;
}

/// What the trusted side does of one linear, by its own counters; in ms.
struct Own {
  std::vector<double> mask, unmask, verify;
};

class Bench {
 public:
  explicit Bench(std::size_t threads) : source_(kLayers) {
    options_.mode = PrivacyMode::kOtpVerify;
    pool_ = ThreadPool::create(threads).value();
    floats_ = CpuModel::create(source_, {DType::kBF16, threads, {}}).value();
    integers_ = CpuModel::create_for_int8(source_, Int8Weights::kW8, threads, nullptr, {}).value();
    bf16_.emplace(floats_->make_compute());
    worker_.emplace(integers_->make_compute());
    products_.emplace(integers_->make_compute());
    model_ = PrivateModel::create(source_, options_, threads).value();
    key_ = model_->secret().draw_key(kPadLabel).value();
  }

  void run(std::int64_t rows, std::size_t rounds) {
    std::vector<double> bf16_ms[std::size(kValuesOf<Linear>)],
        masked_ms[std::size(kValuesOf<Linear>)], plain_ms[std::size(kValuesOf<Linear>)];
    Own own[std::size(kValuesOf<Linear>)];
    PrivacyStats stats;
    const auto maker =
        PadMaker::create({kLayers, key_, std::uint64_t{1} << 31}, model_->int8(), *products_, stats)
            .value();
    const auto hidden =
        PrivateBackend::create({*model_, options_, *worker_, maker.get(), &key_, *pool_, stats})
            .value();
    const ModelDims& dims = source_.config().dims;
    for (std::size_t round = 0; round <= rounds; ++round) {
      begin_pass(*hidden, rows);
      await_quiet(stats);
      for (std::size_t which = 0; which < std::size(kValuesOf<Linear>); ++which) {
        const auto layer = static_cast<std::uint16_t>(round % kLayers);
        const LinearId id{kValuesOf<Linear>[which] == Linear::kLmHead ? std::uint16_t{0} : layer,
                          kValuesOf<Linear>[which]};
        const OpSpec integer = int_linear_spec(weights_of(id.linear, id.layer), 1, rows, dims);
        const double bf16 = time_op(*bf16_, float_spec(dims, id, rows, DType::kBF16), fill_halves);
        const double masked =
            time_op(*worker_, integer, [](MutableTensorView x) { fill_words(x, 0xffffffffU); });
        const double plain =
            time_op(*worker_, integer, [](MutableTensorView x) { fill_words(x, 0x3fffU); });
        const PrivacySnapshot before = snapshot(stats);
        (void)time_op(*hidden, float_spec(dims, id, rows, DType::kF32), fill_floats);
        const PrivacySnapshot after = snapshot(stats);
        if (round == 0) continue;
        bf16_ms[which].push_back(bf16);
        masked_ms[which].push_back(masked);
        plain_ms[which].push_back(plain);
        own[which].mask.push_back(ms(after.mask_ns - before.mask_ns));
        own[which].unmask.push_back(ms(after.unmask_ns - before.unmask_ns));
        own[which].verify.push_back(ms(after.verify_ns - before.verify_ns));
      }
    }
    double total[6] = {};
    for (std::size_t which = 0; which < std::size(kValuesOf<Linear>); ++which) {
      const double row[6] = {
          bench::median_of(bf16_ms[which]),    bench::median_of(masked_ms[which]),
          bench::median_of(plain_ms[which]),   bench::median_of(own[which].mask),
          bench::median_of(own[which].unmask), bench::median_of(own[which].verify)};
      print(rows, name_of(kValuesOf<Linear>[which]), row);
      const double times = kValuesOf<Linear>[which] == Linear::kLmHead
                               ? 1.0
                               : static_cast<double>(bench::kLlama1B.layers);
      for (std::size_t i = 0; i < std::size(total); ++i) total[i] += times * row[i];
    }
    print(rows, "a pass", total);
  }

 private:
  static double ms(std::uint64_t ns) { return static_cast<double>(ns) / 1e6; }
  static PrivacySnapshot snapshot(const PrivacyStats& stats) {
    PrivacySnapshot now;
    merge(now, stats);
    return now;
  }
  /// Until the thread that makes pads ahead has nothing to make: it would compete.
  static void await_quiet(const PrivacyStats& stats) {
    constexpr std::chrono::milliseconds kLook{100};
    for (std::uint64_t made = ~std::uint64_t{0}; made != stats.pads_made.load();) {
      made = stats.pads_made.load();
      std::this_thread::sleep_for(kLook);
    }
  }
  static void begin_pass(Backend& hidden, std::int64_t rows) {
    (void)time_op(hidden, embedding_spec(rows, DType::kF32),
                  [](MutableTensorView ids) { std::ranges::fill(ids.as<std::int32_t>(), 1); });
  }
  static void print(std::int64_t rows, std::string_view name, const double (&row)[6]) {
    const auto [bf16, masked, plain, mask, unmask, verify] = row;
    fmt::print(
        "| {} | {} | {:.3f} | {:.3f} | {:.2f} | {:.2f} | {:.3f} | {:.3f} | {:.3f} | {:.1f} % | "
        "{:.1f} % |\n",
        rows, name, bf16, masked, masked / bf16, plain / bf16, mask, unmask, verify,
        100 * verify / masked, 100 * (mask + unmask) / masked);
  }

  const bench::Llama1B source_;
  PrivacyOptions options_;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<CpuModel> floats_;
  std::shared_ptr<CpuModel> integers_;
  std::optional<LocalBackend> bf16_;
  std::optional<LocalBackend> worker_;
  std::optional<LocalBackend> products_;
  std::unique_ptr<PrivateModel> model_;
  PadKey key_{};
};

void run(std::size_t threads, std::size_t rounds, const std::vector<std::int64_t>& rows) {
  Bench bench(threads);
  fmt::print(
      "{} threads, {} rounds; medians in ms; a pass: 16 layers and lm_head\n\n"
      "| rows | linear | bf16 | masked | masked / bf16 | plain integers / bf16 | round and hide | "
      "take in | check | check / masked | "
      "round, hide, take in / masked |\n"
      "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
      threads, rounds);
  for (const std::int64_t count : rows) bench.run(count, rounds);
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  const auto number = [&](int place, long otherwise) {
    return argc > place ? std::strtol(argv[place], nullptr, 10) : otherwise;
  };
  const long threads = number(1, 1);
  const long rounds = number(2, 5);
  std::vector<std::int64_t> rows;
  for (int i = 3; i < argc; ++i) rows.push_back(std::strtol(argv[i], nullptr, 10));
  if (rows.empty()) rows = {1, 8, 128};
  const bool fits =
      std::ranges::all_of(rows, [](auto count) { return count >= 1 && count <= 1024; });
  if (threads < 1 || threads > 64 || rounds < 1 || rounds > 1000 || !fits) {
    std::fprintf(stderr, "usage: private_ops [THREADS [ROUNDS [ROWS...]]]\n");
    return 2;
  }
  airlock::run(static_cast<std::size_t>(threads), static_cast<std::size_t>(rounds), rows);
  return 0;
}
