// Models that somebody made to break the import, given to the real lathe-prepare: one line, the
// exit code of a failure, nothing written, in little time and memory.

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

constexpr int kNumMany = 100'000;

std::string Bytes(uint64_t value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

json Entry(const char* dtype, const json& shape, int64_t begin, int64_t end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

struct Outcome {
  int status = 0;
  std::string err;
  int64_t peak_kib = 0;
  absl::Duration time;
};

class BadModelTest : public ::testing::Test {
 protected:
  BadModelTest() : folder_(*TempFolder::Make("bad_model")) {
    fs::copy("tests/data/tiny-llama", Model());
  }

  fs::path Model() const { return folder_.path() / "model"; }
  fs::path Out() const { return folder_.path() / "out"; }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(Model() / name, std::ios::binary) << text;
  }
  void WriteHeader(const std::string& header, const std::string& data) const {
    Write("model.safetensors", Bytes(header.size()) + header + data);
  }
  void WriteIndex(const json& weight_map) const {
    fs::remove(Model() / "model.safetensors");
    Write("model.safetensors.index.json", json{{"weight_map", weight_map}}.dump());
  }
  // Header and data of the model's weights.
  std::pair<json, std::string> Weights() const {
    const std::string file = *ReadFile(Model() / "model.safetensors");
    uint64_t size = 0;
    std::copy_n(file.data(), sizeof(size), reinterpret_cast<char*>(&size));
    return {json::parse(file.substr(8, size)), file.substr(8 + size)};
  }

  // Closes `err`, which becomes the child's standard error.
  pid_t Start(const std::vector<std::string>& arguments, UniqueFd err) const {
    std::vector<std::string> words = {absl::StrCat(std::getenv("LATHE_BIN_DIR"), "/lathe-prepare")};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const pid_t pid = fork();
    if (pid != 0) return pid;
    dup2(err.get(), 2);
    dup2(open("/dev/null", O_WRONLY), 1);
    execv(argv[0], argv.data());
    _exit(127);
  }
  Outcome Run(const std::vector<std::string>& arguments) const {
    const absl::Time start = absl::Now();
    const fs::path err = folder_.path() / "stderr";
    const pid_t pid =
        Start(arguments, UniqueFd(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600)));
    Outcome outcome;
    rusage usage{};
    wait4(pid, &outcome.status, 0, &usage);
    outcome.err = *ReadFile(err);
    outcome.peak_kib = usage.ru_maxrss;
    outcome.time = absl::Now() - start;
    return outcome;
  }
  // Whether a file or folder of the test's begins with `prefix`.
  bool Exists(const std::string& prefix) const {
    return std::any_of(fs::directory_iterator(folder_.path()), fs::directory_iterator(),
                       [&](const fs::directory_entry& entry) {
                         return entry.path().filename().string().starts_with(prefix);
                       });
  }
  static bool Sleeps(pid_t pid) {
    std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
    std::string words;
    std::getline(file, words);
    return absl::StrContains(words, ") S ");
  }

  void ExpectRefused(const Outcome& outcome, const std::string& words) const {
    EXPECT_TRUE(WIFEXITED(outcome.status));
    EXPECT_EQ(WEXITSTATUS(outcome.status), 1);
    EXPECT_THAT(outcome.err, HasSubstr(words));
    // Progress may stand before it.
    const size_t begin = outcome.err.find("lathe-prepare: ");
    EXPECT_EQ(outcome.err.find('\n', begin), outcome.err.size() - 1) << outcome.err;
    EXPECT_LT(outcome.err.size(), 2500U);
    EXPECT_FALSE(fs::exists(Out()));
    EXPECT_FALSE(Exists(".import"));
    // Far above what is needed: a bound, not a measurement. Sanitizers take memory for themselves.
    EXPECT_LT(outcome.time, absl::Seconds(60));
    EXPECT_LT(outcome.peak_kib, 1 << 20);
  }
  void ExpectImportRefused(const std::string& words) const {
    ExpectRefused(Run({"import", Model().string(), "--out", Out().string()}), words);
  }

  TempFolder folder_;
};

TEST_F(BadModelTest, ConfigFieldsOutOfRange) {
  json config = json::parse(*ReadFile(Model() / "config.json"));
  config["num_hidden_layers"] = int64_t{1} << 40;
  Write("config.json", config.dump());
  ExpectImportRefused("num_hidden_layers is 1099511627776; must be in [");
}

TEST_F(BadModelTest, ConfigThatContradictsTheShapes) {
  json config = json::parse(*ReadFile(Model() / "config.json"));
  config["intermediate_size"] = 96;
  Write("config.json", config.dump());
  ExpectImportRefused("mlp.gate_proj.weight' has the shape [64, 32]; must have [96, 32]");
}

