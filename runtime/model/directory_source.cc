#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <ctime>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <set>

#include "base/convert.h"
#include "base/cpu_count.h"
#include "base/log.h"
#include "base/safe_text.h"
#include "base/thread_pool.h"
#include "runtime/json/reader.h"
#include "runtime/model/digest.h"
#include "runtime/model/model_files.h"
#include "runtime/model/model_source.h"
#include "runtime/model/safetensors.h"

namespace airlock {

namespace {

constexpr std::uint64_t kMaxIndexBytes = std::uint64_t{64} << 20;
constexpr std::size_t kMaxShards = 4096;
/// Read at a time: what was read is still near when it is hashed or converted.
constexpr std::size_t kChunkBytes = std::size_t{128} << 10;
constexpr std::size_t kMaxHashThreads = 16;
constexpr std::uint64_t kSlowHashBytes = std::uint64_t{1} << 30;
constexpr std::int64_t kSettledS = 2;

/// Where one tensor of the model lies.
struct Place {
  const SafetensorsFile* file = nullptr;
  const SafetensorsEntry* entry = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
};

using Files = std::map<std::string, std::unique_ptr<SafetensorsFile>>;
using Places = std::map<std::string, Place>;

/// Also a link to nothing, which is told of when it is opened.
bool is_named(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::symlink_status(path, ignored).type() !=
         std::filesystem::file_type::not_found;
}

Result<std::unique_ptr<SafetensorsFile>> open_weights(const std::string& path) {
  RETURN_IF_ERROR(check_model_file(path));
  return SafetensorsFile::open(path);
}

/// The `weight_map` of an index: tensor name to file name. Its file names come from outside: plain
/// names only.
Result<std::map<std::string, std::string>> read_index(const std::string& path) {
  RETURN_IF_ERROR(check_model_file(path));
  ASSIGN_OR_RETURN(const std::string text, read_text_file(path, kMaxIndexBytes));
  ASSIGN_OR_RETURN(const Json root, parse_json(text, path));
  Status status;
  std::map<std::string, std::string> result;
  for (const auto& [name, file] :
       JsonReader(root, path, status).at("weight_map").members(kMaxJsonValues)) {
    std::string file_name;
    file.get(file_name, 255);
    // It stands in messages, too.
    if (!file_name.ends_with(".safetensors") || file_name.find('/') != std::string::npos ||
        has_controls(file_name))
      file.refuse("the name of a .safetensors file beside the index");
    result.emplace(name, std::move(file_name));
  }
  RETURN_IF_ERROR(status);
  return result;
}

std::string identity(const LlamaConfig& config, const Files& files) {
  std::string text = "airlock digest 1\n" + config_to_json(config) + "\n";
  for (const auto& [name, file] : files)
    text += fmt::format("{} {}\n", file->file().identity(), file->file().path());
  return text;
}

/// A file that was written a moment ago may be written again without a change of its time stamp.
bool settled(const Files& files) {
  const std::int64_t now_s = std::time(nullptr);
  return std::ranges::all_of(files, [now_s](const auto& item) {
    return item.second->file().mtime_s() + kSettledS <= now_s;
  });
}

Result<std::string> hash_tensor(const Place& place) {
  Sha256 hash;
  std::vector<std::byte> chunk(
      static_cast<std::size_t>(std::min<std::uint64_t>(kChunkBytes, place.entry->bytes)));
  for (std::uint64_t done = 0; done < place.entry->bytes;) {
    const std::uint64_t now = std::min<std::uint64_t>(chunk.size(), place.entry->bytes - done);
    RETURN_IF_ERROR(place.file->read(*place.entry, done, std::span(chunk).first(now)));
    hash.add(std::span(chunk).first(now));
    done += now;
  }
  return hash.finish();
}

/// Whether both hold the same, bit by bit.
Result<bool> are_same(const Place& a, const Place& b) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  std::vector<std::byte> chunk(std::min<std::uint64_t>(kChunkBytes, a.entry->bytes));
  std::vector<std::byte> other(chunk.size());
  for (std::uint64_t done = 0; done < a.entry->bytes; done += chunk.size()) {
    chunk.resize(std::min<std::uint64_t>(chunk.size(), a.entry->bytes - done));
    other.resize(chunk.size());
    RETURN_IF_ERROR(a.file->read(*a.entry, done, chunk));
    RETURN_IF_ERROR(b.file->read(*b.entry, done, other));
    if (chunk != other) return false;
  }
  return true;
}

/// Of a text in which each ends with a newline.
std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  for (std::size_t end = 0; (end = text.find('\n')) != std::string_view::npos;) {
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  return lines;
}

/// What stands before a tensor's hash: "NAME DTYPE SHAPE ".
std::string line_head(const Places::value_type& item) {
  const auto& [name, place] = item;
  return fmt::format("{} {} {} ", name, name_of(place.dtype), place.shape.to_string());
}

/// The line of each tensor, hashed by several threads.
Result<std::vector<std::string>> hash_tensors(std::span<const Places::value_type* const> items,
                                              const std::string& directory) {
  std::uint64_t bytes = 0;
  for (const auto* item : items) bytes += item->second.entry->bytes;
  if (bytes >= kSlowHashBytes) {
    log_info(
        fmt::format("computing the digest of {} ({:.1f} GB); it is remembered for the next time",
                    directory, static_cast<double>(bytes) / 1e9));
  }
  std::vector<std::string> lines(items.size());
  // The largest first, so that no thread is left with one at the end.
  std::vector<std::size_t> order(items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](std::size_t i) { return items[i]->second.entry->bytes; });
  // Relaxed: it only hands out indices; joining the threads publishes the lines.
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  Status failure;
  const auto work = [&](std::size_t, std::size_t) {
    for (std::size_t at = 0; (at = next.fetch_add(1, std::memory_order_relaxed)) < order.size();) {
      const std::size_t i = order[at];
      const auto hash = hash_tensor(items[i]->second);
      if (!hash.ok()) {
        const std::lock_guard lock(mutex);
        failure = hash.status();
        return;
      }
      lines[i] = line_head(*items[i]) + *hash;
    }
  };
  const std::size_t threads = std::min(usable_cpu_count(), kMaxHashThreads);
  ASSIGN_OR_RETURN(const std::unique_ptr<ThreadPool> pool, ThreadPool::create(threads));
  pool->parallel_for(threads, work);
  RETURN_IF_ERROR(failure);
  return lines;
}

