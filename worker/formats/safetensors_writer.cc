#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/sha256.h"
#include "common/base/status.h"
#include "worker/formats/safetensors.h"
#include "worker/formats/strict_json.h"

namespace lathe {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kLengthBytes = 8;

absl::StatusOr<uint64_t> BytesOf(const TensorSpec& tensor) {
  uint64_t bytes = DtypeSize(tensor.dtype);
  for (const int64_t size : tensor.shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", tensor.name, "' has the size ",
                                                     size, ": negative or too large"));
    }
  }
  return bytes;
}

// One member of the header; `end` moves on by the tensor's bytes.
absl::StatusOr<std::string> HeaderEntry(const TensorSpec& tensor, uint64_t& end) {
  const std::optional<std::string> name = JsonQuoted(tensor.name);
  if (!name) return absl::InvalidArgumentError("a tensor's name is not UTF-8");
  LATHE_ASSIGN_OR_RETURN(const uint64_t bytes, BytesOf(tensor));
  const uint64_t begin = end;
  if (__builtin_add_overflow(begin, bytes, &end)) {
    return absl::InvalidArgumentError("the tensors have more bytes than 64 bits can count");
  }
  return absl::StrCat(",", *name, ":{\"dtype\":\"", DtypeName(tensor.dtype), "\",\"shape\":[",
                      absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", begin, ",", end,
                      "]}");
}

// Length, JSON in the order of the tensors, and spaces up to a multiple of 64.
absl::StatusOr<std::string> MakeHeader(const std::vector<TensorSpec>& tensors, uint64_t& total) {
  std::string text = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::set<absl::string_view> names = {"__metadata__"};
  total = 0;
  for (const TensorSpec& tensor : tensors) {
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", tensor.name, "' is there twice"));
    }
    LATHE_ASSIGN_OR_RETURN(const std::string entry, HeaderEntry(tensor, total));
    absl::StrAppend(&text, entry);
  }
  text.push_back('}');
  text.append((kAlignment - (kLengthBytes + text.size()) % kAlignment) % kAlignment, ' ');
  std::string length;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length.push_back(static_cast<char>((text.size() >> (8 * i)) & 0xffU));
  }
  return length + text;
}

}  // namespace

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::filesystem::path& path, const std::vector<TensorSpec>& tensors) {
  uint64_t total = 0;
  auto header = MakeHeader(tensors, total);
  if (!header.ok()) return Annotate(header.status(), path.string());
  LATHE_ASSIGN_OR_RETURN(PendingFile file, PendingFile::Create(path));
  LATHE_RETURN_IF_ERROR(file.Append(*header));
  return SafetensorsWriter(std::move(file), total);
}

absl::Status SafetensorsWriter::Append(absl::string_view bytes) {
  if (bytes.size() > num_bytes_left_) {
    return absl::InvalidArgumentError(absl::StrCat(file_.path().string(), ": got ", bytes.size(),
                                                   " bytes; ", num_bytes_left_, " are left"));
  }
  LATHE_RETURN_IF_ERROR(file_.Append(bytes));
  num_bytes_left_ -= bytes.size();
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  if (num_bytes_left_ != 0) {
    return absl::InvalidArgumentError(absl::StrCat(file_.path().string(), ": ", num_bytes_left_,
                                                   " bytes of its tensors are missing"));
  }
  return file_.Publish();
}

namespace {

absl::StatusOr<std::vector<TensorSpec>> SpecsOf(const std::vector<TensorView>& tensors) {
  std::vector<TensorSpec> specs;
  for (const TensorView& tensor : tensors) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    LATHE_ASSIGN_OR_RETURN(const uint64_t expected, BytesOf(specs.back()));
    if (expected == tensor.bytes.size()) continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor '", tensor.name, "' has ",
                                                   tensor.bytes.size(), " bytes; its shape needs ",
                                                   expected));
  }
  return specs;
}

}  // namespace

absl::StatusOr<std::string> Sha256OfSafetensors(const std::vector<TensorView>& tensors) {
  LATHE_ASSIGN_OR_RETURN(const std::vector<TensorSpec> specs, SpecsOf(tensors));
  uint64_t total = 0;
  LATHE_ASSIGN_OR_RETURN(const std::string header, MakeHeader(specs, total));
  Sha256 hash;
  hash.Update(header);
  for (const TensorView& tensor : tensors) hash.Update(tensor.bytes);
  return hash.FinishHex();
}

absl::Status WriteSafetensors(const std::filesystem::path& path,
                              const std::vector<TensorView>& tensors) {
  auto checked = SpecsOf(tensors);
  if (!checked.ok()) return Annotate(checked.status(), path.string());
  const std::vector<TensorSpec>& specs = *checked;
  LATHE_ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, specs));
  for (const TensorView& tensor : tensors) LATHE_RETURN_IF_ERROR(writer.Append(tensor.bytes));
  return writer.Finish();
}

}  // namespace lathe
