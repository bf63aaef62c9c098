#include "tee_runner/privacy/check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/proto/hex.h"
#include "tests/support/golden_otp.h"
#include "tests/support/memory_model.h"

namespace airlock {
namespace {

using testing::MemoryModel;
using testing::read_golden_json;
using testing::read_golden_npy;
using Ints = std::vector<std::int32_t>;
using Bytes = std::vector<std::int8_t>;

PadKey some_key() {
  PadKey key{};
  key[3] = std::byte{42};
  return key;
}

/// One case of the golden vectors: one weight of one plane.
struct Golden {
  std::size_t rows = 0;  // of x
  std::int64_t columns = 0;
  std::int64_t outputs = 0;
  Ints x;
  Ints y;
  std::unique_ptr<LinearCheck> check;
};

Golden read_golden(const std::string& name) {
  const auto shape = read_golden_json(name + "/case.json");
  Golden golden{shape["n"],
                shape["K"],
                shape["N"],
                read_golden_npy<std::int32_t>(name + "/q32_x_i32"),
                read_golden_npy<std::int32_t>(name + "/q32_y_i32"),
                nullptr};
  const auto bytes = from_hex(read_golden_json("keys.json")["check_key"].get<std::string>());
  PadKey key{};
  std::copy_n(bytes.begin(), key.size(), key.begin());
  auto words = WordStream::create(key).value();
  const auto linear = static_cast<Linear>(shape["op"].get<int>());
  golden.check = LinearCheck::create(words, linear, shape["layer"], std::vector{golden.outputs}, 1,
                                     golden.columns)
                     .value();
  const auto weights = read_golden_npy<std::int8_t>(name + "/w_i8");
  // In two blocks, the second one first.
  const std::int64_t half = golden.outputs / 2 - 1;
  for (const auto& [first, count] :
       {std::pair{half, golden.outputs - half}, {std::int64_t{0}, half}}) {
    golden.check->add(
        {.linear = linear,
         .layer = shape["layer"],
         .first_row = first,
         .row_count = count,
         .columns = golden.columns,
         .values = std::span(weights).subspan(static_cast<std::size_t>(first * golden.columns),
                                              static_cast<std::size_t>(count * golden.columns))});
  }
  return golden;
}

bool passes(const Golden& golden, const Ints& y) {
  const std::vector<std::span<const std::int32_t>> results = {y};
  return golden.check->passes(golden.rows, golden.x, results);
}

TEST(Check, SecretsAndSumsAreThoseOfTheGoldenVectors) {
  SKIP_WITHOUT_GOLDEN_OTP();
  for (const std::string name : {"a", "b"}) {
    const Golden golden = read_golden(name);
    const auto secrets = read_golden_npy<std::int32_t>(name + "/fv_s64_i32");     // [outputs, 2]
    const auto sums = read_golden_npy<std::uint64_t>(name + "/fv_ws64_u64");      // [columns, 2]
    const auto words = read_golden_npy<std::uint64_t>(name + "/fv_check64_u64");  // [rows, 2]
    ASSERT_EQ(words.size(), golden.rows * 2);
    for (std::size_t vector = 0; vector < 2; ++vector) {
      const auto got_secrets = golden.check->secrets(vector);
      const auto got_sums = golden.check->sums(vector);
      ASSERT_EQ(2 * got_secrets.size(), secrets.size());
      ASSERT_EQ(2 * got_sums.size(), sums.size());
      for (std::size_t i = 0; i < got_secrets.size(); ++i)
        ASSERT_EQ(got_secrets[i], secrets[2 * i + vector]);
      for (std::size_t j = 0; j < got_sums.size(); ++j)
        ASSERT_EQ(got_sums[j], sums[2 * j + vector]);
      for (std::size_t row = 0; row < golden.rows; ++row) {
        std::uint64_t word = 0;
        for (std::size_t i = 0; i < got_secrets.size(); ++i) {
          const std::int64_t y = golden.y[row * got_secrets.size() + i];
          word += static_cast<std::uint64_t>(y * got_secrets[i]);
        }
        EXPECT_EQ(word, words[2 * row + vector]);
      }
    }
  }
}

TEST(Check, GoldenResultsPassAndEveryChangedOneIsRefused) {
  SKIP_WITHOUT_GOLDEN_OTP();
  std::map<std::string, Golden> cases;
  for (const std::string name : {"a", "b"}) {
    cases[name] = read_golden(name);
    EXPECT_TRUE(passes(cases[name], cases[name].y));
  }
  int refused = 0;
  const auto items = read_golden_json("refuse.json");
  for (const auto& item : items["items"]) {
    if (item["ring"] != "q32") continue;
    const Golden& golden = cases[item["case"]];
    Ints y = golden.y;
    std::int32_t& word =
        y[item["row"].get<std::size_t>() * static_cast<std::size_t>(golden.outputs) +
          item["col"].get<std::size_t>()];
    word = static_cast<std::int32_t>(static_cast<std::uint32_t>(word) +
                                     item["add"].get<std::uint32_t>());
    EXPECT_FALSE(passes(golden, y)) << item;
    ++refused;
  }
  EXPECT_EQ(refused, 75);
}

/// A model's int8 and its checks, made in one pass over its weights.
struct Checked {
  using Place = std::tuple<Linear, std::uint16_t, std::size_t, std::uint8_t>;  // weight, plane
  Int8Model model;
  std::map<Place, Bytes> rows;
  std::unique_ptr<ModelCheck> check;

