#include "runtime/model/model_files.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/file.h"
#include "base/log.h"
#include "base/readable_file.h"
#include "runtime/json/reader.h"

namespace airlock {
namespace {

namespace fs = std::filesystem;

/// Of one folder: more is no model's.
constexpr std::size_t kMaxEntries = 16384;
constexpr std::size_t kNamesShown = 8;

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// Names of what lies in `folder`, in order; empty where it cannot be read.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  const fs::directory_iterator end;
  for (fs::directory_iterator entry(folder, error);
       !error && entry != end && names.size() < kMaxEntries; entry.increment(error))
    names.push_back(entry->path().filename());
  std::ranges::sort(names);
  return names;
}

/// "ORG/NAME" where a part of `path` is its folder in the Hugging Face cache; else empty.
std::string repository_of(const fs::path& path) {
  constexpr std::string_view kPrefix = "models--";
  constexpr std::string_view kSeparator = "--";
  for (const fs::path& part : path) {
    const std::string name = part;
    if (!name.starts_with(kPrefix)) continue;
    const std::size_t dashes = name.find(kSeparator, kPrefix.size());
    if (dashes == std::string::npos) return name.substr(kPrefix.size());
    return fmt::format("{}/{}", name.substr(kPrefix.size(), dashes - kPrefix.size()),
                       name.substr(dashes + kSeparator.size()));
  }
  return {};
}

/// For a command that somebody may paste: `value` where no shell and no Python reads anything into
/// it, else `word`, which stands for it. Others chose the names.
std::string pasteable(const std::string& value, const std::string& word) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/+-";
  const bool plain = !value.empty() && value.front() != '-' &&
                     value.find_first_not_of(kPlain) == std::string::npos;
  return plain ? value : word;
}

/// What fetches the model at `path` once more.
std::string download_command(const std::string& path) {
  return fmt::format("hf download {} (huggingface-cli download with older versions)",
                     pasteable(repository_of(path), "ORG/NAME"));
}

/// Whether it begins as a pointer file of git-lfs does.
bool is_lfs_pointer(const ReadableFile& file) {
  constexpr std::string_view kBegin = "version https://git-lfs.github.com/spec/";
  std::string begin(kBegin.size(), '\0');
  const auto got = file.read_some(0, std::as_writable_bytes(std::span(begin)));
  return got.ok() && begin == kBegin;
}

/// The snapshot of a cache's folder that `refs/main` names, where that is there.
std::string main_snapshot(const std::string& repository) {
  constexpr std::uint64_t kMaxRefBytes = 128;
  const auto ref = read_text_file(repository + "/refs/main", kMaxRefBytes);
  if (!ref.ok()) return {};
  const std::string name = ref->substr(0, ref->find_first_of(" \r\n"));
  const bool plain = !name.empty() && std::ranges::all_of(name, [](unsigned char c) {
    return std::isalnum(c) != 0;
  });
  return plain && is_folder(repository + "/snapshots/" + name) ? name : "";
}

Result<std::string> find_snapshot(const std::string& given) {
  const std::string snapshots = given + "/snapshots";
  const std::vector<std::string> names = names_in(snapshots);
  std::string chosen = main_snapshot(given);
  if (chosen.empty() && names.size() == 1) chosen = names[0];
  if (chosen.empty() && names.empty()) {
    return Status(StatusCode::kInvalidInput,
                  "{} is a model's folder in the Hugging Face cache, without any snapshot: {}",
                  given, download_command(given));
  }
  if (chosen.empty()) {
    std::string shown;
    for (std::size_t i = 0; i < std::min(names.size(), kNamesShown); ++i)
      shown += fmt::format("{}{}/{}", i == 0 ? "" : ", ", snapshots, printable(names[i]));
    return Status(StatusCode::kInvalidInput,
                  "{} is a model's folder in the Hugging Face cache, with {} snapshots, and no "
                  "refs/main that names one: give one of {}{}",
                  given, names.size(), shown, names.size() > kNamesShown ? ", ..." : "");
  }
  log_info(fmt::format("{} is a folder of the Hugging Face cache: its snapshot {} is taken", given,
                       printable(chosen)));
  return snapshots + "/" + chosen;
}

/// A kind of weights that is not read.
struct ForeignWeights {
  std::string_view begin;
  std::string_view end;
  std::string_view what;
  // In Python where it begins with "from"; a pattern of fmt's with {dir} and {file}.
  std::string_view command;
};

constexpr std::string_view kSaveAgain =
    "from transformers import AutoModelForCausalLM as M; "
    "M.from_pretrained('{dir}').save_pretrained('OUT')";
