// Sessions in the private modes against a whole server in this process: int8 weights, their digest,
// and ops that have no place there.

#include "base/thread_pool.h"
#include "tests/gpu_server/session_rig.h"
#include "tests/support/int8_copy.h"

namespace airlock::testing {
namespace {

class PrivateSessionTest : public SessionTest {
 protected:
  ConnectOptions in_mode(Privacy privacy, Int8Weights weights = Int8Weights::kW8) const {
    ConnectOptions options = client_options();
    options.privacy = privacy;
    options.int8_weights = weights;
    return options;
  }
  std::string digest_of(Int8Weights weights, const Int8Sink& sink = {}) const {
    const auto pool = ThreadPool::create(1).value();
    return make_int8_weights(model_, weights, *pool, sink).value().digest;
  }
  const ModelDims& dims() const { return model_.config().dims; }
  static Result<std::vector<std::uint32_t>> ask(Backend& backend, const OpSpec& spec,
                                                std::span<const std::uint32_t> words) {
    ASSIGN_OR_RETURN(auto pending, backend.prepare(spec, soon()));
    const MutableTensorView place = pending->input(spec.inputs.size() - 1);
    std::memcpy(place.data, words.data(), place.desc.bytes());
    RETURN_IF_ERROR(pending->submit());
    RETURN_IF_ERROR(pending->wait());
    const auto result = pending->result(0).as<std::uint32_t>();
    return std::vector<std::uint32_t>(result.begin(), result.end());
  }
  OpSpec some_integers() const { return int_linear_spec({{WeightKind::kQ, 0}}, 1, 3, dims()); }
  std::vector<std::uint32_t> some_words() const {
    std::vector<std::uint32_t> words(some_integers().inputs[0].elements());
    for (std::size_t i = 0; i < words.size(); ++i)
      words[i] = static_cast<std::uint32_t>(i * 2654435761U);
    return words;
  }
  static void expect_names_mode(const Status& status, std::string_view mode) {
    EXPECT_EQ(status.code(), StatusCode::kInvalidInput) << status.to_string();
    EXPECT_NE(status.message().find(mode), std::string::npos) << status.to_string();
  }
};

TEST_F(PrivateSessionTest, hears_the_digest_of_the_weights_it_asked_for) {
  start();
  for (const Int8Weights weights : {Int8Weights::kW8, Int8Weights::kAuto, Int8Weights::kW16}) {
    auto session = connect(in_mode(Privacy::kVerify, weights));
    ASSERT_NE(session, nullptr);
    EXPECT_EQ(session->int8_digest(), digest_of(weights));
  }
  auto plain = connect();
  ASSERT_NE(plain, nullptr);
  EXPECT_EQ(plain->int8_digest(), "");
}

TEST_F(PrivateSessionTest, multiplies_integers_exactly) {
  start();
  Int8Copy weights;
  (void)digest_of(Int8Weights::kW8, weights.sink());
  auto session = connect(in_mode(Privacy::kOtp));
  ASSERT_NE(session, nullptr);
  const auto words = some_words();
  const auto got = ask(session->backend(), some_integers(), words);
  ASSERT_TRUE(got.ok()) << got.status().to_string();
  EXPECT_EQ(*got, int_linear_results_of(weights, some_integers(), words,
                                        static_cast<std::size_t>(dims().hidden))[0]);
}

TEST_F(PrivateSessionTest, takes_int_linear_alone) {
  start();
  for (const Privacy privacy :
       {Privacy::kVerify, Privacy::kOtp, Privacy::kOtpVerify, Privacy::kOtpDealer}) {
    auto session = connect(in_mode(privacy));
    ASSERT_NE(session, nullptr);
    expect_names_mode(multiply(session->backend(), 2), name_of(privacy));
    const std::array<std::uint32_t, 2> places = {1, 2};
    expect_names_mode(
        ask(session->backend(), pad_linear_spec({{WeightKind::kQ, 0}}, 1, 1), places).status(),
        name_of(privacy));
    // The session goes on.
    EXPECT_TRUE(session->backend().ping(soon()).ok());
    EXPECT_TRUE(ask(session->backend(), some_integers(), some_words()).ok());
  }
}

TEST_F(PrivateSessionTest, of_a_dealer_takes_pad_linear_alone) {
  start();
  auto session = connect(in_mode(Privacy::kDealer));
  ASSERT_NE(session, nullptr);
  expect_names_mode(multiply(session->backend(), 2), "dealer");
  expect_names_mode(ask(session->backend(), some_integers(), some_words()).status(), "dealer");
  const std::array<std::uint32_t, 2> places = {1, 2};
  EXPECT_TRUE(ask(session->backend(), pad_linear_spec({{WeightKind::kQ, 0}}, 1, 1), places).ok());
}

TEST_F(PrivateSessionTest, is_what_integer_ops_need) {
  start();
  auto session = connect();
  ASSERT_NE(session, nullptr);
  expect_names_mode(ask(session->backend(), some_integers(), some_words()).status(), "plain");
  expect_works(*session);
}

TEST_F(PrivateSessionTest, with_planes_that_were_not_made_is_told) {
  start();
  auto session = connect(in_mode(Privacy::kVerify));
  ASSERT_NE(session, nullptr);
  const OpSpec two = int_linear_spec({{WeightKind::kQ, 0}}, 2, 3, dims());
  EXPECT_EQ(ask(session->backend(), two, some_words()).status().code(), StatusCode::kInvalidInput);
  EXPECT_TRUE(ask(session->backend(), some_integers(), some_words()).ok());
}

TEST_F(PrivateSessionTest, is_refused_where_there_is_no_model) {
  ServedModel served;
  served.compute = CpuModel::create_without_weights(1).value();
  server_ = std::make_unique<RunningServer>(options_, std::move(served));
  ConnectOptions options = in_mode(Privacy::kOtp);
  options.digest.clear();
  options.dims.reset();
  options.needs_model = false;
  expect_refused(options, StatusCode::kMismatch, "--no-model");
}

TEST_F(PrivateSessionTest, is_refused_where_the_weights_cannot_be_made) {
  MemoryModel::Options spoiled;
  spoiled.broken_tensor = "model.layers.1.mlp.up_proj.weight";
  const MemoryModel broken(spoiled);
  ServedModel served{R"({"model_type":"llama"})",
                     read_norms(model_).value(),
                     model_.digest().value(),
                     model_.stored_dtype(),
                     CpuModel::create(model_, {}).value(),
                     std::nullopt,
                     0,
                     RunningServer::outlives(broken)};
  server_ = std::make_unique<RunningServer>(options_, std::move(served));
  expect_refused(in_mode(Privacy::kOtp), StatusCode::kInvalidInput, "int8 weights");
  // Others are served.
  auto plain = connect();
  ASSERT_NE(plain, nullptr);
  expect_works(*plain);
}

}  // namespace
}  // namespace airlock::testing