class DirectorySource : public ModelSource {
 public:
  DirectorySource(const LlamaConfig& config, std::string directory, Files files, Places places)
      : config_(config),
        directory_(std::move(directory)),
        files_(std::move(files)),
        places_(std::move(places)) {
    std::map<DType, std::uint64_t> elements;
    for (const auto& [name, place] : places_)
      elements[place.dtype] += place.entry->bytes / dtype_bytes(place.dtype);
    stored_dtype_ =
        std::ranges::max_element(elements, {}, [](const auto& item) { return item.second; })->first;
  }

  const LlamaConfig& config() const override { return config_; }
  DType stored_dtype() const override { return stored_dtype_; }

  Status read_rows(const std::string& name, std::int64_t first_row,
                   MutableTensorView out) const override {
    const Place* place = find(name);
    if (place == nullptr) {
      return {StatusCode::kInvalidInput, "{}: the model has no tensor '{}'", directory_, name};
    }
    ASSIGN_OR_RETURN(const std::int64_t rows, check_rows(name, place->shape, first_row, out.desc));
    const auto columns = static_cast<std::size_t>(place->shape[place->shape.rank() - 1]);
    const std::size_t unit = dtype_bytes(place->dtype);
    const std::uint64_t offset = static_cast<std::uint64_t>(first_row) * columns * unit;
    const std::size_t count = static_cast<std::size_t>(rows) * columns;
    // A read, not a copy from the mapping: a file that shrank is an error here, and would be a
    // fault there.
    if (place->dtype == out.desc.dtype)
      return place->file->read(*place->entry, offset, {out.data, count * unit});
    std::vector<std::byte> stored(std::min(count * unit, kChunkBytes));
    std::vector<float> wide(stored.size() / unit);
    const std::size_t out_unit = dtype_bytes(out.desc.dtype);
    for (std::size_t done = 0; done < count;) {
      const std::size_t now = std::min(wide.size(), count - done);
      RETURN_IF_ERROR(place->file->read(*place->entry, offset + done * unit,
                                        std::span(stored).first(now * unit)));
      load_f32(place->dtype, stored.data(), wide.data(), now);
      store_f32(out.desc.dtype, wide.data(), out.data + done * out_unit, now);
      done += now;
    }
    return {};
  }

