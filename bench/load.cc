// gpu_server's start on the CPU with a folder of LLaMA-3.2-1B's shape (bf16, 2.5 GB, in the page
// cache), against reading the files' bytes once with as many threads, in turns.
//   load [--folder DIR] [--threads N] [--rounds N] [-o md|json]
// Without --folder it writes one of random weights below $TMPDIR and removes it. `first` computes
// the digest, `again` finds it remembered.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/deadline.h"
#include "base/mix.h"
#include "base/readable_file.h"
#include "base/thread_pool.h"
#include "base/unique_fd.h"
#include "bench/llama_1b.h"
#include "bench/read_memory.h"
#include "bench/record.h"
#include "proto/limits.h"
#include "runtime/program/command_line.h"
#include "runtime/program/program.h"

extern char** environ;

namespace airlock {
namespace {

namespace fs = std::filesystem;

/// Thrown, so that a folder of 2.5 GB goes with what made it.
[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what); }

template <typename T>
T must(Result<T> result) {
  if (!result.ok()) fail(result.status().to_string());
  return std::move(result).value();
}

double seconds_since(std::uint64_t start_ns) {
  return static_cast<double>(now_ns() - start_ns) / 1e9;
}

/// A folder that is gone at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "airlock-load.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) fail("cannot make a folder below $TMPDIR");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// Random bf16 of either sign, from 2^-15 to about 2^-7.
void write_random(std::ofstream& file, std::size_t bytes, std::uint64_t seed) {
  std::vector<std::uint64_t> chunk(std::size_t{1} << 17);
  for (std::size_t done = 0; done < bytes;) {
    for (std::uint64_t& word : chunk)
      word = (mix(++seed) & 0x83ff83ff83ff83ffU) + 0x3800380038003800U;
    const std::size_t now = std::min(bytes - done, chunk.size() * sizeof(chunk[0]));
    file.write(reinterpret_cast<const char*>(chunk.data()), static_cast<std::streamsize>(now));
    done += now;
  }
}

void write_model(const fs::path& folder) {
  const bench::Llama1B model;
  std::ofstream(folder / "config.json") << config_to_json(model.config());
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::size_t bytes = 0;
  for (const ExpectedTensor& tensor : expected_tensors(model.config())) {
    const std::size_t begin = bytes;
    std::string shape;
    for (std::size_t i = 0; i < tensor.shape.rank(); ++i)
      shape += fmt::format("{}{}", i == 0 ? "" : ",", tensor.shape[i]);
    bytes += TensorDesc{DType::kBF16, tensor.shape}.bytes();
    header += fmt::format(R"(,"{}":{{"dtype":"BF16","shape":[{}],"data_offsets":[{},{}]}})",
                          tensor.name, shape, begin, bytes);
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  std::ofstream file(folder / "model.safetensors", std::ios::binary);
  const std::uint64_t header_bytes = header.size();
  file.write(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  file << header;
  write_random(file, bytes, 1);
  if (!file.flush()) fail("cannot write a model's folder");
}

std::vector<std::string> weight_files(const fs::path& folder) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path().string());
  }
  if (files.empty()) fail(folder.string() + " has no .safetensors");
  return files;
}

/// How long it takes to read all of the files once where they lie in the page cache, each mapped
/// anew. `again`: what is mapped already.
struct Reading {
  double mapped_s = 0;
  double again_s = 0;
  std::size_t bytes = 0;
};

Reading read_files(const std::vector<std::string>& files, ThreadPool& pool) {
  Reading reading;
  for (const std::string& path : files) {
    const ReadableFile file = must(ReadableFile::open(path));
    const std::uint64_t start_ns = now_ns();
    void* const data = ::mmap(nullptr, file.size_bytes(), PROT_READ, MAP_SHARED, file.fd(), 0);
    if (data == MAP_FAILED) fail("cannot map " + path);
    bench::read_memory(pool, static_cast<const std::byte*>(data), file.size_bytes());
    reading.mapped_s += seconds_since(start_ns);
    const std::uint64_t again_ns = now_ns();
    bench::read_memory(pool, static_cast<const std::byte*>(data), file.size_bytes());
    reading.again_s += seconds_since(again_ns);
    reading.bytes += file.size_bytes();
    ::munmap(data, file.size_bytes());
  }
  return reading;
}

constexpr std::chrono::minutes kStartLimit{10};

