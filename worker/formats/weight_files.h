#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/formats/safetensors.h"

namespace lathe {

// The weights of a Hugging Face folder: model.safetensors, or else the shards that
// model.safetensors.index.json names. Immutable; views live as long as the object.
class WeightFiles {
 public:
  // NotFound names up to ten missing files. InvalidArgument: a shard's name has a path in it, a
  // tensor is in two shards or not in the one that the index says, a file is broken, there are more
  // than 65,536 tensors. Unimplemented: the folder has weights in another format.
  static absl::StatusOr<WeightFiles> Open(const std::filesystem::path& dir);
  // Whether there is anything to open. NotFound, or Unimplemented as above.
  static absl::Status Look(const std::filesystem::path& dir);

  // For messages: "model.safetensors" or "3 shards of model.safetensors.index.json".
  const std::string& label() const { return label_; }
  const TensorView* Find(const std::string& name) const;  // Null if there is none.
  const std::map<std::string, const TensorView*>& tensors() const { return tensors_; }

 private:
  absl::Status OpenShards(const std::filesystem::path& dir);
  absl::Status AddFile(const std::filesystem::path& dir, const std::string& name);

  std::string label_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const TensorView*> tensors_;
  std::map<std::string, std::string> file_of_;  // By tensor.
};

}  // namespace lathe
