#include "cli/hub/hub_download.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "cli/hub/http.h"
#include "cli/hub/hub_files.h"
#include "common/base/file.h"
#include "common/base/human.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace lathe::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxAnswerBytes = size_t{4} << 20;

bool IsLoopback(absl::string_view url) {
  for (const absl::string_view host : {"http://127.0.0.1:", "http://localhost:", "http://[::1]:"}) {
    if (absl::StartsWith(url, host)) return true;
  }
  return false;
}

absl::Status CheckEndpoint(const HubOptions& options) {
  const bool http = absl::StartsWith(options.endpoint, "http://");
  if (!http && !absl::StartsWith(options.endpoint, "https://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("the hub's address is '", options.endpoint, "'; must begin with https://"));
  }
  if (http && !options.token.empty() && !IsLoopback(options.endpoint)) {
    return absl::InvalidArgumentError(absl::StrCat("the hub's address is ", options.endpoint,
                                                   "; a token is sent over https only"));
  }
  return absl::OkStatus();
}

// git hash-object: sha1 of "blob SIZE\0" and the bytes.
absl::StatusOr<std::string> GitSha1(const fs::path& file) {
  LATHE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(file));
  const std::string all = absl::StrCat("blob ", bytes.size(), absl::string_view("\0", 1), bytes);
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (EVP_Digest(all.data(), all.size(), digest.data(), &size, EVP_sha1(), nullptr) != 1) {
    return absl::InternalError("sha1: OpenSSL refuses it");
  }
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), size});
}

absl::Status CheckHash(const HubFile& file, const fs::path& path) {
  const bool large = !file.sha256.empty();
  LATHE_ASSIGN_OR_RETURN(const std::string got, large ? Sha256OfFile(path) : GitSha1(path));
  const std::string& expected = large ? file.sha256 : file.git_sha1;
  if (got == expected) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(file.path, ": its hash is ", got, "; must be ", expected));
}

class Downloader {
 public:
  Downloader(const HubReference& reference, const HubOptions& options)
      : reference_(reference),
        options_(options),
        http_({.token = options.token, .cancelled = options.cancelled}) {}

  absl::StatusOr<fs::path> Run() {
    LATHE_RETURN_IF_ERROR(CheckEndpoint(options_));
    const std::string api =
        absl::StrCat(options_.endpoint, "/api/models/", reference_.repository());
    LATHE_ASSIGN_OR_RETURN(
        const std::string info,
        Ask(absl::StrCat(api, "/revision/",
                         absl::StrReplaceAll(reference_.revision, {{"/", "%2F"}}))));
    LATHE_ASSIGN_OR_RETURN(const std::string commit, CommitOf(info));
    LATHE_ASSIGN_OR_RETURN(const std::string tree, Ask(absl::StrCat(api, "/tree/", commit)));
    LATHE_ASSIGN_OR_RETURN(const std::vector<HubFile> all, FilesOf(tree));
    LATHE_ASSIGN_OR_RETURN(const std::vector<HubFile> files, ModelFilesOf(reference_, all));
    const fs::path folder =
        options_.cache / absl::StrCat(reference_.owner, "--", reference_.name) / commit;
    LATHE_RETURN_IF_ERROR(MakeFolder(folder));
    LATHE_RETURN_IF_ERROR(CheckSpace(files, folder));
    for (const HubFile& file : files) LATHE_RETURN_IF_ERROR(Fetch(file, commit, folder));
    const bool one_gguf = files.size() == 1 && absl::EndsWith(files[0].path, ".gguf");
    return one_gguf ? folder / files[0].path : folder;
  }

 private:
  // Again after a pause while the hub is away.
  template <typename Function>
  absl::Status Try(const Function& function) const {
    absl::Duration pause = options_.first_pause;
    for (int attempt = 1;; ++attempt) {
      const absl::Status status = function();
      if (!absl::IsUnavailable(status) || attempt >= options_.max_tries) return Explain(status);
      options_.progress(absl::StrCat(status.message(), "; tries again"));
      const absl::Time until = absl::Now() + pause;
      while (absl::Now() < until && !options_.cancelled()) absl::SleepFor(absl::Milliseconds(50));
      pause *= 2;
    }
  }

  absl::Status Explain(const absl::Status& status) const {
    const std::string name = absl::StrCat("hf:", reference_.repository());
    if (absl::IsPermissionDenied(status)) {
      return absl::PermissionDeniedError(
          absl::StrCat(name, ": ", status.message(),
                       "; it is private or gated, or there is none of that name: accept its terms "
                       "on its page and set HF_TOKEN"));
    }
    return Annotate(status, name);
  }

  absl::StatusOr<std::string> Ask(const std::string& url) const {
    std::string answer;
    LATHE_RETURN_IF_ERROR(Try([&]() -> absl::Status {
      LATHE_ASSIGN_OR_RETURN(answer, http_.GetText(url, kMaxAnswerBytes));
      return absl::OkStatus();
    }));
    return answer;
  }

  static absl::Status CheckSpace(const std::vector<HubFile>& files, const fs::path& folder) {
    int64_t needed = 0;
    std::error_code error;
    for (const HubFile& file : files) {
      if (!fs::exists(folder / file.path, error)) needed += file.size;
    }
    const auto free = static_cast<int64_t>(fs::space(folder, error).available);
    if (error || needed <= free) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(
        folder.string(), ": ", HumanBytes(needed), " are needed; ", HumanBytes(free), " are free"));
  }

  absl::Status Fetch(const HubFile& file, const std::string& commit, const fs::path& folder) const {
    std::error_code error;
    if (fs::exists(folder / file.path, error)) return absl::OkStatus();
    const absl::Status status = FetchOnce(file, commit, folder);
    if (!absl::IsDataLoss(status)) return status;
    // What an earlier try left may be to blame.
    return FetchOnce(file, commit, folder);
  }

  absl::Status FetchOnce(const HubFile& file, const std::string& commit,
                         const fs::path& folder) const {
    const fs::path part = folder / (file.path + ".part");
    const std::string url = absl::StrCat(options_.endpoint, "/", reference_.repository(),
                                         "/resolve/", commit, "/", file.path);
    absl::Status status = Try([&] {
      return http_.GetRest(url, part, file.size, [&](int64_t done) {
        options_.progress(
            absl::StrCat(file.path, ": ", HumanBytes(done), " of ", HumanBytes(file.size)));
      });
    });
    if (status.ok()) status = CheckHash(file, part);
    std::error_code error;
    if (absl::IsDataLoss(status)) fs::remove(part, error);
    LATHE_RETURN_IF_ERROR(status);
    LATHE_RETURN_IF_ERROR(FsyncFile(part));
    fs::rename(part, folder / file.path, error);
    if (error) return ErrnoToStatus(error.value(), part.string());
    return FsyncFolder(folder);
  }

  const HubReference& reference_;
  const HubOptions& options_;
  const Http http_;
};

}  // namespace

absl::StatusOr<fs::path> DownloadFromHub(const HubReference& reference, const HubOptions& options) {
  return Downloader(reference, options).Run();
}

}  // namespace lathe::cli
