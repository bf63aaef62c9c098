#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/status.h"
#include "runtime/model/model_source.h"

namespace airlock::bench {

/// Fills with small numbers of random sign and mantissa, the same for the same seed. Random, since
/// a GPU draws less power, and so runs faster, on zeros. fp32, fp16, bf16; uint32 and bytes of any
/// size.
void fill_random(std::span<std::byte> bytes, DType dtype, std::uint64_t seed);

/// A model of `config_path`'s shape cut to `layers` layers, its weights made as they are asked for:
/// enough to time ops, no more than that.
Result<std::unique_ptr<ModelSource>> make_bench_model(const std::string& config_path,
                                                      std::int64_t layers);

}  // namespace airlock::bench
