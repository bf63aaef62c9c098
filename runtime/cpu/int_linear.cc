#include "runtime/cpu/int_linear.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/cpu/int_digits.h"
#include "runtime/cpu/int_product.h"
#include "runtime/cpu/int_product_f64.h"
#include "runtime/exact/pad.h"

namespace airlock {

namespace {

// Words of the rows that are taken at once: 8 MiB, and as much of their digits.
constexpr std::int64_t kBlockWords = std::int64_t{1} << 21;
// Of a piece that only reads, makes or splits words.
constexpr std::int64_t kPieceWords = std::int64_t{1} << 16;
// With less work than this for each thread, to wake one takes longer than what it saves.
constexpr std::int64_t kFlopAThread = std::int64_t{1} << 24;

/// Scratch memory, wiped where it holds what came of a key.
struct Scratch {
  ScratchPool::Buffer buffer;
  std::span<std::byte> secret;

  Scratch() = default;
  Scratch(Scratch&& other) noexcept
      : buffer(std::move(other.buffer)), secret(std::exchange(other.secret, {})) {}
  ~Scratch() { wipe(secret); }

  static Result<Scratch> take(ScratchPool& pool, std::size_t bytes, bool is_secret) {
    Scratch scratch;
    ASSIGN_OR_RETURN(scratch.buffer, pool.take(bytes));
    if (is_secret) scratch.secret = {scratch.buffer.data(), bytes};
    return scratch;
  }
};

/// Where the rows of words come from.
class Words {
 public:
  virtual ~Words() = default;
  /// Before read() on workers below `count`.
  virtual Status begin(std::size_t count) = 0;
  /// Writes words of rows [first, first + count), k each, and the digits that each row needs. Any
  /// thread, with a number of its own.
  virtual Status read(std::size_t worker, std::int64_t first, std::int64_t count, std::int64_t k,
                      std::uint32_t* to, std::uint8_t* digits) = 0;
  virtual bool is_secret() const = 0;
};

/// Of an operand.
class GivenWords : public Words {
 public:
  explicit GivenWords(TensorView x) : x_(x) {}
  Status begin(std::size_t) override { return {}; }
  Status read(std::size_t, std::int64_t first, std::int64_t count, std::int64_t k,
              std::uint32_t* to, std::uint8_t* digits) override {
    // What is judged and split later is this copy.
    std::memcpy(to, x_.data + static_cast<std::size_t>(first * k) * sizeof(std::uint32_t),
                static_cast<std::size_t>(count * k) * sizeof(std::uint32_t));
    for (std::int64_t row = 0; row < count; ++row) {
      const std::span<const std::uint32_t> words(to + row * k, static_cast<std::size_t>(k));
      digits[row] = static_cast<std::uint8_t>(digits_for(words));
    }
    return {};
  }
  bool is_secret() const override { return false; }

 private:
  TensorView x_;
};

/// Of a key. Each worker has a stream of its own.
class PadWords : public Words {
 public:
  PadWords(const OpSpec& spec, const OpMemory& memory)
      : layer_(layer_of(spec)), linear_(linear_of(spec)) {
    std::memcpy(key_.data(), memory.inputs[0].data, key_.size());
    const TensorView places = memory.inputs[1];
    places_.resize(static_cast<std::size_t>(places.desc.shape[0]));
    static_assert(sizeof(Place) == 2 * sizeof(std::uint32_t));
    std::memcpy(places_.data(), places.data, places.desc.bytes());
  }
  Status begin(std::size_t count) override {
    while (streams_.size() < count) {
      ASSIGN_OR_RETURN(WordStream stream, WordStream::create(key_));
      streams_.push_back(std::move(stream));
    }
    return {};
  }
  Status read(std::size_t worker, std::int64_t first, std::int64_t count, std::int64_t k,
              std::uint32_t* to, std::uint8_t* digits) override {
    for (std::int64_t row = 0; row < count; ++row, to += k) {
      const Place& place = places_[static_cast<std::size_t>(first + row)];
      RETURN_IF_ERROR(streams_[worker].words({place[0], layer_, linear_, place[1]},
                                             {to, static_cast<std::size_t>(k)}));
      digits[row] = kMostDigits;
    }
    return {};
  }
  bool is_secret() const override { return true; }

 private:
  using Place = std::array<std::uint32_t, 2>;  // epoch, row

  const std::uint16_t layer_;
  const Linear linear_;
  PadKey key_{};
  std::vector<Place> places_;
  std::vector<WordStream> streams_;
};

/// One integer op. One thread.
class IntLinear {
 public:
  IntLinear(const IntGround& ground, const OpMemory& memory, Words& words,
            std::vector<const HeldWeight*> weights)
      : ground_(ground),
        memory_(memory),
        words_(words),
        weights_(std::move(weights)),
        k_(weights_[0]->k) {}

  Status run() {
    const Cut blocks(memory_.results[0].desc.shape[0], std::max<std::int64_t>(kBlockWords / k_, 1));
    for (std::int64_t block = 0; block < blocks.parts(); ++block)
      RETURN_IF_ERROR(run_block(blocks.begin(block), blocks.size(block)));
    return {};
  }

 private:
  std::size_t row_words(std::int64_t rows) const { return static_cast<std::size_t>(rows * k_); }

