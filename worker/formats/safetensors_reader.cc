#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/mapped_file.h"
#include "common/base/status.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = uint64_t{16} << 20;
constexpr size_t kMaxTensors = 65536;
constexpr size_t kMaxDimensions = 8;
constexpr size_t kLengthBytes = 8;

struct Extent {
  TensorView tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::Status TensorError(absl::string_view name, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", ShortJson(std::string(name)), " ", what));
}

absl::StatusOr<std::vector<int64_t>> ParseShape(absl::string_view name, const json& value) {
  if (!value.is_array() || value.size() > kMaxDimensions) {
    return TensorError(
        name, absl::StrCat("has the shape ", ShortJson(value), "; must be a list of at most ",
                           kMaxDimensions, " sizes"));
  }
  std::vector<int64_t> shape;
  for (const json& size : value) {
    if (!size.is_number_unsigned() ||
        size.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return TensorError(name, absl::StrCat("has the size ", ShortJson(size),
                                            " in its shape; must be a whole number from 0"));
    }
    shape.push_back(size.get<int64_t>());
  }
  return shape;
}

// None: does not fit into 64 bits.
std::optional<uint64_t> BytesOf(const std::vector<int64_t>& shape, Dtype dtype) {
  uint64_t bytes = DtypeSize(dtype);
  for (const int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::Status ParseOffsets(const json& value, uint64_t data_size, Extent& extent) {
  const absl::string_view name = extent.tensor.name;
  if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() ||
      !value[1].is_number_unsigned()) {
    return TensorError(name, absl::StrCat("has data_offsets ", ShortJson(value),
                                          "; must be two whole numbers from 0"));
  }
  extent.begin = value[0].get<uint64_t>();
  extent.end = value[1].get<uint64_t>();
  if (extent.begin > extent.end || extent.end > data_size) {
    return TensorError(name, absl::StrCat("has data_offsets ", ShortJson(value), "; the file has ",
                                          data_size, " bytes of data"));
  }
  const std::optional<uint64_t> expected = BytesOf(extent.tensor.shape, extent.tensor.dtype);
  if (expected != extent.end - extent.begin) {
    return TensorError(
        name, absl::StrCat("has ", extent.end - extent.begin, " bytes; its shape and type need ",
                           expected ? absl::StrCat(*expected) : "more than 64 bits can count"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Extent> ParseTensor(const std::string& name, const json& value, uint64_t data_size) {
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets")) {
    return TensorError(
        name, absl::StrCat("is ", ShortJson(value), "; must have dtype, shape and data_offsets"));
  }
  Extent extent;
  extent.tensor.name = name;
  const json& dtype = value["dtype"];
  const std::optional<Dtype> known =
      dtype.is_string() ? ParseDtype(dtype.get_ref<const std::string&>()) : std::nullopt;
  if (!known) {
    return TensorError(
        name, absl::StrCat("has the type ", ShortJson(dtype), "; allowed are ", DtypeNames()));
  }
  extent.tensor.dtype = *known;
  LATHE_ASSIGN_OR_RETURN(extent.tensor.shape, ParseShape(name, value["shape"]));
  LATHE_RETURN_IF_ERROR(ParseOffsets(value["data_offsets"], data_size, extent));
  return extent;
}

absl::Status ParseMetadata(const json& value, std::map<std::string, std::string>& metadata) {
  if (!value.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("__metadata__ is ", ShortJson(value), "; must be an object of strings"));
  }
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("__metadata__ has ", ShortJson(key), ": ",
                                                     ShortJson(text), "; must be a string"));
    }
    metadata[key] = text.get<std::string>();
  }
  return absl::OkStatus();
}

// Every byte of the data belongs to exactly one tensor. Sorts.
absl::Status CheckCoverage(std::vector<Extent>& extents, uint64_t data_size) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.begin, a.end, a.tensor.name) < std::tie(b.begin, b.end, b.tensor.name);
  });
  uint64_t covered = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != covered) {
      return TensorError(extent.tensor.name, absl::StrCat("starts at byte ", extent.begin,
                                                          " of the data; must start at ", covered,
                                                          ": holes and overlaps are not allowed"));
    }
    covered = extent.end;
  }
  if (covered == data_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "has ", data_size, " bytes of data; its tensors cover ", covered, ": holes are not allowed"));
}

absl::StatusOr<absl::string_view> FindHeader(absl::string_view file) {
  if (file.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", file.size(), " bytes; a safetensors file has at least 10"));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint64_t>(static_cast<unsigned char>(file[i])) << (8 * i);
  }
  if (length > kMaxHeaderBytes || length > file.size() - kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "has a header of ", length, " bytes; allowed are ", kMaxHeaderBytes, ", and the file has ",
        file.size() - kLengthBytes, " after the length: cut, or no safetensors file"));
  }
  return file.substr(kLengthBytes, length);
}

}  // namespace

struct SafetensorsFile::State {
  explicit State(MappedFile mapped) : file(std::move(mapped)) {}
  absl::Status Parse();

  MappedFile file;
  std::vector<TensorView> tensors;
  std::map<std::string, size_t, std::less<>> index;
  std::map<std::string, std::string> metadata;
};

absl::Status SafetensorsFile::State::Parse() {
  LATHE_ASSIGN_OR_RETURN(const absl::string_view header, FindHeader(file.bytes()));
  LATHE_ASSIGN_OR_RETURN(const json root, ParseStrictObject(header, "header"));
  if (root.size() > kMaxTensors + 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", root.size(), " tensors; at most ", kMaxTensors, " are allowed"));
  }
  const absl::string_view data = file.bytes().substr(kLengthBytes + header.size());
  std::vector<Extent> extents;
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__") {
      LATHE_RETURN_IF_ERROR(ParseMetadata(value, metadata));
      continue;
    }
    LATHE_ASSIGN_OR_RETURN(Extent extent, ParseTensor(name, value, data.size()));
    extents.push_back(std::move(extent));
  }
  if (extents.size() > kMaxTensors) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", extents.size(), " tensors; at most ", kMaxTensors, " are allowed"));
  }
  LATHE_RETURN_IF_ERROR(CheckCoverage(extents, data.size()));
  for (Extent& extent : extents) {
    extent.tensor.bytes = data.substr(extent.begin, extent.end - extent.begin);
    index[extent.tensor.name] = tensors.size();
    tensors.push_back(std::move(extent.tensor));
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::filesystem::path& path) {
  LATHE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  auto state = std::make_unique<State>(std::move(file));
  LATHE_RETURN_IF_ERROR(Annotate(state->Parse(), path.string()));
  return SafetensorsFile(std::move(state));
}

SafetensorsFile::SafetensorsFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;
SafetensorsFile::~SafetensorsFile() = default;

const std::vector<TensorView>& SafetensorsFile::tensors() const { return state_->tensors; }

const TensorView* SafetensorsFile::Find(absl::string_view name) const {
  const auto found = state_->index.find(std::string(name));
  return found == state_->index.end() ? nullptr : &state_->tensors[found->second];
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return state_->metadata;
}

}  // namespace lathe
