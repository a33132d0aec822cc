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
// dimensions, 65,536 metadata keys, strings of 16 MiB, lists of 2^22 values, 2^24 in all, none
// nested; no tensor overlaps another or leaves the file.

namespace lathe {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIq4Nl = 20,
  kIq4Xs = 23,
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
// The types that are read, "F32, F16, ...": for messages.
std::string GgmlTypeNames();

// Rows [first_row, first_row + num_rows) as floats; a row is the innermost dimension. The bits of
// the gguf Python package's dequantize(), layouts of ggml-common.h. Blocks of 32 values with 16-bit
// scale d (and minimum m), the low nibbles before the high ones:
//   Q8_0: d * q    Q4_0: d * (q - 8)    Q4_1, Q5_1: d * q + m    Q5_0: d * (q - 16)
//   IQ4_NL: d * table[q]
// Blocks of 256 with integer scales s (and minima n) of runs of 16 (Q2_K, Q3_K, Q6_K) or 32:
//   Q2_K, Q4_K, Q5_K: (d * s) * q - (dmin * n)    Q3_K: (d * (s - 32)) * (q - 4)
//   Q6_K: (d * s) * (q - 32)    IQ4_XS: (d * (s - 32)) * table[q]
// REQUIRES: the rows are within the tensor; `out` holds num_rows * shape.back() floats.
void DequantizeRows(const GgufTensor& tensor, int64_t first_row, int64_t num_rows, float* out);

// 0: the type is not read. For the reader.
struct GgmlBlock {
  int64_t num_values = 0;
  int64_t num_bytes = 0;
};
GgmlBlock GgmlBlockOf(GgmlType type);

}  // namespace lathe
