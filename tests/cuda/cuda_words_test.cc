// int_linear and pad_linear by the CUDA module on the fake device: exact mod 2^32, whatever the
// shape, and the int8 weights that they stand on.
#include <cuda_runtime_api.h>

#include <atomic>
#include <thread>

#include "tests/cuda/cuda_words_rig.h"

namespace airlock::testing {
namespace {

using cuda_fake::Mode;
using enum WeightKind;

constexpr int kSumsInInt32 = 72;  // CUBLAS_COMPUTE_32I

/// Its down of layer 1 has one large weight, which one plane of int8 is too coarse for.
class SpikedModel : public MemoryModel {
 public:
  using MemoryModel::MemoryModel;
  Status read_rows(const std::string& name, std::int64_t first_row,
                   MutableTensorView out) const override {
    RETURN_IF_ERROR(MemoryModel::read_rows(name, first_row, out));
    const std::int64_t row = 4 - first_row;
    if (name != "model.layers.1.mlp.down_proj.weight" || row < 0 || row >= out.desc.shape[0])
      return {};
    CHECK(out.desc.dtype == DType::kF32);
    out.as<float>()[static_cast<std::size_t>(row * out.desc.shape[1] + 9)] = 1e6F;
    return {};
  }
};

/// What the ops of a layer ask for, whole and in part, in any order.
std::vector<std::vector<WeightId>> companies() {
  return {{{kQ, 1}, {kK, 1}, {kV, 1}},
          {{kO, 0}},
          {{kGate, 1}, {kUp, 1}},
          {{kDown, 0}},
          {{kV, 0}},
          {{kK, 0}, {kV, 0}},
          {{kV, 1}, {kQ, 1}},
          {{kUp, 0}},
          {}};
}

TEST_F(CudaWordsTest, multiplies_exactly_for_any_rows_weights_and_planes) {
  const MemoryModel source(odd_options());
  Int8Copy copy;
  reference(source, Int8Weights::kW16, copy);
  for (const Mode mode : {Mode::kLazy, Mode::kEager, Mode::kThreads}) {
    load_for(source, {.mode = mode});
    ASSERT_TRUE(make_int8(Int8Weights::kW16).ok());
    open();
    for (const std::vector<WeightId>& weights : companies()) {
      for (const std::int64_t rows : {1, 2, 7, 33}) {
        for (const std::uint8_t planes : {1, 2}) {
          SCOPED_TRACE(::testing::Message() << rows << " rows, " << int{planes} << " planes");
          expect_exact(*compute_, copy, int_spec(weights, planes, rows));
        }
      }
    }
  }
}

TEST_F(CudaWordsTest, multiplies_weights_that_lie_behind_each_other_at_once) {
  const MemoryModel source(odd_options());
  load_for(source);
  ASSERT_TRUE(make_int8(Int8Weights::kW8).ok());
  open();
  const std::uint64_t before = cuda_fake::counters().gemms;
  const OpSpec spec = int_spec({{kQ, 0}, {kK, 0}, {kV, 0}}, 1, 5);
  ASSERT_TRUE(run_int(*compute_, spec, words(5, 75)).status.ok());
  EXPECT_EQ(cuda_fake::counters().gemms, before + 1);
  const cuda_fake::GemmCall call = cuda_fake::gemm_calls().back();
  EXPECT_EQ(call.compute_type, kSumsInInt32);
  EXPECT_EQ(call.m, 64);  // 50 outputs, in steps of 16
  EXPECT_EQ(call.n, 20);  // four digits a word
  EXPECT_EQ(call.k, 80);
}

TEST_F(CudaWordsTest, copies_words_of_a_ring_where_they_lie) {
  const MemoryModel source(odd_options());
  Int8Copy copy;
  reference(source, Int8Weights::kW8, copy);
  Segment ring(1 << 20);
  load_for(source);
  ASSERT_TRUE(make_int8(Int8Weights::kW8).ok());
  open({ring.bytes()});
  const OpSpec spec = int_spec({{kGate, 0}, {kUp, 0}}, 1, 3);
  const Words x = words(3, 75);
  const MutableTensorView in = ring.place(0, spec.inputs[0]);
  std::memcpy(in.data, x.data(), in.desc.bytes());
  const auto descs = op_results(spec, source.config().dims).value();
  const MutableTensorView out[] = {ring.place(4096, descs[0]), ring.place(8192, descs[1])};
  const auto before = cuda_fake::counters();
  auto op = compute_->prepare(spec, {{in}, {out[0], out[1]}}, soon());
  ASSERT_TRUE(op.ok());
  ASSERT_TRUE((*op)->submit().ok());
  ASSERT_TRUE((*op)->wait().ok());
  const auto after = cuda_fake::counters();
  EXPECT_EQ(after.pinned_copies - before.pinned_copies, 3U);
  EXPECT_EQ(after.bytes_in - before.bytes_in, in.desc.bytes());
  EXPECT_EQ(after.bytes_out - before.bytes_out, descs[0].bytes() + descs[1].bytes());
  const auto want = int_linear_results_of(copy, spec, x, 75);
  for (std::size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(std::ranges::equal(TensorView(out[i]).as<std::uint32_t>(), want[i])) << i;
}

TEST_F(CudaWordsTest, goes_by_blocks_of_rows_where_what_lies_between_would_be_large) {
  MemoryModel::Options options = odd_options();
  options.dims.hidden = 5;
  options.dims.vocab = 4095;
  const MemoryModel source(options);
  load_for(source, {.mode = Mode::kEager});
  ASSERT_TRUE(make_int8(Int8Weights::kW8).ok());
  open();
  constexpr std::int64_t kRows = 2100;
  const std::uint64_t before = cuda_fake::counters().gemms;
  const OpSpec spec = int_spec({}, 1, kRows);
  const Words x = words(kRows, 5);
  const Outcome all = run_int(*compute_, spec, x);
  ASSERT_TRUE(all.status.ok()) << all.status.to_string();
  EXPECT_EQ(cuda_fake::counters().gemms, before + 2);
  // Each row by itself.
  for (const std::size_t row : {std::size_t{0}, std::size_t{2045}, std::size_t{2099}}) {
    const Words one(x.begin() + static_cast<std::ptrdiff_t>(row * 5),
                    x.begin() + static_cast<std::ptrdiff_t>(row * 5 + 5));
    const Outcome outcome = run_int(*compute_, int_spec({}, 1, 1), one);
    ASSERT_TRUE(outcome.status.ok());
    EXPECT_TRUE(std::equal(outcome.results[0].begin(), outcome.results[0].end(),
                           all.results[0].begin() + static_cast<std::ptrdiff_t>(row * 4095)))
        << row;
  }
}

TEST_F(CudaWordsTest, multiplies_the_pads_that_a_key_and_places_give) {
  const MemoryModel source(odd_options());
  Int8Copy copy;
  reference(source, Int8Weights::kW16, copy);
  PadKey key{};
  for (std::size_t i = 0; i < key.size(); ++i) key[i] = static_cast<std::byte>(3 * i + 1);
  const TensorView key_view{key.data(), {DType::kU8, Shape{kPadKeyBytes}}};
  // More than a pinned piece of 4 MiB holds, and places in no order.
  for (const std::int64_t rows : {1, 5, 6000}) {
    load_for(source);
    ASSERT_TRUE(make_int8(Int8Weights::kW16).ok());
    open();
    const std::vector<WeightId> weights{{kDown, 1}};
    const OpSpec spec = pad_linear_spec(weights, 2, rows);
    Words places;
    Words pads;
    WordStream stream = WordStream::create(key).value();
    for (std::uint32_t row = 0; row < static_cast<std::uint32_t>(rows); ++row) {
      places.insert(places.end(), {0xffffffffU - row % 3, (row * 7919U) ^ 5U});
      const WordsPlace place{.epoch = places[2 * row],
                             .layer = 1,
                             .linear = Linear::kDown,
                             .row = places[2 * row + 1]};
      Words more(203);
      ASSERT_TRUE(stream.words(place, more).ok());
      pads.insert(pads.end(), more.begin(), more.end());
    }
    const Outcome got =
        run_words(*compute_, spec, {key_view, view_of(places, spec.inputs[1].shape)});
    ASSERT_TRUE(got.status.ok()) << got.status.to_string();
    const auto want = int_linear_results_of(copy, spec, pads, 203);
    for (std::size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(got.results[i] == want[i]) << i;
    EXPECT_EQ(cuda_fake::counters().pageable_copies, 0U);
  }
}

TEST_F(CudaWordsTest, reads_a_pads_key_and_places_once) {
  const MemoryModel source(odd_options());
  load_for(source, {.mode = Mode::kLazy});
  ASSERT_TRUE(make_int8(Int8Weights::kW8).ok());
  open();
  const OpSpec spec = pad_linear_spec({{kO, 0}}, 1, 2);
  std::vector<Outcome> outcomes;
  for (const bool changes : {false, true}) {
    PadKey key{std::byte{9}};
    Words places{1, 2, 3, 4};
    const TensorDesc desc = op_results(spec, source_dims()).value()[0];
    Outcome outcome;
    outcome.results.emplace_back(desc.elements());
    auto op =
        compute_->prepare(spec,
                          {{{key.data(), spec.inputs[0]}, view_of(places, spec.inputs[1].shape)},
                           {{reinterpret_cast<std::byte*>(outcome.results[0].data()), desc}}},
                          soon());
    ASSERT_TRUE(op.ok());
    ASSERT_TRUE((*op)->submit().ok());
    if (changes) {  // the peer, after submit()
      key.fill(std::byte{1});
      places.assign(4, 77);
    }
    ASSERT_TRUE((*op)->wait().ok());
    outcomes.push_back(std::move(outcome));
  }
  EXPECT_TRUE(outcomes[0].results == outcomes[1].results);
}

TEST_F(CudaWordsTest, adds_the_second_plane_where_the_first_is_there) {
  const MemoryModel source(odd_options());
  Int8Copy copy;
  const std::string w8 = reference(source, Int8Weights::kW8, copy).digest;
  const std::string w16 = reference(source, Int8Weights::kW16, copy).digest;
  load_for(source);
  open();
  const OpSpec one = int_spec({{kGate, 0}, {kUp, 0}}, 1, 3);
  const OpSpec two = int_spec({{kGate, 0}, {kUp, 0}}, 2, 3);
  const Words x = words(3, 75);
  const Status early = run_int(*compute_, one, x).status;
  EXPECT_EQ(early.code(), StatusCode::kInvalidInput);
  EXPECT_NE(early.message().find("no int8 weights of 1 planes for gate_up"), std::string::npos)
      << early.message();
  EXPECT_EQ(make_int8(Int8Weights::kW8).value(), w8);
  const std::size_t with_one = cuda_fake::device_memory_in_use();
  expect_exact(*compute_, copy, one);
  EXPECT_EQ(run_int(*compute_, two, x).status.code(), StatusCode::kInvalidInput);
  const std::uint64_t before = cuda_fake::counters().bytes_in;
  EXPECT_EQ(make_int8(Int8Weights::kW16).value(), w16);
  const std::uint64_t copied = cuda_fake::counters().bytes_in - before;
  const std::size_t more = cuda_fake::device_memory_in_use() - with_one;
  EXPECT_LE(copied, more) << "the first plane was copied again";
  expect_exact(*compute_, copy, one);
  expect_exact(*compute_, copy, two);
  const std::uint64_t settled = cuda_fake::counters().bytes_in;
  EXPECT_EQ(make_int8(Int8Weights::kW8).value(), w8);
  EXPECT_EQ(make_int8(Int8Weights::kW16).value(), w16);
  EXPECT_EQ(cuda_fake::counters().bytes_in, settled);
}

TEST_F(CudaWordsTest, tells_whoever_asks_how_far_it_is) {
  const MemoryModel source(odd_options());
  load_for(source);
  const std::thread::id asker = std::this_thread::get_id();
  std::vector<std::pair<std::size_t, std::size_t>> told;
  ASSERT_TRUE(make_int8(Int8Weights::kW8, [&](std::size_t done, std::size_t total) {
                EXPECT_EQ(std::this_thread::get_id(), asker);
                told.emplace_back(done, total);
              }).ok());
  ASSERT_FALSE(told.empty());
  EXPECT_TRUE(std::ranges::is_sorted(told));
  EXPECT_GT(told.back().first, 0U);
  EXPECT_EQ(told.back().first, told.back().second);
}

TEST_F(CudaWordsTest, gives_auto_a_second_plane_where_one_is_too_coarse) {
  MemoryModel::Options options = odd_options();
  options.dims.intermediate = 1203;  // a row's largest is at most sqrt(columns) of its rms
  const SpikedModel source(options);
  Int8Copy copy;
  const Int8Model made = reference(source, Int8Weights::kAuto, copy);
  ASSERT_EQ(made.layers[1][Linear::kDown].planes, 2);
  ASSERT_EQ(made.layers[0][Linear::kDown].planes, 1);
  load_for(source);
  EXPECT_EQ(make_int8(Int8Weights::kAuto).value(), made.digest);
  open();
  for (std::uint16_t layer = 0; layer < 2; ++layer) {
    for (const WeightKind kind : kValuesOf<WeightKind>) {
      const std::uint8_t planes = made.layers[layer][linear_of(kind)].planes;
      expect_exact(*compute_, copy, int_spec({{kind, layer}}, planes, 3));
    }
  }
  const OpSpec finer = int_spec({{kDown, 0}}, 2, 3);
  EXPECT_EQ(run_int(*compute_, finer, words(3, 1203)).status.code(), StatusCode::kInvalidInput);
  ASSERT_TRUE(make_int8(Int8Weights::kW16).ok());
  reference(source, Int8Weights::kW16, copy);
  expect_exact(*compute_, copy, finer);
  expect_exact(*compute_, copy, int_spec({{kDown, 1}}, 2, 3));
}

TEST_F(CudaWordsTest, makes_weights_once_for_all_who_ask_while_sessions_compute) {
  const MemoryModel source(odd_options());
  load_for(source, {.mode = Mode::kThreads});
  std::atomic<bool> made = false;
  std::thread session([&] {
    auto compute = model_on_device_->make_compute({});
    ASSERT_TRUE(compute.ok());
    const OpSpec floats = linear_spec({{kQ, 0}}, {DType::kF32, Shape{4, 75}}, DType::kF32);
    const OpSpec integers = int_spec({{kQ, 0}}, 1, 4);
    const std::vector<Tensor> x = inputs_of(floats);
    for (bool last = false; !last;) {
      last = made.load();
      Tensor y({DType::kF32, Shape{4, 30}});
      auto op = (*compute)->prepare(floats, {{x[0].view()}, {y.mutable_view()}}, soon());
      ASSERT_TRUE(op.ok());
      ASSERT_TRUE((*op)->submit().ok());
      ASSERT_TRUE((*op)->wait().ok());
      const Status status = run_int(**compute, integers, words(4, 75)).status;
      ASSERT_TRUE(status.ok() || (!last && status.code() == StatusCode::kInvalidInput))
          << status.to_string();
    }
  });
  std::vector<std::string> digests(3);
  std::atomic<int> makings = 0;
  std::vector<std::thread> askers;
  for (std::string& digest : digests) {
    askers.emplace_back([&] {
      bool makes = false;
      digest = make_int8(Int8Weights::kW8, [&](std::size_t, std::size_t) { makes = true; }).value();
      makings += makes ? 1 : 0;
    });
  }
  for (std::thread& asker : askers) asker.join();
  made = true;
  session.join();
  EXPECT_EQ(makings, 1);
  EXPECT_FALSE(digests[0].empty());
  EXPECT_EQ(digests[0], digests[1]);
  EXPECT_EQ(digests[0], digests[2]);
}

TEST_F(CudaWordsTest, refuses_int8_where_sums_saturate) {
  MemoryModel::Options options = odd_options();
  options.dims.intermediate = 140000;  // columns of down: 128 * 127 * 140000 is over 2^31
  options.dims.hidden = 6;
  options.dims.layers = 1;
  const MemoryModel source(options);
  load_for(source, {.mode = Mode::kEager});
  EXPECT_TRUE(make_int8(Int8Weights::kW8).ok()) << "sums that wrap are right";
  load_for(source, {.mode = Mode::kEager, .saturate_int8 = true});
  const Status refused = make_int8(Int8Weights::kW8).status();
  EXPECT_EQ(refused.code(), StatusCode::kDevice);
  EXPECT_NE(refused.message().find("not exact"), std::string::npos) << refused.message();
  EXPECT_TRUE(model_on_device_->health().ok());
  open();
  EXPECT_EQ(run_int(*compute_, int_spec({{kQ, 0}}, 1, 1), words(1, 6)).status.code(),
            StatusCode::kInvalidInput);
}

TEST_F(CudaWordsTest, has_none_without_a_model) {
  auto made = create(kNoModel, DType::kF32);
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(made.value()->prepare_int8(model_, Int8Weights::kW8, {}).status().code(),
            StatusCode::kInvalidInput);
  load();
  EXPECT_EQ(model_on_device_->prepare_int8(model_, Int8Weights::kNone, {}).status().code(),
            StatusCode::kInvalidInput);
}

}  // namespace
}  // namespace airlock::testing