  std::size_t columns(Linear linear, std::uint16_t layer) const {
    return static_cast<std::size_t>(model.linear(linear, layer).columns);
  }
};

Checked make(Int8Weights choice, std::size_t threads, const PadKey& key = some_key()) {
  const MemoryModel source;
  Checked made;
  made.check = ModelCheck::create(key, source.config().dims).value();
  const auto pool = ThreadPool::create(threads).value();
  std::mutex mutex;
  auto result = make_int8_weights(source, choice, *pool, [&](const Int8Rows& rows) -> Status {
    RETURN_IF_ERROR(made.check->add(rows));
    const std::lock_guard lock(mutex);
    Bytes& all = made.rows[{rows.linear, rows.layer, rows.weight, rows.plane}];
    const auto start = static_cast<std::size_t>(rows.first_row * rows.columns);
    all.resize(std::max(all.size(), start + rows.values.size()));
    std::copy(rows.values.begin(), rows.values.end(),
              all.begin() + static_cast<std::ptrdiff_t>(start));
    return {};
  });
  CHECK(result.ok());
  made.model = std::move(result).value();
  return made;
}

/// x W^T of each weight's plane, [row_count, rows of the weight].
std::vector<Ints> products(const Checked& made, Linear linear, std::uint16_t layer, const Ints& x) {
  const std::size_t columns = made.columns(linear, layer);
  std::vector<Ints> results;
  for (const auto& [place, weights] : made.rows) {
    if (std::get<0>(place) != linear || std::get<1>(place) != layer) continue;
    Ints& result = results.emplace_back();
    for (std::size_t row = 0; row < x.size(); row += columns) {
      for (std::size_t start = 0; start < weights.size(); start += columns) {
        std::int32_t sum = 0;
        for (std::size_t j = 0; j < columns; ++j) sum += x[row + j] * weights[start + j];
        result.push_back(sum);
      }
    }
  }
  return results;
}

bool passes(const LinearCheck& check, std::size_t row_count, const Ints& x,
            const std::vector<Ints>& results) {
  return check.passes(row_count, x,
                      std::vector<std::span<const std::int32_t>>(results.begin(), results.end()));
}

/// 14-bit numbers of both signs.
Ints some_rows(std::size_t count) {
  Ints x(count);
  std::uint32_t state = 7;
  for (std::int32_t& value : x) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<std::int32_t>(state >> 18) - 8192;
  }
  return x;
}

TEST(Check, TrueResultsOfEveryLinearPass) {
  for (const Int8Weights choice : {Int8Weights::kW8, Int8Weights::kW16}) {
    const Checked made = make(choice, 3);
    for (const Linear linear : kValuesOf<Linear>) {
      const std::uint16_t layer = linear == Linear::kLmHead ? 0 : 1;
      const Ints x = some_rows(3 * made.columns(linear, layer));
      const auto results = products(made, linear, layer, x);
      EXPECT_TRUE(passes(made.check->linear(linear, layer), 3, x, results)) << name_of(linear);
    }
  }
}

TEST(Check, AnyNumberOfThreadsAddsUpToTheSame) {
  const Checked one = make(Int8Weights::kW16, 1);
  for (const std::size_t threads : {std::size_t{2}, std::size_t{3}}) {
    const Checked other = make(Int8Weights::kW16, threads);
    for (const Linear linear : kValuesOf<Linear>) {
      for (std::size_t vector = 0; vector < LinearCheck::kCheckVectors; ++vector) {
        const auto a = one.check->linear(linear, 0).sums(vector);
        const auto b = other.check->linear(linear, 0).sums(vector);
        EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << name_of(linear);
      }
    }
  }
}

// Weight by weight, and of each plane 0 before plane 1: as the words come.
TEST(Check, SecretsLieInTheOrderOfWeightsAndPlanes) {
  const Checked made = make(Int8Weights::kW16, 2);
  const LinearCheck& check = made.check->linear(Linear::kQkv, 1);
  const std::size_t columns = made.columns(Linear::kQkv, 1);
  auto words = WordStream::create(some_key()).value();
  for (std::uint32_t vector = 0; vector < LinearCheck::kCheckVectors; ++vector) {
    std::vector<std::uint32_t> secrets(check.secrets(vector).size());
    ASSERT_TRUE(words.words({.layer = 1, .linear = Linear::kQkv, .row = vector}, secrets).ok());
    std::vector<std::uint64_t> sums(columns);
    std::size_t row = 0;
    for (const auto& [place, weights] : made.rows) {  // in that order
      if (std::get<0>(place) != Linear::kQkv || std::get<1>(place) != 1) continue;
      for (std::size_t start = 0; start < weights.size(); start += columns, ++row) {
        const auto secret = static_cast<std::int32_t>(secrets[row]);
        for (std::size_t j = 0; j < columns; ++j)
          sums[j] += static_cast<std::uint64_t>(std::int64_t{secret} * weights[start + j]);
      }
    }
    EXPECT_EQ(row, secrets.size());
    const auto got = check.sums(vector);
    EXPECT_TRUE(std::equal(sums.begin(), sums.end(), got.begin(), got.end()));
  }
}

TEST(Check, EveryBitOfEveryResultIsChecked) {
  const Checked made = make(Int8Weights::kW16, 2);
  const LinearCheck& check = made.check->linear(Linear::kO, 0);
  const Ints x = some_rows(2 * made.columns(Linear::kO, 0));
  auto results = products(made, Linear::kO, 0, x);
  ASSERT_EQ(results.size(), 2U);
  for (Ints& plane : results) {
    for (std::int32_t& word : plane) {
      for (int bit = 0; bit < 32; ++bit) {
        const std::int32_t right = word;
        word = static_cast<std::int32_t>(static_cast<std::uint32_t>(word) ^ (1U << bit));
        ASSERT_FALSE(passes(check, 2, x, results));
        word = right;
      }
    }
  }
  EXPECT_TRUE(passes(check, 2, x, results));
}

TEST(Check, RightResultsInTheWrongPlaceAreRefused) {
  const Checked made = make(Int8Weights::kW16, 2);
  const LinearCheck& check = made.check->linear(Linear::kGateUp, 0);
  const std::size_t columns = made.columns(Linear::kGateUp, 0);
  const Ints x = some_rows(2 * columns);
  const auto results = products(made, Linear::kGateUp, 0, x);
  const std::size_t width = results[0].size() / 2;
  // Rows of x, planes, weights and neighbours.
  auto wrong = results;
  std::rotate(wrong[0].begin(), wrong[0].begin() + static_cast<std::ptrdiff_t>(width),
              wrong[0].end());
  EXPECT_FALSE(passes(check, 2, x, wrong));
  wrong = results;
  std::swap(wrong[0], wrong[1]);
  EXPECT_FALSE(passes(check, 2, x, wrong));
  wrong = results;
  std::swap(wrong[0], wrong[2]);
  EXPECT_FALSE(passes(check, 2, x, wrong));
  wrong = results;
  std::swap(wrong[3][5], wrong[3][6]);
  EXPECT_FALSE(passes(check, 2, x, wrong));
  // Of another request, and of another layer.
  Ints other = x;
  other[columns + 1] ^= 1;
  EXPECT_FALSE(passes(check, 2, other, results));
  EXPECT_FALSE(passes(made.check->linear(Linear::kGateUp, 1), 2, x, results));
}

TEST(Check, LayersLinearsAndKeysHaveOtherSecrets) {
  const Checked made = make(Int8Weights::kW8, 2);
  PadKey other_key = some_key();
  other_key[15] = std::byte{1};
  const Checked other = make(Int8Weights::kW8, 2, other_key);
  const auto first = [](const Checked& from, Linear linear, std::uint16_t layer,
                        std::size_t vector) {
    return from.check->linear(linear, layer).secrets(vector)[0];
  };
  const std::int32_t secret = first(made, Linear::kO, 0, 0);
  EXPECT_NE(secret, first(made, Linear::kO, 0, 1));
  EXPECT_NE(secret, first(made, Linear::kO, 1, 0));
  EXPECT_NE(secret, first(made, Linear::kDown, 0, 0));
  EXPECT_NE(secret, first(other, Linear::kO, 0, 0));
}

}  // namespace
}  // namespace airlock
