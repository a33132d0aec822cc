#include "worker/formats/gguf_writer.h"

#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status.h"

namespace lathe {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;

// docs/gguf.md, gguf_metadata_value_type.
constexpr uint32_t kArray = 9;
template <typename T>
constexpr uint32_t kTypeOf = 0;
template <>
constexpr uint32_t kTypeOf<uint32_t> = 4;
template <>
constexpr uint32_t kTypeOf<int32_t> = 5;
template <>
constexpr uint32_t kTypeOf<float> = 6;
template <>
constexpr uint32_t kTypeOf<bool> = 7;
template <>
constexpr uint32_t kTypeOf<std::string> = 8;

template <typename T>
void Put(T value, std::string& out) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));  // This machine is little endian, as the file.
  out.append(bytes, sizeof(T));
}

void Put(const std::string& text, std::string& out) {
  Put(uint64_t{text.size()}, out);
  out += text;
}

template <typename T>
void PutTyped(const T& value, std::string& out) {
  Put(kTypeOf<T>, out);
  Put(value, out);
}

template <typename T>
void PutTyped(const std::vector<T>& values, std::string& out) {
  Put(kArray, out);
  Put(kTypeOf<T>, out);
  Put(uint64_t{values.size()}, out);
  for (const T& value : values) Put(value, out);
}

uint64_t PaddingOf(uint64_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

absl::StatusOr<uint64_t> BytesOf(const GgufTensorSpec& tensor) {
  const GgmlBlock block = GgmlBlockOf(tensor.type);
  uint64_t bytes = static_cast<uint64_t>(block.num_bytes);
  bool fits = block.num_values > 0 && !tensor.shape.empty();
  for (size_t i = 0; fits && i < tensor.shape.size(); ++i) {
    const bool is_row = i + 1 == tensor.shape.size();
    const int64_t count = is_row ? tensor.shape[i] / block.num_values : tensor.shape[i];
    fits = count > 0 && (!is_row || tensor.shape[i] % block.num_values == 0) &&
           !__builtin_mul_overflow(bytes, static_cast<uint64_t>(count), &bytes);
  }
  if (fits) return bytes;
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor '", tensor.name, "' of type ", GgmlTypeName(tensor.type), " has the shape [",
      absl::StrJoin(tensor.shape, ", "), "]; must be positive, with rows of whole blocks"));
}

void PutTensorInfo(const GgufTensorSpec& tensor, uint64_t offset, std::string& out) {
  Put(tensor.name, out);
  Put(static_cast<uint32_t>(tensor.shape.size()), out);
  for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) {
    Put(static_cast<uint64_t>(*size), out);
  }
  Put(static_cast<uint32_t>(tensor.type), out);
  Put(offset, out);
}

absl::Status CheckNew(std::set<std::string>& names, const std::string& name) {
  if (names.insert(name).second) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", name, "' is there twice"));
}

// Everything before the data; the sizes of the tensors go to `sizes`.
absl::StatusOr<std::string> MakeHeader(const std::vector<GgufEntry>& metadata,
                                       const std::vector<GgufTensorSpec>& tensors,
                                       std::vector<uint64_t>& sizes) {
  std::string out = "GGUF";
  Put(kVersion, out);
  Put(uint64_t{tensors.size()}, out);
  Put(uint64_t{metadata.size()}, out);
  std::set<std::string> keys;
  for (const GgufEntry& entry : metadata) {
    LATHE_RETURN_IF_ERROR(CheckNew(keys, entry.key));
    Put(entry.key, out);
    std::visit([&](const auto& value) { PutTyped(value, out); }, entry.value);
  }
  std::set<std::string> names;
  uint64_t offset = 0;
  for (const GgufTensorSpec& tensor : tensors) {
    LATHE_RETURN_IF_ERROR(CheckNew(names, tensor.name));
    LATHE_ASSIGN_OR_RETURN(const uint64_t size, BytesOf(tensor));
    PutTensorInfo(tensor, offset, out);
    sizes.push_back(size);
    offset += size + PaddingOf(size);
  }
  out.append(PaddingOf(out.size()), '\0');
  return out;
}

}  // namespace

absl::StatusOr<GgufWriter> GgufWriter::Create(const std::filesystem::path& path,
                                              const std::vector<GgufEntry>& metadata,
                                              const std::vector<GgufTensorSpec>& tensors) {
  std::vector<uint64_t> sizes;
  const absl::StatusOr<std::string> header = MakeHeader(metadata, tensors, sizes);
  if (!header.ok()) return Annotate(header.status(), path.string());
  LATHE_ASSIGN_OR_RETURN(PendingFile file, PendingFile::Create(path));
  LATHE_RETURN_IF_ERROR(file.Append(*header));
  return GgufWriter(std::move(file), std::move(sizes));
}

absl::Status GgufWriter::Append(absl::string_view bytes) {
  const uint64_t left = tensor_ < sizes_.size() ? sizes_[tensor_] - written_ : 0;
  if (bytes.size() > left) {
    return absl::InvalidArgumentError(absl::StrCat(file_.path().string(), ": got ", bytes.size(),
                                                   " bytes for tensor ", tensor_, "; ", left,
                                                   " are left"));
  }
  LATHE_RETURN_IF_ERROR(file_.Append(bytes));
  written_ += bytes.size();
  if (written_ < sizes_[tensor_]) return absl::OkStatus();
  LATHE_RETURN_IF_ERROR(file_.Append(std::string(PaddingOf(written_), '\0')));
  ++tensor_;
  written_ = 0;
  return absl::OkStatus();
}

absl::Status GgufWriter::Finish() {
  if (tensor_ == sizes_.size()) return file_.Publish();
  return absl::InvalidArgumentError(absl::StrCat(file_.path().string(), ": ", tensor_, " of ",
                                                 sizes_.size(), " tensors have their bytes"));
}

}  // namespace lathe
