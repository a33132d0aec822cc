#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/pending_file.h"
#include "worker/formats/gguf.h"

// Writes GGUF version 3, little endian, data aligned to 32 (ggml-org/ggml, docs/gguf.md).

namespace lathe {

// The types that files of llama.cpp's converter have.
using GgufField = std::variant<bool, uint32_t, int32_t, float, std::string, std::vector<int32_t>,
                               std::vector<float>, std::vector<std::string>>;

struct GgufEntry {
  std::string key;
  GgufField value;
};

// What a tensor will be, before its bytes are there.
struct GgufTensorSpec {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;  // Outermost first; whole blocks in a row.
};

// A file of any size without holding it: declare metadata and tensors, append the tensors' bytes in
// that order in pieces of any size, finish. Until Finish returns OK `path` is as it was
// (PendingFile). Thread-compatible.
class GgufWriter {
 public:
  // InvalidArgument: a name twice, or a shape without whole blocks.
  static absl::StatusOr<GgufWriter> Create(const std::filesystem::path& path,
                                           const std::vector<GgufEntry>& metadata,
                                           const std::vector<GgufTensorSpec>& tensors);
  // InvalidArgument: more bytes than declared, or bytes over the end of a tensor.
  absl::Status Append(absl::string_view bytes);
  // InvalidArgument: fewer bytes than declared.
  absl::Status Finish();

 private:
  GgufWriter(PendingFile file, std::vector<uint64_t> sizes)
      : file_(std::move(file)), sizes_(std::move(sizes)) {}

  PendingFile file_;
  std::vector<uint64_t> sizes_;  // Bytes of each tensor.
  size_t tensor_ = 0;            // That is being written.
  uint64_t written_ = 0;         // Of it.
};

// `row` in blocks of `type`, which is F32, F16 or Q8_0; false where a value of it, or of its
// scale, is too large for 16 bits. The bits of llama.cpp's reference (ggml-quants.c,
// quantize_row_q8_0_ref): a block of 32 has the scale max |x| / 127 as a half, and each value is
// x / scale in 32 bits, rounded half away from zero. F16 is rounded to nearest even.
// REQUIRES: the row is whole blocks, its values finite.
bool EncodeGgmlRow(GgmlType type, const std::vector<float>& row, std::string& bytes);

}  // namespace lathe