  std::optional<TensorView> mapped(const std::string& name, DType dtype) const override {
    const Place* place = find(name);
    if (place == nullptr || place->dtype != dtype) return std::nullopt;
    const auto bytes = place->file->mapped(*place->entry);
    // The format does not promise alignment; only its usual writers do.
    if (bytes.empty() || reinterpret_cast<std::uintptr_t>(bytes.data()) % dtype_bytes(dtype) != 0)
      return std::nullopt;
    return TensorView{bytes.data(), {.dtype = dtype, .shape = place->shape}};
  }

  void release(const std::string& name) const override {
    if (const Place* place = find(name)) place->file->release(*place->entry);
  }

  Result<std::string> digest() const override {
    const DigestCache cache(directory_);
    const std::string before = identity(config_, files_);
    if (auto known = cache.find(before)) return *known;
    std::vector<const Places::value_type*> items;
    for (const auto& item : places_) items.push_back(&item);
    ASSIGN_OR_RETURN(const std::vector<std::string> lines, hash_tensors(items, directory_));
    ASSIGN_OR_RETURN(std::string digest, join_digest(lines));
    if (settled(files_)) cache.store(before, digest);
    return digest;
  }

  Result<std::string> digest_identity() const override {
    Sha256 hash;
    hash.add(digest_head());
    return hash.finish();
  }

  Result<std::vector<std::string>> digest_lines(std::span<const std::string> names) const override {
    std::vector<const Places::value_type*> items;
    std::string key = directory_;
    for (const std::string& name : names) {
      const auto found = places_.find(name);
      if (found == places_.end())
        return Status(StatusCode::kInvalidInput, "{}: no tensor '{}'", directory_, name);
      items.push_back(&*found);
      key += "\n" + name;
    }
    if (items.empty()) return std::vector<std::string>();
    const DigestCache cache(key);
    const std::string before = identity(config_, files_);
    if (const auto known = cache.find_text(before)) return lines_of(*known);
    ASSIGN_OR_RETURN(std::vector<std::string> lines, hash_tensors(items, directory_));
    if (settled(files_)) cache.store_text(before, fmt::format("{}\n", fmt::join(lines, "\n")));
    return lines;
  }

  Result<std::string> join_digest(std::span<const std::string> lines) const override {
    const auto refuse = [this](std::string_view name, std::string_view what) {
      return Status(StatusCode::kMismatch, "{}: the digest's line of '{}' {}", directory_,
                    printable(name), what);
    };
    std::map<std::string_view, std::string_view> by_name;
    for (const std::string& line : lines) {
      const std::string_view name = std::string_view(line).substr(0, line.find(' '));
      if (!by_name.emplace(name, line).second) return refuse(name, "is there twice");
    }
    Sha256 hash;
    hash.add(digest_head());
    for (const auto& item : places_) {
      const auto found = by_name.find(item.first);
      if (found == by_name.end()) return refuse(item.first, "is missing");
      const std::string head = line_head(item);
      const std::string_view line = found->second;
      if (!line.starts_with(head) || line.size() != head.size() + kSha256HexDigits)
        return refuse(item.first, "is of another model");
      hash.add(line);
      hash.add("\n");
      by_name.erase(found);
    }
    if (!by_name.empty()) return refuse(by_name.begin()->first, "is of another model");
    return hash.finish();
  }

 private:
  std::string digest_head() const { return "airlock model\n" + config_to_json(config_) + "\n"; }

  const Place* find(const std::string& name) const {
    const auto found = places_.find(name);
    return found == places_.end() ? nullptr : &found->second;
  }

  LlamaConfig config_;
  std::string directory_;  // canonical
  Files files_;
  Places places_;  // by name; entries point into files_
  DType stored_dtype_ = DType::kF32;
};

Result<Files> open_files(const std::string& directory,
                         const std::map<std::string, std::string>& index) {
  std::set<std::string> names;
  for (const auto& [tensor, file] : index) names.insert(file);
  if (names.size() > kMaxShards)
    return Status(StatusCode::kInvalidInput, "{}: {} shards, at most {}", directory, names.size(),
                  kMaxShards);
  Files files;
  for (const std::string& name : names) {
    const std::string path = directory + "/" + name;
    if (!is_named(path)) {
      return Status(StatusCode::kInvalidInput,
                    "{} is not there, a shard of the {} that {} names: the download is not whole",
                    path, names.size(), kIndexName);
    }
    ASSIGN_OR_RETURN(auto file, open_weights(path));
    files.emplace(name, std::move(file));
  }
  return files;
}