TEST_F(BadModelTest, ConfigNestedAMillionDeep) {
  Write("config.json", std::string(1'000'000, '['));
  ExpectImportRefused("nested deeper than 64");
}

TEST_F(BadModelTest, WeightsThatAreNaN) {
  auto [header, data] = Weights();
  const auto at = header["model.norm.weight"]["data_offsets"][0].get<size_t>();
  data.replace(at, 4, "\xff\xff\xff\x7f");
  WriteHeader(header.dump(), data);
  ExpectImportRefused("tensor 'model.norm.weight' has a value in rows 0 to 0 that is not finite");
}

TEST_F(BadModelTest, MissingShards) {
  WriteIndex(
      {{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}});
  ExpectImportRefused("is missing model-00001-of-00002.safetensors, model-00002-of-00002.saf");
}

TEST_F(BadModelTest, AShardNameWithAPathInIt) {
  WriteIndex({{"a", "../../etc/passwd.safetensors"}});
  ExpectImportRefused("weight_map has \"../../etc/passwd.safetensors\"; must be plain names");
}

TEST_F(BadModelTest, DuplicateTensors) {
  const std::string entry = "\"a\":" + Entry("U8", {1}, 0, 1).dump();
  WriteHeader(absl::StrCat("{", entry, ",", entry, "}"), "x");
  ExpectImportRefused("\"a\"");
}

TEST_F(BadModelTest, OverlappingTensors) {
  WriteHeader(json{{"a", Entry("F32", {2}, 0, 8)}, {"b", Entry("F32", {2}, 4, 12)}}.dump(),
              std::string(12, '\0'));
  ExpectImportRefused("tensor \"b\" starts at byte 4 of the data; must start at 8");
}

TEST_F(BadModelTest, ASafetensorsHeaderOf100000Entries) {
  json header;
  for (int i = 0; i < kNumMany; ++i) header[absl::StrCat("t", i)] = Entry("U8", {0}, 0, 0);
  WriteHeader(header.dump(), "");
  ExpectImportRefused("has 100000 tensors; at most 65536 are allowed");
}

TEST_F(BadModelTest, AnIndexOf100000Shards) {
  json map;
  for (int i = 0; i < kNumMany; ++i) {
    map[absl::StrCat("t", i)] = absl::StrCat("s", i, ".safetensors");
  }
  WriteIndex(map);
  ExpectImportRefused("names 100000 files; must be at most 4096");
}

TEST_F(BadModelTest, AnIndexWhoseShardsAreAllMissing) {
  json map;
  for (int i = 0; i < 4000; ++i) {
    map[absl::StrCat("t", i)] = absl::StrCat(std::string(200, 'x'), i, ".safetensors");
  }
  WriteIndex(map);
  ExpectImportRefused("and 3990 more, of the 4000 shards");
}

TEST_F(BadModelTest, AGgufFileThatAnnounces100000Tensors) {
  const fs::path file = folder_.path() / "many.gguf";
  std::ofstream(file, std::ios::binary)
      << "GGUF" << std::string("\3\0\0\0", 4) << Bytes(kNumMany) << Bytes(0);
  ExpectRefused(Run({"import", file.string(), "--out", Out().string()}),
                "has 100000 tensors and 0 keys; at most 65536");
}

TEST_F(BadModelTest, AnEndlessTemplate) {
  Write("chat_template.jinja",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}");
  ExpectRefused(
      Run({"preview", "examples/support-desk.jsonl", "--model", Model().string(), "--row", "0"}),
      "takes more than the 2000000 steps allowed; does a loop end?");
}

// The child's first line of progress waits for room in a pipe that is full: it has the file mapped
// and has read a part of it.
TEST_F(BadModelTest, AFileThatShrinksWhileMapped) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd reader(pipe_fds[0]);
  UniqueFd writer(pipe_fds[1]);
  fcntl(writer.get(), F_SETFL, O_NONBLOCK);
  const std::string page(4096, '.');
  while (write(writer.get(), page.data(), page.size()) > 0) continue;
  fcntl(writer.get(), F_SETFL, 0);
  const pid_t pid = Start({"import", Model().string(), "--out", Out().string()}, std::move(writer));
  while (!Exists(".import") || !Sleeps(pid)) ASSERT_EQ(waitpid(pid, nullptr, WNOHANG), 0);

  const fs::path weights = Model() / "model.safetensors";
  fs::resize_file(weights, 4096);
  std::string said;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(reader.get(), buffer, sizeof(buffer))) > 0;) {
    said.append(buffer, static_cast<size_t>(got));
  }
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) << status;
  EXPECT_THAT(said, HasSubstr(absl::StrCat("lathe-prepare: ", weights.string(),
                                           ": became shorter or cannot be read any more")));
  EXPECT_FALSE(fs::exists(Out()));
}

}  // namespace
}  // namespace lathe
