#include "worker/formats/import.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/formats/import_source.h"
#include "worker/formats/safetensors.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using Progress = std::function<void(const std::string&)>;

constexpr int64_t kChunkValues = int64_t{1} << 20;

absl::StatusOr<std::unique_ptr<ModelSource>> OpenFolder(const fs::path& dir) {
  std::error_code error;
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    if (entry.path().extension() == ".gguf") found.push_back(entry.path().filename().string());
  }
  if (error) return ErrnoToStatus(error.value(), dir.string());
  if (fs::exists(dir / "config.json", error) || found.empty()) return OpenHuggingFaceSource(dir);
  if (found.size() > 1) {
    std::sort(found.begin(), found.end());
    return absl::InvalidArgumentError(absl::StrCat(dir.string(), ": has ", found.size(),
                                                   " GGUF files (", absl::StrJoin(found, ", "),
                                                   "); name the one to import"));
  }
  LATHE_ASSIGN_OR_RETURN(const fs::path file, FileInFolder(dir, found[0]));
  return OpenGgufSource(file);
}

absl::StatusOr<std::unique_ptr<ModelSource>> OpenSource(const fs::path& source) {
  std::error_code error;
  const fs::file_status status = fs::status(source, error);
  if (!fs::exists(status)) {
    return absl::NotFoundError(
        absl::StrCat(source.string(), ": is not there; must be a model folder or a .gguf file"));
  }
  if (fs::is_directory(status)) return OpenFolder(source);
  if (source.extension() == ".gguf") return OpenGgufSource(source);
  return absl::InvalidArgumentError(
      absl::StrCat(source.string(), ": is a file; must be a model folder or a .gguf file"));
}

// Says "n of m MB" at every tenth.
class Meter {
 public:
  Meter(int64_t total, const Progress& progress) : total_(total), progress_(progress) {}
  void Add(int64_t values) {
    done_ += values;
    const int64_t tenth = done_ * 10 / total_;
    if (tenth == last_tenth_) return;
    last_tenth_ = tenth;
    if (progress_)
      progress_(
          absl::StrCat("model.safetensors: ", Megabytes(done_), " of ", Megabytes(total_), " MB"));
  }

 private:
  static int64_t Megabytes(int64_t values) { return values * 4 / 1000000; }
  const int64_t total_;
  const Progress& progress_;
  int64_t done_ = 0;
  int64_t last_tenth_ = 0;
};

absl::Status WriteParameter(const ModelSource& source, size_t index, const ParameterSpec& spec,
                            std::vector<float>& buffer, SafetensorsWriter& writer, Meter& meter) {
  const int64_t width = spec.shape.back();
  const int64_t num_rows = spec.shape.size() == 1 ? 1 : spec.shape[0];
  const int64_t step = std::max<int64_t>(1, kChunkValues / width);
  for (int64_t row = 0; row < num_rows; row += step) {
    const int64_t count = std::min(step, num_rows - row);
    buffer.resize(static_cast<size_t>(count * width));
    source.ReadRows(index, row, count, buffer.data());
    if (!std::all_of(buffer.begin(), buffer.end(), [](float x) { return std::isfinite(x); })) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", spec.name,
                                                     "' has a value in rows ", row, " to ",
                                                     row + count - 1, " that is not finite"));
    }
    LATHE_RETURN_IF_ERROR(writer.Append(absl::string_view(
        reinterpret_cast<const char*>(buffer.data()), buffer.size() * sizeof(float))));
    meter.Add(count * width);
  }
  return absl::OkStatus();
}

int64_t CountValues(const std::vector<ParameterSpec>& specs) {
  int64_t total = 0;
  for (const ParameterSpec& spec : specs) {
    int64_t size = 1;
    for (const int64_t dim : spec.shape) size *= dim;
    total += size;
  }
  return total;
}

absl::Status WriteWeights(const ModelSource& source, const std::vector<ParameterSpec>& specs,
                          const fs::path& path, const Progress& progress) {
  std::vector<TensorSpec> tensors;
  for (const ParameterSpec& spec : specs) tensors.push_back({spec.name, Dtype::kF32, spec.shape});
  LATHE_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, tensors));
  Meter meter(CountValues(specs), progress);
  std::vector<float> buffer;
  for (size_t i = 0; i < specs.size(); ++i) {
    LATHE_RETURN_IF_ERROR(WriteParameter(source, i, specs[i], buffer, writer, meter));
  }
  return writer.Finish();
}

void SayWindow(const ModelConfig& config, const Progress& progress) {
  if (config.max_positions == config.position_embeddings || !progress) return;
  progress(absl::StrCat("config.json: sliding_window is ", config.sliding_window,
                        ": sequences are limited to ", config.max_positions, " of ",
                        config.position_embeddings, " tokens"));
}

}  // namespace

absl::StatusOr<ImportedModel> ImportModel(const fs::path& source_path, const fs::path& output,
                                          const Progress& progress) {
  fs::path target = fs::absolute(output).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "out/" is "out".
  LATHE_RETURN_IF_ERROR(RequireNewOrEmptyFolder(target));
  LATHE_ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, OpenSource(source_path));
  LATHE_RETURN_IF_ERROR(MakeFolder(target.parent_path()));
  LATHE_ASSIGN_OR_RETURN(TempFolder folder, TempFolder::Make(".import", target.parent_path()));
  SayWindow(source->config(), progress);
  const std::vector<ParameterSpec> specs = ParameterSpecs(source->config());
  LATHE_RETURN_IF_ERROR(
      WriteFileAtomically(folder.path() / "config.json", ModelConfigJson(source->config())));
  for (const auto& [name, bytes] : source->text_files()) {
    LATHE_RETURN_IF_ERROR(WriteFileAtomically(folder.path() / name, bytes));
  }
  LATHE_RETURN_IF_ERROR(
      WriteWeights(*source, specs, folder.path() / "model.safetensors", progress));
  LATHE_RETURN_IF_ERROR(folder.PublishAs(target));
  return ImportedModel{ModelTypeOf(source->config()), CountValues(specs)};
}

}  // namespace lathe
