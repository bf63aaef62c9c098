#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace airlock {

/// The files of a Hugging Face model as people have them: which of them are read, and what is wrong
/// with those that cannot be.

inline constexpr const char* kConfigName = "config.json";
inline constexpr const char* kWeightsName = "model.safetensors";
inline constexpr const char* kIndexName = "model.safetensors.index.json";

/// The folder, links followed, that holds the files of the model at `given`: that folder, or, of a
/// repository's folder in the Hugging Face cache (models--ORG--NAME), the snapshot that its main
/// branch names, or its only one. kInvalidInput where there is none, or several.
Result<std::string> find_model_folder(const std::string& given);

/// The files of `given` that may be read, of each snapshot where it is a cache's folder: for those who
/// must not write there. None of an empty name.
std::vector<std::string> model_files(const std::string& given);

/// kInvalidInput where a file of a model is not what it stands for, with what to do: it is not
/// there, it is a link of the cache to a blob that is gone, or a pointer of git-lfs.
Status check_model_file(const std::string& path);

/// Why `folder` cannot be served, by what lies in it instead of config.json and safetensors:
/// pickled weights (.bin, .pth), GGUF, other libraries' weights. Ends with the command that
/// converts them.
Status explain_no_weights(const std::string& folder);

/// kInvalidInput where `folder` has an adapter: transformers would apply it to the model.
Status check_no_adapter(const std::string& folder);

}  // namespace airlock