/// The tensors of LLaMA, each checked against the shape that the config demands.
Result<Places> place_tensors(const LlamaConfig& config, const std::string& directory,
                             const Files& files, const std::map<std::string, std::string>& index) {
  Places places;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    const auto listed = index.find(tensor.name);
    if (listed == index.end()) {
      return Status(StatusCode::kInvalidInput, "{}: the tensor '{}' is missing{}", directory,
                    tensor.name,
                    tensor.name == kLmHeadName ? " (and tie_word_embeddings is false)" : "");
    }
    const SafetensorsFile& file = *files.at(listed->second);
    const auto refuse = [&](const std::string& what) {
      return Status(StatusCode::kInvalidInput, "{}: tensor '{}' {}", file.file().path(),
                    tensor.name, what);
    };
    const SafetensorsEntry* entry = file.find(tensor.name);
    if (entry == nullptr) return refuse("is missing; the index says it is here");
    if (!entry->dtype) {
      return refuse(
          fmt::format("has dtype {}; supported are F32, F16 and BF16", entry->dtype_text));
    }
    const auto shape = Shape::make(entry->shape);
    if (!shape || *shape != tensor.shape) {
      return refuse(
          fmt::format("has shape {}, the config asks for {}",
                      shape ? shape->to_string() : fmt::format("of rank {}", entry->shape.size()),
                      tensor.shape.to_string()));
    }
    places.emplace(tensor.name,
                   Place{.file = &file, .entry = entry, .dtype = *entry->dtype, .shape = *shape});
  }
  return places;
}

/// The same, where the config ties the head to the embedding and there is a head all the same: as
/// transformers does, one that differs is the model's, and `config` then ties nothing.
Result<Places> place_with_head(LlamaConfig& config, const std::string& directory,
                               const Files& files,
                               const std::map<std::string, std::string>& index) {
  LlamaConfig untied = config;
  untied.tie_word_embeddings = false;
  ASSIGN_OR_RETURN(Places places, place_tensors(untied, directory, files, index));
  ASSIGN_OR_RETURN(const bool same, are_same(places.at(kEmbedName), places.at(kLmHeadName)));
  if (same) return place_tensors(config, directory, files, index);
  log_info(
      fmt::format("{}: {} is not the embedding, so they are not tied, whatever the config says",
                  directory, kLmHeadName));
  config = untied;
  return places;
}

void log_ignored(const std::string& directory, const Places& places,
                 const std::map<std::string, std::string>& index) {
  constexpr std::size_t kNamesShown = 3;
  std::string names;
  std::size_t count = 0;
  for (const auto& [name, file] : index) {
    if (places.contains(name)) continue;
    if (++count <= kNamesShown) names += (names.empty() ? "" : ", ") + printable(name);
  }
  if (count == 0) return;
  log_info(fmt::format("{}: ignoring {} tensor(s) that the model does not use: {}{}", directory,
                       count, names, count > kNamesShown ? ", ..." : ""));
}

}  // namespace

Result<std::unique_ptr<ModelSource>> open_model_directory(const std::string& given) {
  ASSIGN_OR_RETURN(const std::string directory, find_model_folder(given));
  const bool has_weights = is_named(directory + "/" + kWeightsName);
  RETURN_IF_ERROR(check_no_adapter(directory));
  if (!has_weights && !is_named(directory + "/" + kIndexName)) return explain_no_weights(directory);
  ASSIGN_OR_RETURN(LlamaConfig config, load_config(directory + "/" + kConfigName));
  std::map<std::string, std::string> index;
  Files files;
  if (has_weights) {
    ASSIGN_OR_RETURN(auto file, open_weights(directory + "/" + kWeightsName));
    for (const SafetensorsEntry& entry : file->entries()) index.emplace(entry.name, kWeightsName);
    files.emplace(kWeightsName, std::move(file));
  } else {
    ASSIGN_OR_RETURN(index, read_index(directory + "/" + kIndexName));
    ASSIGN_OR_RETURN(files, open_files(directory, index));
  }
  const bool has_both = config.tie_word_embeddings && index.contains(kLmHeadName);
  ASSIGN_OR_RETURN(auto places, has_both ? place_with_head(config, directory, files, index)
                                         : place_tensors(config, directory, files, index));
  log_ignored(directory, places, index);
  return std::unique_ptr<ModelSource>(
      std::make_unique<DirectorySource>(config, directory, std::move(files), std::move(places)));
}

}  // namespace airlock
