#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cli/hub/hub_reference.h"

// What a hub says about a repository, and which of its files make a model. Pure. Source of the
// answers' form: huggingface_hub, hf_api.py, model_info and list_repo_tree.

namespace lathe::cli {

struct HubFile {
  std::string path;  // A plain file name.
  int64_t size = 0;
  // One of both: of a large file the sha256 of its bytes, of a small one git's hash of its blob.
  std::string sha256;
  std::string git_sha1;
};

// The commit of an answer to /api/models/ID/revision/REVISION. DataLoss: it is no such answer.
absl::StatusOr<std::string> CommitOf(absl::string_view json);

// The files at the top of an answer to /api/models/ID/tree/COMMIT; folders, and files whose name is
// more than a plain one, are left out. DataLoss: it is no such answer.
absl::StatusOr<std::vector<HubFile>> FilesOf(absl::string_view json);

// Those that an import reads: config, tokenizer, template and either safetensors or one GGUF file.
// Never pickled weights. NotFound: the file of the reference is not there. InvalidArgument: there
// are no weights that Lathe reads, or several GGUF files to choose from (lists them).
absl::StatusOr<std::vector<HubFile>> ModelFilesOf(const HubReference& reference,
                                                  const std::vector<HubFile>& files);

}  // namespace lathe::cli
