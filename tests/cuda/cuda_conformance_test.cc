// The conformance suite on a real GPU: AIRLOCK_TEST_CUDA_MODULE names airlock_cuda.so. Without it,
// or without a GPU, nothing is tested and the exit code says so (77).
#include "tests/cuda/cuda_conformance.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "base/thread_pool.h"
#include "gpu_server/cuda_probe.h"
#include "proto/limits.h"
#include "runtime/exact/pad.h"
#include "tests/support/int8_copy.h"

namespace airlock::testing {
namespace {

using Words = std::vector<std::uint32_t>;

const CudaModule* g_module = nullptr;  // set before the tests run

const char* load_module() {
  const char* path = std::getenv("AIRLOCK_TEST_CUDA_MODULE");
  if (path == nullptr || *path == '\0') return "AIRLOCK_TEST_CUDA_MODULE is not set";
  if (const auto probe = probe_cuda(); !probe.ok()) {
    std::fprintf(stderr, "%s\n", probe.status().message().c_str());
    return "no GPU";
  }
  void* library = ::dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", ::dlerror());
    std::exit(1);  // a GPU is there and the module is not: no skip
  }
  const auto entry = reinterpret_cast<CudaModuleEntry>(::dlsym(library, kCudaModuleEntry));
  if (entry == nullptr) std::exit(1);
  g_module = entry();
  return nullptr;
}

std::unique_ptr<BackendUnderTest> make(const MemoryModel& model, DType dtype) {
  return std::make_unique<CudaUnderTest>(*g_module, model, dtype);
}

INSTANTIATE_TEST_SUITE_P(Cuda, BackendConformance,
                         ::testing::Values(BackendCase{"cuda", DType::kF32, false, make},
                                           BackendCase{"cuda", DType::kF16, false, make},
                                           BackendCase{"cuda", DType::kBF16, false, make},
                                           BackendCase{"cuda", DType::kF32, true, make},
                                           BackendCase{"cuda", DType::kF16, true, make},
                                           BackendCase{"cuda", DType::kBF16, true, make}),
                         backend_case_name);

TEST(CudaWithoutModel, multiplies_and_refuses_the_rest) {
  const Deadline soon = Deadline::after(std::chrono::seconds(60));
  auto made = g_module->create(nullptr, {});
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  auto compute = made.value()->make_compute({});
  ASSERT_TRUE(compute.ok()) << compute.status().to_string();
  LocalBackend backend(std::move(compute).value());
  for (const DType type : kMatmulTypes) {
    SCOPED_TRACE(name_of(type));
    const OpSpec spec =
        matmul_spec({type, Shape{6, 5, 40}}, {type, Shape{2, 40, 7}}, Transpose::kNone, type);
    auto op = backend.prepare(spec, soon);
    ASSERT_TRUE(op.ok()) << op.status().to_string();
    std::vector<TensorView> inputs;
    for (std::size_t i = 0; i < 2; ++i) {
      const Tensor values = random_tensor(spec.inputs[i], i);
      std::memcpy((*op)->input(i).data, values.view().data, spec.inputs[i].bytes());
      inputs.push_back((*op)->input(i));
    }
    ASSERT_TRUE((*op)->submit().ok());
    ASSERT_TRUE((*op)->wait().ok());
    double worst = 0;
    const auto want = reference_op(MemoryModel(), DType::kF32, spec, inputs);
    EXPECT_EQ(count_outside_tolerance((*op)->result(0), want[0], worst), 0U) << worst;
  }
  EXPECT_EQ(backend.prepare(embedding_spec(3, DType::kF32), soon).status().code(),
            StatusCode::kInvalidInput);
}

/// Sums over so many columns leave int32: what prepare_int8() makes sure of is that they wrap.
constexpr std::int64_t kLongColumns = limits::kMaxIntermediate;

MemoryModel long_model() {
  MemoryModel::Options options;
  options.dims = {.hidden = 7,
                  .intermediate = kLongColumns,
                  .layers = 1,
                  .heads = 1,
                  .kv_heads = 1,
                  .head_dim = 6,
                  .vocab = 21};
  return MemoryModel(options);
}

Words any_words(std::size_t count) {
  std::mt19937_64 random(11);
  Words made(count);
  std::ranges::generate(made, [&] { return static_cast<std::uint32_t>(random()); });
  return made;
}

/// The results of one op, as words.
std::vector<Words> results_of(Backend& backend, const OpSpec& spec,
                              const std::vector<std::span<const std::byte>>& inputs) {
  auto op = backend.prepare(spec, Deadline::after(std::chrono::seconds(60)));
  if (!op.ok()) ADD_FAILURE() << op.status().to_string();
  if (!op.ok()) return {};
  for (std::size_t i = 0; i < inputs.size(); ++i)
    std::ranges::copy(inputs[i], (*op)->input(i).bytes().begin());
  Status status = (*op)->submit();
  if (status.ok()) status = (*op)->wait();
  EXPECT_TRUE(status.ok()) << status.to_string();
  std::vector<Words> results;
  for (std::size_t i = 0; status.ok() && i < (*op)->result_descs().size(); ++i) {
    const auto words = (*op)->result(i).as<std::uint32_t>();
    results.emplace_back(words.begin(), words.end());
  }
  return results;
}

TEST(CudaInt8, is_exact_mod_2_to_the_32_for_the_longest_columns) {
  const MemoryModel source = long_model();
  const ModelDims& dims = source.config().dims;
  Int8Copy copy;
  const auto pool = ThreadPool::create(2).value();
  const auto weights = make_int8_weights(source, Int8Weights::kW16, *pool, copy.sink());
  ASSERT_TRUE(weights.ok()) << weights.status().to_string();
  auto made = g_module->create(&source, {});
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  const auto digest = (*made)->prepare_int8(source, Int8Weights::kW16, {});
  ASSERT_TRUE(digest.ok()) << digest.status().to_string();
  EXPECT_EQ(*digest, weights->digest);
  LocalBackend backend((*made)->make_compute({}).value());
  constexpr std::size_t kRows = 3;
  const std::vector<std::vector<WeightId>> companies{
      {{WeightKind::kDown, 0}},
      {{WeightKind::kQ, 0}, {WeightKind::kK, 0}, {WeightKind::kV, 0}},
      {}};
  for (const std::vector<WeightId>& company : companies) {
    const OpSpec spec = int_linear_spec(company, 2, kRows, dims);
    const auto columns = static_cast<std::size_t>(spec.inputs[0].shape[1]);
    const Words x = any_words(kRows * columns);
    EXPECT_TRUE(results_of(backend, spec, {std::as_bytes(std::span(x))}) ==
                int_linear_results_of(copy, spec, x, columns));
  }
}

TEST(CudaInt8, multiplies_the_pads_that_a_key_and_places_give) {
  const MemoryModel source = long_model();
  Int8Copy copy;
  const auto pool = ThreadPool::create(2).value();
  ASSERT_TRUE(make_int8_weights(source, Int8Weights::kW8, *pool, copy.sink()).ok());
  auto made = g_module->create(&source, {});
  ASSERT_TRUE(made.ok()) << made.status().to_string();
  ASSERT_TRUE((*made)->prepare_int8(source, Int8Weights::kW8, {}).ok());
  LocalBackend backend((*made)->make_compute({}).value());
  const OpSpec spec = pad_linear_spec({{WeightKind::kDown, 0}}, 1, 2);
  const PadKey key{std::byte{5}, std::byte{9}};
  const Words places{3, 0, 4, 0xffffffffU};
  Words pads(2 * static_cast<std::size_t>(kLongColumns));
  WordStream stream = WordStream::create(key).value();
  for (std::size_t row = 0; row < 2; ++row) {
    const WordsPlace place{
        .epoch = places[2 * row], .linear = Linear::kDown, .row = places[2 * row + 1]};
    ASSERT_TRUE(
        stream.words(place, std::span(pads).subspan(row * kLongColumns, kLongColumns)).ok());
  }
  EXPECT_TRUE(results_of(backend, spec, {key, std::as_bytes(std::span(places))}) ==
              int_linear_results_of(copy, spec, pads, kLongColumns));
}

}  // namespace
}  // namespace airlock::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (const char* why = airlock::testing::load_module(); why != nullptr) {
    std::fprintf(stderr, "SKIPPED: %s\n", why);
    return 77;
  }
  return RUN_ALL_TESTS();
}
