// Ranks of lathe-trainer on two network-namespace hosts.

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/spec/job_spec.h"
#include "tests/testing/network_host.h"
#include "tests/testing/subprocess.h"
#include "worker/engine/dist/communicator_gloo.h"
#include "worker/trainer/run_command.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using testing::NetworkHost;
using testing::Program;
using testing::Subprocess;

class TwoHostsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto folder = TempFolder::Make("two-hosts");
    ASSERT_TRUE(folder.ok()) << folder.status();
    folder_.emplace(*std::move(folder));
    std::ofstream rows(path("rows.jsonl"));
    for (int i = 0; i < 30; ++i) {
      rows << R"({"instruction": "say )" << i << R"(", "output": "it is )" << i * i << "\"}\n";
    }
    rows.close();
    WriteJobs();
    Run({"lathe-prepare", "import", "tests/data/tiny-llama", "--out", path("model")});
    Run({"lathe-prepare", "prepare", path("rows.jsonl"), "--model", path("model"), "--out",
         path("shards"), "--set", "validation_fraction=0"});
  }

  std::string path(const std::string& name) const { return (folder_->path() / name).string(); }

  // run.yaml is for `lathe-trainer run`, job.yaml is what that hands to its ranks.
  void WriteJobs() const {
    JobSpec spec;
    spec.model = "tests/data/tiny-llama";
    spec.dataset = path("rows.jsonl");
    spec.learning_rate = 0.01;
    spec.batch_size = 5;
    spec.validation_fraction = 0;
    spec.ranks = 2;
    std::ofstream(path("run.yaml")) << JobFileText(spec);
    const auto plan = PlanRun(spec, std::nullopt);
    ASSERT_TRUE(plan.ok()) << plan.status();
    std::ofstream(path("job.yaml")) << JobFileText(plan->spec);
  }

  static void Run(std::vector<std::string> argv) {
    argv[0] = Program(argv[0]);
    Subprocess process(argv);
    ASSERT_EQ(process.Wait(), 0) << process.output();
  }

  // Rank `rank` as a process of `host`.
  std::unique_ptr<Subprocess> StartRank(const NetworkHost& host, int rank,
                                        const BoundSocket& bound) const {
    const auto arg = [](const char* name, const auto& value) {
      return absl::StrCat("--", name, "=", value);
    };
    const std::vector<std::string> argv = {
        Program("lathe-trainer"),
        "rank",
        arg("job", path("job.yaml")),
        arg("base-model", "tests/data/tiny-llama"),
        arg("model", path("model")),
        arg("shards", path("shards")),
        arg("out", path("adapter")),
        arg("rank", rank),
        arg("world-size", 2),
        arg("host", NetworkHost::kLeft),
        arg("own-host", rank == 0 ? NetworkHost::kLeft : NetworkHost::kRight),
        arg("port", bound.port),
        arg("listen-fd", rank == 0 ? 3 : -1),
        arg("attempt", 1),
        arg("threads", 1)};
    std::unique_ptr<Subprocess> process;
    host.Run(
        [&] { process = std::make_unique<Subprocess>(argv, rank == 0 ? bound.fd.get() : -1); });
    return process;
  }

  std::string Adapter(const std::string& folder) const {
    const auto bytes = ReadFile(fs::path(path(folder)) / "adapter_model.safetensors");
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    return bytes.ok() ? *bytes : "";
  }

  std::optional<TempFolder> folder_;
};

TEST_F(TwoHostsTest, RanksTrainToTheBitsOfOneMachine) {
  const auto left = NetworkHost::Make();
  if (!left.ok()) GTEST_SKIP() << left.status().message();
  const auto right = NetworkHost::Make();
  ASSERT_TRUE(right.ok()) << right.status();
  const absl::Status connected = NetworkHost::Connect(*left, *right);
  if (!connected.ok()) GTEST_SKIP() << connected.message();
  absl::StatusOr<BoundSocket> bound;
  left->Run([&] { bound = BindSocket(NetworkHost::kLeft); });
  ASSERT_TRUE(bound.ok()) << bound.status();
  const int64_t before = right->Sent(NetworkHost::kCable).bytes;
  const auto first = StartRank(*left, 0, *bound);
  const auto second = StartRank(*right, 1, *bound);
  EXPECT_EQ(first->Wait(), 0) << first->output();
  EXPECT_EQ(second->Wait(), 0) << second->output();
  EXPECT_GT(right->Sent(NetworkHost::kCable).bytes, before + 100000) << "the ranks did not talk";
  Run({"lathe-trainer", "run", path("run.yaml"), "--threads", "1", "--out", path("alone")});
  EXPECT_TRUE(Adapter("adapter") == Adapter("alone")) << "the bits differ";
}

}  // namespace
}  // namespace lathe
