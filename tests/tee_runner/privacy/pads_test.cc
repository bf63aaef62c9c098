#include "tee_runner/privacy/pads.h"

#include <gmock/gmock.h>

#include <set>
#include <thread>

#include "tests/tee_runner/privacy/private_rig.h"

namespace airlock {
namespace {

using testing::MemoryModel;
using testing::mode_of;
using testing::PrivateRig;

constexpr LinearId kFirst{0, Linear::kQkv};
constexpr LinearId kHead{0, Linear::kLmHead};

Deadline late() { return Deadline::after(std::chrono::seconds(60)); }

/// Places that were asked for, over all products.
std::vector<std::vector<std::uint32_t>> places_of(const PrivateRig& rig) {
  std::vector<std::vector<std::uint32_t>> all;
  for (const auto& op : rig.products->crossed) {
    const auto linear = static_cast<std::uint32_t>(linear_of(op.spec));
    for (std::size_t i = 0; i < op.inputs[0].size(); i += 2)
      all.push_back({linear, layer_of(op.spec), op.inputs[0][i], op.inputs[0][i + 1]});
  }
  return all;
}

TEST(PadMaker, a_pads_product_is_that_of_its_words) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  const Int8Linear& linear = rig.model->int8().linear(Linear::kQkv, 1);
  rig.pads->begin_pass(5, 3);
  const LinearId id{1, Linear::kQkv};
  rig.pads->want(id, 0, 3);
  const auto products = rig.pads->take(id, 0, 3, late()).value();
  WordStream stream = WordStream::create(rig.key).value();
  const OpSpec spec = int_linear_spec(weights_of(id.linear, id.layer), 1, 3, rig.model->dims());
  auto op = rig.worker->prepare(spec, late()).value();
  const auto x = op->input(0).as<std::uint32_t>();
  for (std::uint32_t row = 0; row < 3; ++row) {
    ASSERT_TRUE(stream
                    .words({5, 1, Linear::kQkv, row},
                           x.subspan(row * static_cast<std::size_t>(linear.columns),
                                     static_cast<std::size_t>(linear.columns)))
                    .ok());
  }
  ASSERT_TRUE(op->submit().ok());
  ASSERT_TRUE(op->wait().ok());
  for (std::size_t row = 0; row < 3; ++row) {
    std::size_t at = 0;
    for (std::size_t part = 0; part < op->result_descs().size(); ++part) {
      const auto words = static_cast<std::size_t>(op->result_descs()[part].shape[1]);
      const auto expected = op->result(part).as<std::uint32_t>().subspan(row * words, words);
      EXPECT_TRUE(std::ranges::equal(products[row].words().subspan(at, words), expected));
      at += words;
    }
  }
}

TEST(PadMaker, no_place_is_made_twice) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  for (std::uint32_t epoch = 0; epoch < 40; ++epoch) {
    const std::int64_t rows = epoch == 0 ? 9 : 1 + epoch % 3;
    rig.pads->begin_pass(epoch, rows);
    for (const LinearId& id : {kFirst, LinearId{1, Linear::kDown}, kHead}) {
      const std::size_t count = id == kHead ? 1 : static_cast<std::size_t>(rows);
      rig.pads->want(id, 0, count);
      ASSERT_TRUE(rig.pads->take(id, 0, count, late()).ok());
    }
  }
  rig.pads.reset();  // nothing is under way any more
  const auto places = places_of(rig);
  EXPECT_EQ(std::set(places.begin(), places.end()).size(), places.size());
}

TEST(PadMaker, steps_that_are_alike_find_their_products_there) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  for (std::uint32_t epoch = 0; epoch < 64; ++epoch) {
    rig.pads->begin_pass(epoch, 1);
    rig.pads->want(kFirst, 0, 1);
    ASSERT_TRUE(rig.pads->take(kFirst, 0, 1, late()).ok());
  }
  rig.pads.reset();
  // Of several passes each: one product a pass would be 64.
  const auto is_first = [](const auto& op) {
    return linear_of(op.spec) == Linear::kQkv && layer_of(op.spec) == 0;
  };
  EXPECT_LE(std::ranges::count_if(rig.products->crossed, is_first), 16);
}

TEST(PadMaker, the_reserve_is_bounded) {
  const MemoryModel source;
  PrivacyOptions options = mode_of(PrivacyMode::kOtp);
  options.pad_bytes = 20'000;
  PrivateRig rig(source, options);
  for (std::uint32_t epoch = 0; epoch < 20; ++epoch) {
    rig.pads->begin_pass(epoch, 2);
    rig.pads->want(kFirst, 0, 2);
    ASSERT_TRUE(rig.pads->take(kFirst, 0, 2, late()).ok());
  }
  // A demand of two rows may lie on top of it: (108 + 36 + 36) words each.
  EXPECT_LE(rig.stats.reserve_peak_bytes.load(), 20'000U + 2 * 180 * 4);
}

TEST(PadMaker, what_is_not_used_in_its_pass_is_dropped) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  rig.pads->begin_pass(0, 4);
  rig.pads->want(kFirst, 0, 4);
  ASSERT_TRUE(rig.pads->take(kFirst, 0, 1, late()).ok());
  rig.pads->begin_pass(1, 1);
  rig.pads->begin_pass(100, 1);
  rig.pads.reset();
  EXPECT_GE(rig.stats.pads_dropped.load(), 1U);
  EXPECT_EQ(rig.stats.pads_used.load(), 1U);
}

TEST(PadMaker, who_waits_hears_why_there_are_no_products) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  rig.products->refuse = {StatusCode::kUnavailable, "the dealer went away"};
  rig.pads->begin_pass(0, 2);
  rig.pads->want(kFirst, 0, 2);
  const auto taken = rig.pads->take(kFirst, 0, 2, late());
  EXPECT_EQ(taken.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(taken.status().message(), ::testing::HasSubstr("the dealer went away"));
}

TEST(PadMaker, a_wait_ends_at_its_deadline) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  rig.pads->begin_pass(0, 1);
  // Never wanted, and not of this pass.
  EXPECT_EQ(rig.pads->take(kFirst, 77, 1, Deadline::now()).status().code(),
            StatusCode::kDeadlineExceeded);
}

TEST(PadMaker, a_wait_beats_the_pulse) {
  const MemoryModel source;
  PrivateRig rig(source, mode_of(PrivacyMode::kOtp));
  Pulse pulse;
  const auto maker =
      PadMaker::create({rig.model->dims().layers, rig.key, 0, std::chrono::seconds(60), &pulse},
                       rig.model->int8(), *rig.products, rig.stats)
          .value();
  maker->begin_pass(0, 1);
  while (pulse.age() < std::chrono::milliseconds(2)) std::this_thread::yield();
  const std::uint64_t start = now_ns();
  // Never wanted.
  EXPECT_FALSE(maker->take(kFirst, 77, 1, Deadline::after(std::chrono::milliseconds(50))).ok());
  const std::chrono::nanoseconds age = pulse.age();
  EXPECT_LE(age, std::chrono::nanoseconds(now_ns() - start));
}

}  // namespace
}  // namespace airlock
