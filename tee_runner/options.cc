#include "tee_runner/options.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>
#include <system_error>
#include <thread>
#include <utility>

#include "base/version.h"
#include "proto/handshake.h"
#include "proto/limits.h"

namespace airlock {

namespace {

/// The words of options that stand for something else, as they were given.
struct Words {
  std::string backend = "remote";
  std::string wire = "auto";
  std::string dtype = "auto";
  std::string attention = "offload";
  std::string output = "md";
  ConnectionWords connection;
};

void declare_model(CLI::App& app, PrefillOptions& options) {
  auto* model = app.add_option(
      "--model", options.model,
      "Hugging Face LLaMA directory; without a model the server's is used, by its word");
  auto* synthetic = app.add_option("--synthetic", options.synthetic,
                                   "random weights of this config.json's shape");
  model->excludes(synthetic);
  app.add_option("--weights-seed", options.weights_seed, "seed of --synthetic weights")
      ->needs(synthetic);
  auto* tokens = app.add_option("--tokens", options.tokens, "the prompt's token ids: 1,2,3");
  auto* file = app.add_option("--tokens-file", options.tokens_file,
                              "a file of token ids, separated by commas or white space");
  auto* random =
      app.add_option("--random-tokens", options.random_tokens, "so many random token ids")
          ->check(CLI::Range(std::int64_t{1}, limits::kMaxTokens));
  tokens->excludes(file)->excludes(random);
  file->excludes(random);
  app.add_option("--seed", options.seed, "seed of --random-tokens")->needs(random);
}

void declare_computation(CLI::App& app, PrefillOptions& options, Words& words) {
  const CLI::IsMember types({"auto", "fp32", "fp16", "bf16"});
  app.add_option("--backend", words.backend,
                 "remote: a gpu_server computes; local: this process alone")
      ->check(CLI::IsMember({"remote", "local"}));
  app.add_option("--wire", words.wire,
                 "type of the tensors that cross: auto (as stored), fp32, fp16, bf16")
      ->check(types);
  app.add_option(
         "--dtype", words.dtype,
         "what weights are rounded to with --backend local: auto (as stored), fp32, fp16, bf16")
      ->check(types);
  app.add_option("--attention", words.attention,
                 "offload: QK^T and PV on the server; tee: all of it here")
      ->check(CLI::IsMember({"offload", "tee"}));
  app.add_option("--chunk", options.chunk,
                 "feed the prompt in pieces of so many tokens; the whole prompt at once without it")
      ->check(CLI::Range(std::int64_t{1}, limits::kMaxTokens));
  app.add_option("--threads", options.threads, "compute threads in all")
      ->check(CLI::Range(std::size_t{1}, limits::kMaxThreads));
  app.add_option("--repeat", options.repeat, "prefills; the median counts")
      ->check(CLI::Range(1, 1000000));
  app.add_flag("--compare-local", options.compare_local,
               "also compute in this process, print the overhead, exit 4 where the logits differ");
}

void declare_output(CLI::App& app, PrefillOptions& options, Words& words) {
  app.add_option("--logits-out", options.logits_out,
                 "write the logits to this .npy file (float32, mode 0600)");
  app.add_flag("--all-logits", options.all_logits, "logits of every token, not of the last alone");
  app.add_option("--stats-json", options.stats_json,
                 "write the statistics to this file, after a failure too");
  app.add_option("-o,--output", words.output, "form of the result on stdout: md, json, csv")
      ->check(CLI::IsMember({"md", "json", "csv"}));
}

void declare_recording(CLI::App& app, PrefillOptions& options) {
  auto* record = app.add_option("--record", options.record,
                                "write a trace of every op to this file: shapes, paths, bytes, "
                                "times, no contents (mode 0600, docs/TRACE_FORMAT.md)")
                     ->check([](const std::string& path) {
                       return std::string(path.empty() ? "the file's name is empty" : "");
                     });
  app.add_flag("--record-digest", options.record_digest,
               "also the SHA-256 of every tensor; slows the run, and reveals what a TEE hides: a "
               "digest of token ids can be searched for")
      ->needs(record);
  app.add_flag("--record-payload", options.record_payload,
               "also every tensor, in FILE.safetensors, with digests; slows the run, and reveals "
               "what a TEE hides: the prompt and every activation")
      ->needs(record);
}

/// By path or by inode; /dev/null can take everything.
bool same_file(const std::string& a, const std::string& b) {
  struct stat a_info {};
  struct stat b_info {};
  if (::stat(a.c_str(), &a_info) == 0 && ::stat(b.c_str(), &b_info) == 0) {
    return a_info.st_dev == b_info.st_dev && a_info.st_ino == b_info.st_ino &&
           !S_ISCHR(a_info.st_mode);
  }
  std::error_code a_error;
  std::error_code b_error;
  const auto a_path = std::filesystem::weakly_canonical(a, a_error);
  const auto b_path = std::filesystem::weakly_canonical(b, b_error);
  return a_error || b_error ? a == b : a_path == b_path;
}

/// The trace and its payloads replace what lies there: not what is read, nor another output.
Status check_record_names(const PrefillOptions& options) {
  std::vector<std::string> written = {options.record};
  if (options.record_payload) written.push_back(options.record + ".safetensors");
  const std::pair<const char*, std::string> others[] = {
      {"--stats-json", options.stats_json},
      {"--logits-out", options.logits_out},
      {"--tokens-file", options.tokens_file.value_or("")},
      {"--synthetic", options.synthetic}};
  for (const std::string& path : written) {
    for (const auto& [option, other] : others) {
      if (other.empty() || !same_file(path, other)) continue;
      return {
          StatusCode::kUsage,
          fmt::format("--record would write to {}, the file of {}: choose another", path, option)};
    }
  }
  return {};
}

Status apply(const Words& words, PrefillOptions& options) {
  options.backend = words.backend == "local" ? BackendChoice::kLocal : BackendChoice::kRemote;
  options.wire = from_name<DType>(words.wire);
  options.dtype = from_name<DType>(words.dtype);
  options.attention = words.attention == "tee" ? Attention::kTee : Attention::kOffload;
  options.output = *from_name<OutputForm>(words.output);
  apply_connection(words.connection, options);
  const auto refuse = [](const char* text) { return Status(StatusCode::kUsage, text); };
  const bool has_model = !options.model.empty() || !options.synthetic.empty();
  if (!options.tokens && !options.tokens_file && !options.random_tokens) {
    return refuse("give a prompt: --tokens 1,2,3, --tokens-file FILE or --random-tokens N");
  }
  if (options.backend == BackendChoice::kLocal && !has_model) {
    return refuse("--backend local needs --model DIR or --synthetic CONFIG.json");
  }
  if (options.compare_local && (options.backend == BackendChoice::kLocal || !has_model)) {
    return refuse(
        "--compare-local needs --backend remote and --model DIR or --synthetic CONFIG.json");
  }
  if (!options.record.empty()) RETURN_IF_ERROR(check_record_names(options));
  if (options.tokens) RETURN_IF_ERROR(parse_tokens(*options.tokens, "--tokens").status());
  return {};
}

}  // namespace

Result<std::optional<PrefillOptions>> parse_runner_options(int argc, const char* const* argv) {
  PrefillOptions options;
  options.threads = std::max(1U, std::thread::hardware_concurrency());
  Words words;
  CLI::App app{
      "The trusted side of Airlock: runs LLaMA and asks a gpu_server for the large products.\n"
      "In this mode the server sees token ids and every activation (docs/THREAT_MODEL.md)."};
  app.set_version_flag("--version", fmt::format("tee_runner {}, protocol {}.{}", kVersion,
                                                kProtocolMajor, kProtocolMinor));
  app.require_subcommand(1);
  CLI::App* prefill = app.add_subcommand("prefill", "compute a prompt's logits");
  declare_model(*prefill, options);
  declare_computation(*prefill, options, words);
  declare_connection(*prefill, options, words.connection);
  declare_output(*prefill, options, words);
  declare_recording(*prefill, options);
  app.add_subcommand("replay", "play a trace against a server (tee_runner replay --help)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) {
      app.exit(error, std::cout, std::cerr);
      return std::optional<PrefillOptions>();
    }
    return Status(StatusCode::kUsage,
                  std::string(error.what()) + " (see tee_runner prefill --help)");
  } catch (const std::exception& error) {
    return Status(StatusCode::kUsage,
                  std::string(error.what()) + " (see tee_runner prefill --help)");
  }
  if (!prefill->parsed()) {
    return Status(StatusCode::kUsage, "replay comes first: tee_runner replay FILE");
  }
  RETURN_IF_ERROR(apply(words, options));
  return std::optional<PrefillOptions>(options);
}

}  // namespace airlock