/// A process that is ended with this.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}
  ~Child() {
    ::kill(pid_, has_started ? SIGTERM : SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  bool has_started = false;

 private:
  const pid_t pid_;
};

/// A start of the program beside this one, until it says that it is ready.
double start_server(const std::string& program, const fs::path& folder, const fs::path& work,
                    std::size_t threads) {
  int ends[2] = {-1, -1};
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("no pipe");
  const UniqueFd from(ends[0]);
  UniqueFd to(ends[1]);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, to.get(), STDOUT_FILENO);
  const std::string log = (work / "log").string();
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0600);
  const std::vector<std::string> words = {program,
                                          "--model",
                                          folder.string(),
                                          "--endpoint",
                                          fmt::format("ipc://{}/ctl", work.string()),
                                          "--device",
                                          "cpu",
                                          "--threads",
                                          fmt::format("{}", threads)};
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t pid = 0;
  const std::uint64_t start_ns = now_ns();
  const int error =
      ::posix_spawn(&pid, program.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) fail("cannot start " + program);
  Child server(pid);
  to.reset();
  const Deadline deadline = Deadline::after(kStartLimit);
  std::string said;
  char text[512];
  while (said.find("ready ") == std::string::npos) {
    pollfd wait{from.get(), POLLIN, 0};
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline.remaining());
    if (::poll(&wait, 1, static_cast<int>(left.count())) == 0)
      fail(program + " was not ready in time");
    const ssize_t got = ::read(from.get(), text, sizeof(text));
    if (got <= 0) fail(program + " ended before it was ready");
    said.append(text, static_cast<std::size_t>(got));
  }
  server.has_started = true;
  return seconds_since(start_ns);
}

struct Options {
  std::string folder;
  std::string server;
  std::size_t threads = 2;
  std::size_t rounds = 5;
  OutputForm form = OutputForm::kMarkdown;
};

Result<std::optional<Options>> parse(int argc, char** argv) {
  Options options;
  options.server = (fs::read_symlink("/proc/self/exe").parent_path() / "gpu_server").string();
  CommandLine line("load", "gpu_server's start on the CPU against reading its model's files once.");
  const CommandOptions command = line.options();
  command.text("--folder", options.folder, "a model's folder (one is made and removed)");
  command.text("--server", options.server, "the program (the one beside this)");
  command.number("--threads", options.threads, std::size_t{1}, limits::kMaxThreads,
                 "of the server and of the reading (2)");
  command.number("--rounds", options.rounds, std::size_t{1}, std::size_t{1000},
                 "starts of each (5)");
  command.choice<OutputForm>("-o", options.form, "md or json", bench::kForms);
  ASSIGN_OR_RETURN(const bool asked, line.parse(argc, argv));
  return asked ? std::optional(options) : std::nullopt;
}

Status run(const Options& options) {
  const TemporaryFolder work;
  fs::path folder = options.folder;
  if (options.folder.empty()) {
    folder = work.path() / "model";
    fs::create_directory(folder);
    write_model(folder);
  }
  const fs::path cache = work.path() / "cache";
  ::setenv("XDG_CACHE_HOME", cache.c_str(), 1);
  const std::vector<std::string> files = weight_files(folder);
  // A file that was written a moment ago is not remembered; a folder that was given is left alone.
  if (options.folder.empty()) {
    for (const std::string& file : files)
      fs::last_write_time(file, fs::file_time_type::clock::now() - std::chrono::hours(1));
  }
  const auto pool = must(ThreadPool::create(options.threads));
  std::vector<double> reads, again_reads, firsts, agains;
  std::size_t bytes = 0;
  (void)read_files(files, *pool);  // into the page cache
  for (std::size_t round = 0; round < options.rounds; ++round) {
    const Reading reading = read_files(files, *pool);
    bytes = reading.bytes;
    reads.push_back(reading.mapped_s);
    again_reads.push_back(reading.again_s);
    fs::remove_all(cache);
    firsts.push_back(start_server(options.server, folder, work.path(), options.threads));
    agains.push_back(start_server(options.server, folder, work.path(), options.threads));
  }
  const double read_s = bench::median_of(reads);
  if (options.form == OutputForm::kJson) {
    bench::Record record;
    record.count("bytes", bytes).count("threads", options.threads);
    record.spread("read_s", reads).spread("read_again_s", again_reads);
    record.spread("first_s", firsts).spread("again_s", agains);
    fmt::print("{}\n", record.json());
    return {};
  }
  fmt::print("{} bytes, {} threads, {} rounds in turns; medians (min-max)\n\n", bytes,
             options.threads, options.rounds);
  fmt::print("| what | s | GB/s | to reading |\n| --- | ---: | ---: | ---: |\n");
  const auto row = [&](std::string_view what, const std::vector<double>& values) {
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    const double median = bench::median_of(values);
    fmt::print("| {} | {:.3f} ({:.3f}-{:.3f}) | {:.2f} | {:.2f} |\n", what, median, *least, *most,
               static_cast<double>(bytes) / median / 1e9, median / read_s);
  };
  row("reading, mapped anew", reads);
  row("reading, mapped before", again_reads);
  row("start, digest remembered", agains);
  row("start, digest computed", firsts);
  return {};
}

}  // namespace
}  // namespace airlock

int main(int argc, char** argv) {
  return airlock::run_program(
      "load", [&] { return airlock::parse(argc, argv); }, airlock::run);
}