constexpr ForeignWeights kForeign[] = {
    {"", ".gguf", "llama.cpp's GGUF",
     "from transformers import AutoModelForCausalLM as M; "
     "M.from_pretrained('{dir}', gguf_file='{file}').save_pretrained('OUT')"},
    {"pytorch_model", ".bin", "pickled PyTorch weights, which can run code when they are read",
     kSaveAgain},
    {"consolidated", ".pth", "Meta's own checkpoint, which is pickled",
     "python3 -m transformers.models.llama.convert_llama_weights_to_hf --input_dir {dir} "
     "--model_size SIZE --output_dir OUT"},
    {"consolidated", ".safetensors", "weights under Mistral's own names",
     "hf download the repository's model*.safetensors and config.json too"},
    {"", ".pth", "pickled PyTorch weights, which can run code when they are read", kSaveAgain},
    {"tf_model", ".h5", "TensorFlow's weights",
     "from transformers import AutoModelForCausalLM as M; "
     "M.from_pretrained('{dir}', from_tf=True).save_pretrained('OUT')"},
    {"flax_model", ".msgpack", "Flax's weights",
     "from transformers import AutoModelForCausalLM as M; "
     "M.from_pretrained('{dir}', from_flax=True).save_pretrained('OUT')"},
};

std::string command_text(const ForeignWeights& kind, const std::string& folder,
                         const std::string& file) {
  const std::string command =
      fmt::format(fmt::runtime(kind.command), fmt::arg("dir", pasteable(folder, "DIR")),
                  fmt::arg("file", pasteable(file, "FILE")));
  return command.starts_with("from ") ? fmt::format("python3 -c \"{}\"", command) : command;
}

std::optional<Status> explain_foreign(const std::string& folder, const std::string& name) {
  for (const ForeignWeights& kind : kForeign) {
    if (!name.starts_with(kind.begin) || !name.ends_with(kind.end)) continue;
    return Status(StatusCode::kInvalidInput, "{}/{} is {}: only safetensors are read. Convert: {}",
                  folder, printable(name), kind.what, command_text(kind, folder, name));
  }
  return std::nullopt;
}

}  // namespace

Result<std::string> find_model_folder(const std::string& given) {
  std::error_code error;
  std::string folder = fs::canonical(given, error).string();
  if (error) {
    return Status(StatusCode::kInvalidInput, "{}: no such model directory: {}", given,
                  error.message());
  }
  if (!is_folder(folder)) {
    const std::string name = fs::path(folder).filename();
    if (auto foreign = explain_foreign(fs::path(folder).parent_path(), name)) return *foreign;
    return Status(StatusCode::kInvalidInput, "{}: not a directory; --model takes one", given);
  }
  struct stat info {};
  const bool has_config = ::lstat((folder + "/" + kConfigName).c_str(), &info) == 0;
  if (has_config || !is_folder(folder + "/snapshots")) return folder;
  return find_snapshot(folder);
}

std::vector<std::string> model_files(const std::string& given) {
  if (given.empty()) return {};
  std::error_code error;
  std::string folder = fs::canonical(given, error).string();
  if (error) return {};
  std::vector<std::string> folders = {folder};
  for (const std::string& name : names_in(folder + "/snapshots"))
    folders.push_back(folder + "/snapshots/" + name);
  std::vector<std::string> files;
  for (const std::string& place : folders) {
    // By these names a new file would be taken for the model's, too.
    for (const char* name :
         {kConfigName, kWeightsName, kIndexName, "tokenizer.json", "tokenizer_config.json",
          "chat_template.jinja", "generation_config.json"})
      files.push_back(place + "/" + name);
    for (const std::string& name : names_in(place)) {
      if (name.ends_with(".safetensors")) files.push_back(place + "/" + name);
    }
  }
  return files;
}

Status check_model_file(const std::string& path) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? Status(StatusCode::kInvalidInput, "{} is not there", path)
                           : os_error("open " + path, errno);
  }
  if (S_ISLNK(info.st_mode) && ::stat(path.c_str(), &info) != 0 && errno == ENOENT) {
    ASSIGN_OR_RETURN(const std::string blob, follow_links(path));
    return {StatusCode::kInvalidInput,
            "{} is a link to {}, which is gone: the cache has lost it. Fetch the model again: {}",
            path, blob, download_command(path)};
  }
  const auto file = ReadableFile::open(path);
  if (!file.ok()) return file.status();
  if (!is_lfs_pointer(*file)) return {};
  return {StatusCode::kInvalidInput,
          "{} is only git-lfs's pointer to the file. Fetch the file: git -C {} lfs pull", path,
          pasteable(folder_of(path), "DIR")};
}

Status explain_no_weights(const std::string& folder) {
  const std::vector<std::string> names = names_in(folder);
  for (const std::string& name : names) {
    if (auto foreign = explain_foreign(folder, name)) return *foreign;
  }
  return {StatusCode::kInvalidInput,
          "{}: has neither {} nor {}{}",
          folder,
          kWeightsName,
          kIndexName,
          names.empty() ? ": it is empty" : ""};
}

Status check_no_adapter(const std::string& folder) {
  struct stat info {};
  if (::lstat((folder + "/adapter_config.json").c_str(), &info) != 0) return {};
  return {StatusCode::kInvalidInput,
          "{} has an adapter (adapter_config.json), which is not applied here: merge it into its "
          "model: python3 -c \"from peft import AutoPeftModelForCausalLM as M; "
          "M.from_pretrained('{}').merge_and_unload().save_pretrained('OUT')\"",
          folder, pasteable(folder, "DIR")};
}

}  // namespace airlock