  Status run_block(std::int64_t first, std::int64_t rows) {
    const std::size_t bytes = row_words(rows) * sizeof(std::uint32_t);
    ASSIGN_OR_RETURN(const Scratch words,
                     Scratch::take(ground_.scratch, bytes, words_.is_secret()));
    auto* const to = reinterpret_cast<std::uint32_t*>(words.buffer.data());
    std::vector<std::uint8_t> digits(static_cast<std::size_t>(rows));
    RETURN_IF_ERROR(read(first, rows, to, digits));
    if (ground_.held.way == Int8Way::kF64) {
      std::vector<IntProductF64> products;
      for (std::size_t i = 0; i < weights_.size(); ++i)
        products.emplace_back(rows, to, *weights_[i], result(i, first));
      return multiply<IntProductF64>(products);
    }
    const DigitRows digit_rows(std::move(digits), ground_.held.least_digit_rows,
                               IntProduct::most_digit_rows(k_));
    ASSIGN_OR_RETURN(
        const Scratch split,
        Scratch::take(ground_.scratch, row_words(digit_rows.digit_rows), words_.is_secret()));
    auto* const all_digits = reinterpret_cast<std::int8_t*>(split.buffer.data());
    RETURN_IF_ERROR(split_all(digit_rows, to, all_digits));
    std::vector<IntProduct> products;
    for (std::size_t i = 0; i < weights_.size(); ++i) {
      products.emplace_back(ground_.calls, digit_rows, all_digits, *weights_[i], result(i, first));
    }
    return multiply<IntProduct>(products);
  }

  std::byte* result(std::size_t index, std::int64_t first_row) const {
    const MutableTensorView& all = memory_.results[index];
    return all.data +
           static_cast<std::size_t>(first_row * all.desc.shape[1]) * sizeof(std::uint32_t);
  }

  Status read(std::int64_t first, std::int64_t rows, std::uint32_t* to,
              std::vector<std::uint8_t>& digits) {
    const Cut parts(rows, std::max<std::int64_t>(kPieceWords / k_, 1));
    const auto count = static_cast<std::size_t>(parts.parts());
    const std::size_t workers = ground_.threads.worker_count(count, ~std::size_t{0});
    RETURN_IF_ERROR(words_.begin(workers));
    std::vector<Status> failures(workers);
    const auto read_piece = [&](std::size_t worker, std::size_t piece) {
      const auto part = static_cast<std::int64_t>(piece);
      const std::int64_t row = parts.begin(part);
      if (!failures[worker].ok()) return;
      failures[worker] = words_.read(worker, first + row, parts.size(part), k_, to + row * k_,
                                     digits.data() + row);
    };
    RETURN_IF_ERROR(ground_.threads.run(count, std::ref(read_piece)));
    for (const Status& failure : failures) RETURN_IF_ERROR(failure);
    return {};
  }

  Status split_all(const DigitRows& rows, const std::uint32_t* words, std::int8_t* to) {
    const auto split_group = [&](std::size_t, std::size_t piece) {
      const DigitRows::Group& group = rows.groups[piece];
      std::int8_t* at = to + group.first_digit_row * k_;
      for (std::int64_t row = group.first_row; row < group.first_row + group.rows; ++row) {
        const int digits = rows.digits[static_cast<std::size_t>(row)];
        split_digits({words + row * k_, static_cast<std::size_t>(k_)}, digits, at);
        at += digits * k_;
      }
    };
    return ground_.threads.run(rows.groups.size(), std::ref(split_group));
  }

  /// All pieces of all products, as one run.
  template <typename Product>
  Status multiply(const std::vector<Product>& products) {
    std::size_t count = 0;
    std::size_t bytes = 0;
    std::int64_t flop = 0;
    for (const Product& product : products) {
      count += product.piece_count();
      flop += product.flop();
      bytes = std::max(bytes, (product.memory_bytes() + 63) / 64 * 64);
    }
    const auto most_workers =
        static_cast<std::size_t>(std::max<std::int64_t>(flop / kFlopAThread, 1));
    const std::size_t workers = ground_.threads.worker_count(count, most_workers);
    ASSIGN_OR_RETURN(const Scratch memory,
                     Scratch::take(ground_.scratch, workers * bytes, words_.is_secret()));
    const auto multiply_piece = [&](std::size_t worker, std::size_t piece) {
      const Product* product = products.data();
      while (piece >= product->piece_count()) piece -= product++->piece_count();
      product->run(piece, worker, memory.buffer.data() + worker * bytes, ground_.streams[worker]);
    };
    return ground_.threads.run(count, std::ref(multiply_piece), most_workers);
  }

  const IntGround& ground_;
  const OpMemory& memory_;
  Words& words_;
  // Of each result.
  const std::vector<const HeldWeight*> weights_;
  const std::int64_t k_;
};

/// The plane that each result is of.
Result<std::vector<const HeldWeight*>> planes_of(const HeldInt8& held, const OpSpec& spec) {
  std::vector<const HeldWeight*> weights;
  const auto add = [&](const HeldInt8::Planes& planes, std::string_view name) -> Status {
    for (std::size_t plane = 0; plane < spec.planes; ++plane) {
      if (planes[plane] == nullptr) {
        return {StatusCode::kInvalidInput,
                "{} asks for {} planes of {}, of which the int8 weights made have {}",
                name_of(spec.op),
                spec.planes,
                name,
                plane};
      }
      weights.push_back(planes[plane].get());
    }
    return {};
  };
  if (spec.weights.empty()) RETURN_IF_ERROR(add(held.lm_head, name_of(Linear::kLmHead)));
  for (const WeightId& id : spec.weights) RETURN_IF_ERROR(add(held.planes(id), name_of(id.kind)));
  return weights;
}

}  // namespace

Status multiply_integers(const IntGround& ground, const OpSpec& spec, const OpMemory& memory) {
  ASSIGN_OR_RETURN(std::vector<const HeldWeight*> weights, planes_of(ground.held, spec));
  if (spec.op == Op::kPadLinear) {
    PadWords words(spec, memory);
    return IntLinear(ground, memory, words, std::move(weights)).run();
  }
  GivenWords words(memory.inputs[0]);
  return IntLinear(ground, memory, words, std::move(weights)).run();
}

}  // namespace airlock
