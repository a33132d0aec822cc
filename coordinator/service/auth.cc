#include "coordinator/service/auth.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"
#include "common/base/id.h"
#include "common/base/status.h"
#include "grpcpp/security/auth_metadata_processor.h"

namespace lathe {
namespace {

absl::StatusOr<Token> LoadOrCreate(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    LATHE_RETURN_IF_ERROR(WriteFileAtomically(path, NewToken() + "\n", 0600));
  }
  return ReadTokenFile(path);
}

class TokenProcessor final : public grpc::AuthMetadataProcessor {
 public:
  TokenProcessor(Tokens tokens, std::filesystem::path folder, Metric refused)
      : tokens_(std::move(tokens)), folder_(std::move(folder)), refused_(refused) {}

  // It only compares: no need for a thread of its own.
  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext*, OutputMetadata* consumed,
                       OutputMetadata*) override {
    const absl::string_view path = Value(metadata, ":path");
    const bool internal = absl::StartsWith(path, "/lathe.internal.");
    const absl::string_view given = Value(metadata, "authorization");
    if ((internal ? tokens_.worker : tokens_.client).Matches(given)) {
      // Handlers and logs never see it.
      consumed->emplace("authorization", std::string(given));
      return grpc::Status::OK;
    }
    refused_.Add({});
    const absl::string_view file = internal ? "worker.token" : "client.token";
    return grpc::Status(
        grpc::StatusCode::UNAUTHENTICATED,
        absl::StrCat("token: ", given.empty() ? "missing" : "wrong", "; pass --token-file ",
                     (folder_ / std::string(file)).string(), ", lathe up wrote it there"));
  }

 private:
  // Empty if it is missing or given twice.
  static absl::string_view Value(const InputMetadata& metadata, const char* key) {
    if (metadata.count(key) != 1) return {};
    const grpc::string_ref value = metadata.find(key)->second;
    return {value.data(), value.size()};
  }

  const Tokens tokens_;
  const std::filesystem::path folder_;
  const Metric refused_;
};

}  // namespace

absl::StatusOr<Tokens> LoadOrCreateTokens(const std::filesystem::path& folder) {
  Tokens tokens;
  LATHE_ASSIGN_OR_RETURN(tokens.client, LoadOrCreate(folder / "client.token"));
  LATHE_ASSIGN_OR_RETURN(tokens.worker, LoadOrCreate(folder / "worker.token"));
  LATHE_ASSIGN_OR_RETURN(tokens.metrics, LoadOrCreate(folder / "metrics.token"));
  return tokens;
}

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const Tokens& tokens,
                                                               const std::filesystem::path& folder,
                                                               Metric refused) {
  // Not InsecureServerCredentials: those take no processor. Plain clients can connect to these.
  auto credentials = grpc::experimental::LocalServerCredentials(LOCAL_TCP);
  credentials->SetAuthMetadataProcessor(std::make_shared<TokenProcessor>(tokens, folder, refused));
  return credentials;
}

}  // namespace lathe
