#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// ggml-org/ggml, docs/gguf.md, versions 2 and 3, little endian. Bounds: 65,536 tensors of at most 4
// dimensions, 65,536 metadata keys, strings of 16 MiB, lists of 2^22 values, none nested; no tensor
// overlaps another or leaves the file.

namespace lathe {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kBf16 = 30,
};

// Views are of the mapping; strings may be any bytes. Integers of all widths become int64_t, both
// floats become double (exactly), a list of bools a list of integers.
using GgufValue = std::variant<bool, int64_t, double, absl::string_view, std::vector<int64_t>,
                               std::vector<double>, std::vector<absl::string_view>>;

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;  // Outermost first, as elsewhere in Lathe; the file has it reversed.
  absl::string_view bytes;     // Whole rows of blocks.
};

// A mapped file. Immutable; safe from several threads. Views live as long as the object.
class GgufFile {
 public:
  // InvalidArgument, NotFound; Unimplemented names a version or tensor type that is not read, and
  // what is.
  static absl::StatusOr<GgufFile> Open(const std::filesystem::path& path);
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::map<std::string, GgufValue>& metadata() const;
  const std::map<std::string, GgufTensor>& tensors() const;

 private:
  struct State;
  explicit GgufFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

absl::string_view GgmlTypeName(GgmlType type);

// Rows [first_row, first_row + num_rows) as floats; a row is the innermost dimension. The bits of
// the gguf Python package's dequantize(): blocks of 32 values, 16-bit scale d (and minimum m),
//   Q8_0: d * q    Q4_0: d * (q - 8)    Q4_1: d * q + m, the low nibbles before the high ones.
// REQUIRES: the rows are within the tensor; `out` holds num_rows * shape.back() floats.
void DequantizeRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows, float* out);

// 0: the type is not read. For the reader.
struct GgmlBlock {
  int64_t num_values = 0;
  int64_t num_bytes = 0;
};
GgmlBlock GgmlBlockOf(GgmlType type);

}  // namespace lathe
