#include "tee_runner/privacy/check.h"

#include <algorithm>
#include <utility>

#include "base/vectorize.h"

namespace airlock {

namespace {

// Columns whose sums stay in the cache while a block's rows pass.
constexpr std::size_t kColumnsAtOnce = 512;
constexpr std::size_t kRowsAtOnce = 4;
static_assert(LinearCheck::kCheckVectors == 2, "a row has two words");

constexpr std::uint64_t wide(std::int32_t value) {
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
}

/// Adds W^T s of `row_count` rows to `sums`, of `count` neighbouring columns; a row begins `pitch`
/// behind the last.
AIRLOCK_VECTORIZE void add_rows(const std::int8_t* rows, std::size_t row_count, std::size_t pitch,
                                std::size_t count, const std::int32_t* secrets,
                                std::uint64_t* sums) {
  std::size_t row = 0;
  for (; row + kRowsAtOnce <= row_count; row += kRowsAtOnce) {
    const std::int8_t* at = rows + row * pitch;
    const std::int64_t a = secrets[row];
    const std::int64_t b = secrets[row + 1];
    const std::int64_t c = secrets[row + 2];
    const std::int64_t d = secrets[row + 3];
    // No sum of four reaches 2^42.
    for (std::size_t j = 0; j < count; ++j) {
      const std::int64_t sum =
          at[j] * a + at[pitch + j] * b + at[2 * pitch + j] * c + at[3 * pitch + j] * d;
      sums[j] += static_cast<std::uint64_t>(sum);
    }
  }
  for (; row < row_count; ++row) {
    const std::int64_t a = secrets[row];
    for (std::size_t j = 0; j < count; ++j)
      sums[j] += static_cast<std::uint64_t>(rows[row * pitch + j] * a);
  }
}

/// A row's two words so far.
struct Words {
  std::uint64_t first = 0;
  std::uint64_t second = 0;
};

/// Takes `count` results times their secrets off `words`.
AIRLOCK_VECTORIZE void take_results(const std::int32_t* results, const std::int32_t* first,
                                    const std::int32_t* second, std::size_t count, Words& words) {
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  for (std::size_t i = 0; i < count; ++i) {
    a += static_cast<std::uint64_t>(static_cast<std::int64_t>(results[i]) * first[i]);
    b += static_cast<std::uint64_t>(static_cast<std::int64_t>(results[i]) * second[i]);
  }
  words.first -= a;
  words.second -= b;
}

/// Adds the row's inputs times W^T s.
AIRLOCK_VECTORIZE void add_inputs(const std::int32_t* x, const std::uint64_t* first,
                                  const std::uint64_t* second, std::size_t count, Words& words) {
  std::uint64_t a = 0;
  std::uint64_t b = 0;
  for (std::size_t j = 0; j < count; ++j) {
    a += wide(x[j]) * first[j];
    b += wide(x[j]) * second[j];
  }
  words.first += a;
  words.second += b;
}

template <typename T>
void wipe_vector(std::vector<T>& secret) {
  wipe(std::as_writable_bytes(std::span(secret)));
}

std::vector<std::int64_t> weight_rows_of(const ModelDims& dims, Linear linear) {
  if (linear == Linear::kLmHead) return {dims.vocab};
  std::vector<std::int64_t> rows;
  for (const WeightKind kind : kinds_of(linear)) rows.push_back(weight_shape(dims, kind)[0]);
  return rows;
}

std::size_t index_of_layer(Linear linear, std::uint16_t layer) {
  return linear == Linear::kLmHead ? 0 : layer;
}

}  // namespace

LinearCheck::LinearCheck(std::span<const std::int64_t> weight_rows, std::uint8_t planes,
                         std::int64_t columns)
    : weight_rows_(weight_rows.begin(), weight_rows.end()),
      planes_(planes),
      columns_(static_cast<std::size_t>(columns)) {
  std::size_t rows = 0;
  for (const std::int64_t count : weight_rows_) rows += static_cast<std::size_t>(count) * planes;
  for (auto& secrets : secrets_) secrets.resize(rows);
  for (auto& sums : sums_) sums.resize(columns_);
}

LinearCheck::~LinearCheck() {
  for (auto& secrets : secrets_) wipe_vector(secrets);
  for (auto& sums : sums_) wipe_vector(sums);
}

Result<std::unique_ptr<LinearCheck>> LinearCheck::create(WordStream& words, Linear linear,
                                                         std::uint16_t layer,
                                                         std::span<const std::int64_t> weight_rows,
                                                         std::uint8_t planes,
                                                         std::int64_t columns) {
  std::unique_ptr<LinearCheck> check(new LinearCheck(weight_rows, planes, columns));
  for (std::uint32_t vector = 0; vector < kCheckVectors; ++vector) {
    std::vector<std::int32_t>& secrets = check->secrets_[vector];
    // A word's bits are read as a number with a sign.
    const std::span<std::uint32_t> out(reinterpret_cast<std::uint32_t*>(secrets.data()),
                                       secrets.size());
    RETURN_IF_ERROR(
        words.words({.epoch = 0, .layer = layer, .linear = linear, .row = vector}, out));
  }
  return check;
}

void LinearCheck::add(const Int8Rows& rows) {
  CHECK(rows.weight < weight_rows_.size() && rows.plane < planes_ && rows.planes == planes_);
  CHECK(static_cast<std::size_t>(rows.columns) == columns_);
  CHECK(rows.first_row >= 0 && rows.row_count >= 0 &&
        rows.first_row + rows.row_count <= weight_rows_[rows.weight]);
  const auto count = static_cast<std::size_t>(rows.row_count);
  CHECK(rows.values.size() == count * columns_);
  std::size_t first = 0;
  for (std::size_t weight = 0; weight < rows.weight; ++weight)
    first += static_cast<std::size_t>(weight_rows_[weight]) * planes_;
  first += static_cast<std::size_t>(weight_rows_[rows.weight]) * rows.plane;
  first += static_cast<std::size_t>(rows.first_row);
  std::vector<std::uint64_t> block(columns_);
  for (std::size_t vector = 0; vector < kCheckVectors; ++vector) {
    std::fill(block.begin(), block.end(), std::uint64_t{0});
    for (std::size_t start = 0; start < columns_; start += kColumnsAtOnce) {
      add_rows(rows.values.data() + start, count, columns_,
               std::min(kColumnsAtOnce, columns_ - start), secrets_[vector].data() + first,
               block.data() + start);
    }
    const std::lock_guard lock(mutex_);
    for (std::size_t j = 0; j < columns_; ++j) sums_[vector][j] += block[j];
  }
  wipe_vector(block);
}

bool LinearCheck::passes(std::size_t row_count, std::span<const std::int32_t> x,
                         std::span<const std::span<const std::int32_t>> results) const {
  CHECK(x.size() == row_count * columns_ && results.size() == weight_rows_.size() * planes_);
  for (std::size_t i = 0; i < results.size(); ++i)
    CHECK(results[i].size() == row_count * static_cast<std::size_t>(weight_rows_[i / planes_]));
  std::uint64_t differences = 0;
  for (std::size_t row = 0; row < row_count; ++row) {
    Words words;
    add_inputs(x.data() + row * columns_, sums_[0].data(), sums_[1].data(), columns_, words);
    std::size_t first = 0;
    for (std::size_t i = 0; i < results.size(); ++i) {
      const auto width = static_cast<std::size_t>(weight_rows_[i / planes_]);
      take_results(results[i].data() + row * width, secrets_[0].data() + first,
                   secrets_[1].data() + first, width, words);
      first += width;
    }
    differences |= words.first | words.second;
  }
  return differences == 0;
}

ModelCheck::ModelCheck(WordStream words, const ModelDims& dims)
    : dims_(dims), words_(std::move(words)) {
  checks_.resize(static_cast<std::size_t>(std::max<std::int64_t>(dims.layers, 1)));
}

Result<std::unique_ptr<ModelCheck>> ModelCheck::create(const PadKey& check_key,
                                                       const ModelDims& dims) {
  ASSIGN_OR_RETURN(WordStream words, WordStream::create(check_key));
  return std::unique_ptr<ModelCheck>(new ModelCheck(std::move(words), dims));
}

Result<LinearCheck*> ModelCheck::find(const Int8Rows& rows) {
  const std::lock_guard lock(mutex_);
  std::unique_ptr<LinearCheck>& check =
      checks_[index_of_layer(rows.linear, rows.layer)][rows.linear];
  if (check == nullptr) {
    ASSIGN_OR_RETURN(
        check, LinearCheck::create(words_, rows.linear, rows.layer,
                                   weight_rows_of(dims_, rows.linear), rows.planes, rows.columns));
  }
  return check.get();
}

Status ModelCheck::add(const Int8Rows& rows) {
  CHECK(index_of_layer(rows.linear, rows.layer) < checks_.size());
  ASSIGN_OR_RETURN(LinearCheck* const check, find(rows));
  check->add(rows);
  return {};
}

const LinearCheck& ModelCheck::linear(Linear linear, std::uint16_t layer) const {
  const std::unique_ptr<LinearCheck>& check = checks_[index_of_layer(linear, layer)][linear];
  CHECK(check != nullptr);
  return *check;
}

}  // namespace airlock
