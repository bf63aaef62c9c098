// The conformance suite on a real GPU: AIRLOCK_TEST_CUDA_MODULE names airlock_cuda.so. Without it,
// or without a GPU, nothing is tested and the exit code says so (77).
#include "tests/cuda/cuda_conformance.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>

#include "gpu_server/cuda_probe.h"

namespace airlock::testing {
namespace {

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
