#include "coordinator/service/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <regex>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"
#include "tests/coordinator/service/service_fixture.h"
#include "tests/testing/http_get.h"
#include "tests/testing/listening.h"

namespace lathe::testing {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

class ServerTest : public ServiceTest {
 protected:
  ServerTest() : ServiceTest(/*metrics_port=*/0) {}

  // Any method, with an empty message; "" sends no token.
  grpc::Status CallMethod(const std::string& method, const std::string& authorization) {
    grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    grpc::CompletionQueue queue;
    const grpc::Slice empty;
    const grpc::ByteBuffer request(&empty, 1);
    grpc::ByteBuffer response;
    grpc::Status status;
    const auto call = stub.PrepareUnaryCall(&context, method, request, &queue);
    call->StartCall();
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status;
  }

  std::string ScrapeByHttp() {
    const std::vector<std::string> parts = absl::StrSplit(server_->metrics_endpoint(), ':');
    int port = 0;
    EXPECT_TRUE(absl::SimpleAtoi(parts.at(1), &port));
    const auto password = ReadTokenFile(folder_.path() / "data" / "metrics.token");
    return GetMetrics(port, absl::StrCat("lathe:", password->RevealSecret()));
  }
};

constexpr char kHealth[] = "/grpc.health.v1.Health/Check";
constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
constexpr char kList[] = "/lathe.v1.JobService/ListJobs";
constexpr char kBlob[] = "/lathe.internal.v1.AgentService/GetBlobStatus";

TEST_F(ServerTest, EveryMethodNeedsItsToken) {
  const std::string client = client_token_.AuthorizationValue();
  const std::string worker = worker_token_.AuthorizationValue();
  for (const char* method : {kHealth, kReflection, kList, kBlob, "/no.such.Service/Method"}) {
    for (const std::string& wrong : {std::string(), std::string("Bearer wrong"), client + "x"}) {
      EXPECT_EQ(CallMethod(method, wrong).error_code(), grpc::StatusCode::UNAUTHENTICATED)
          << method << " with '" << wrong << "'";
    }
  }
  EXPECT_EQ(CallMethod(kBlob, client).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(CallMethod(kList, worker).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(CallMethod(kHealth, client).ok());
  EXPECT_TRUE(CallMethod(kList, client).ok());
  EXPECT_TRUE(CallMethod(kBlob, worker).ok());
  EXPECT_NE(CallMethod(kReflection, client).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(ServerTest, ARefusalSaysWhereTheTokenIs) {
  EXPECT_THAT(CallMethod(kList, "").error_message(),
              ::testing::MatchesRegex("token: missing; pass --token-file .*/client.token, .*"));
  EXPECT_THAT(CallMethod(kBlob, "Bearer x").error_message(),
              ::testing::MatchesRegex("token: wrong; pass --token-file .*/worker.token, .*"));
}

TEST_F(ServerTest, AMessageOverFourMebibytesIsRefused) {
  v1::CreateJobRequest request;
  request.set_request_id(std::string(5 << 20, 'x'));
  v1::Job job;
  const grpc::Status status = Call(*jobs_, &v1::JobService::Stub::CreateJob, request, &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServerTest, LargeMetadataIsRefused) {
  const auto context = Context();
  context->AddMetadata("x-large", std::string(64 << 10, 'x'));
  v1::ListJobsResponse response;
  EXPECT_FALSE(jobs_->ListJobs(context.get(), v1::ListJobsRequest(), &response).ok());
  // The connection may be closed for it, and a call that is under way with it; the server lives on.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto other = v1::JobService::NewStub(grpc::CreateCustomChannel(
      server_->endpoint(), grpc::InsecureChannelCredentials(), arguments));
  const auto next = Context();
  const grpc::Status status = other->ListJobs(next.get(), v1::ListJobsRequest(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST_F(ServerTest, NothingListensOffLoopback) {
  EXPECT_FALSE(ListeningSockets(getpid()).empty());
  EXPECT_TRUE(ListeningOffLoopback(getpid()).empty());
}

TEST_F(ServerTest, OtherAddressesAPortInUseAndASecondServerAreRefused) {
  const auto start = [&](const std::string& address, int port, const std::string& folder) {
    ServerOptions options;
    options.data_dir = folder_.path() / folder;
    options.address = address;
    options.port = port;
    return Server::Start(options, clock_, [](const absl::Status&) {}).status();
  };
  EXPECT_EQ(start("0.0.0.0", 0, "other").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start("127.0.0.1", 0, "data").code(), absl::StatusCode::kFailedPrecondition);
  int port = 0;
  const std::vector<std::string> parts = absl::StrSplit(server_->endpoint(), ':');
  ASSERT_TRUE(absl::SimpleAtoi(parts.at(1), &port));
  const absl::Status in_use = start("127.0.0.1", port, "other");
  EXPECT_EQ(in_use.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(in_use.message()), HasSubstr(absl::StrCat("port ", port, " is in use")));
}

TEST_F(ServerTest, SecretsAreForTheOwnerOnlyAndStay) {
  const auto data = folder_.path() / "data";
  struct stat info {};
  for (const char* name : {"client.token", "worker.token", "metrics.token"}) {
    ASSERT_EQ(stat((data / name).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U) << name;
  }
  ASSERT_EQ(stat(data.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700U);
  const std::string before = client_token_.RevealSecret();
  server_.reset();
  EXPECT_FALSE(std::filesystem::exists(data / "endpoint"));
  StartServer();
  EXPECT_EQ(client_token_.RevealSecret(), before);
  EXPECT_EQ(*ReadFile(data / "endpoint"), server_->endpoint() + "\n");
}

std::set<std::string> Matches(const std::string& text, const std::string& pattern) {
  std::set<std::string> names;
  const std::regex regex(pattern, std::regex::multiline);
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end; ++it)
    names.insert((*it)[1]);
  return names;
}

TEST_F(ServerTest, EveryMetricIsDocumentedAndEveryDocumentedOneIsThere) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  const pb::Assignment train = agent->NextAssignment();
  agent->Evaluate(train, true, 2);
  agent->Step(train, 1);
  agent->Sync();
  const std::string scrape = ScrapeByHttp();
  const auto page = ReadFile("docs/metrics.md");
  ASSERT_TRUE(page.ok()) << page.status();
  std::set<std::string> documented = Matches(*page, R"(^\| `(\w+)`)");
  std::erase_if(documented, [](const auto& name) { return name.starts_with("lathe_worker_"); });
  EXPECT_EQ(Matches(scrape, R"(^# TYPE (\w+) )"), documented);
  for (const std::string& name : Matches(scrape, R"(^# TYPE (\w+) )")) {
    // A family without a series is a promise that nobody keeps.
    EXPECT_THAT(scrape, ::testing::ContainsRegex(absl::StrCat("\n", name, "[_{ ]"))) << name;
  }
}

TEST_F(ServerTest, ScrapedNumbersAreThoseOfTheStoredStepsAndGoWithTheJob) {
  const auto agent = Agent();
  MakeInputs(*agent);
  const v1::Job job = CreateJob("r");
  agent->Do(agent->NextAssignment());
  const pb::Assignment train = agent->NextAssignment();
  for (int step = 1; step <= 3; ++step) agent->Step(train, step);
  agent->Sync();
  int64_t trained = 0;
  v1::StepStats last;
  const auto steps = server_->store().Steps(JobId(job.id()), 0, 0, 100);
  ASSERT_EQ(steps->size(), 3U);
  for (const StepRecord& step : *steps) {
    ASSERT_TRUE(last.ParseFromString(step.payload));
    trained += last.trained_tokens();
  }
  const std::string label = absl::StrCat("{job_id=\"", job.id(), "\"");
  const std::string scrape = ScrapeByHttp();
  EXPECT_THAT(scrape, HasSubstr(absl::StrCat("lathe_job_tokens_total", label, ",kind=\"trained\"} ",
                                             trained, "\n")));
  EXPECT_THAT(scrape, HasSubstr(absl::StrCat("lathe_job_step", label, "} ", last.step(), "\n")));
  const std::string loss = absl::StrCat("lathe_job_loss", label, "} ");
  ASSERT_THAT(scrape, HasSubstr(loss));
  EXPECT_DOUBLE_EQ(std::stod(scrape.substr(scrape.find(loss) + loss.size())), last.loss());
  agent->Do(train);
  Watch(job.id());
  EXPECT_THAT(ScrapeByHttp(), Not(HasSubstr("job_id=")));
  EXPECT_THAT(ScrapeByHttp(), HasSubstr("lathe_jobs{state=\"succeeded\"} 1"));
}

TEST_F(ServerTest, CallsAreCountedByCode) {
  v1::GetJobRequest request;
  request.set_id("none");
  v1::Job job;
  Call(*jobs_, &v1::JobService::Stub::GetJob, request, &job);
  CallMethod(kList, "");
  const std::string scrape = ScrapeByHttp();
  EXPECT_THAT(scrape, ::testing::ContainsRegex(
                          "grpc_server_handled_total\\{grpc_code=\"NOT_FOUND\",grpc_method="
                          "\"GetJob\",grpc_service=\"lathe.v1.JobService\"\\} 1"));
  EXPECT_THAT(scrape, HasSubstr("lathe_calls_refused_total 1"));
}

}  // namespace
}  // namespace lathe::testing
