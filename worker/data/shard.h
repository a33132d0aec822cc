#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

// A shard holds tokenised rows, ready to be packed. One little-endian file, mapped by the ranks:
//   8 bytes magic "LATHESH1", u64 num_rows, u64 num_tokens, 64 bytes template sha256 (hex), u64
//   offsets[num_rows + 1] (in tokens), i64 row_numbers[num_rows], i32 ids[num_tokens], u8
//   trained[num_tokens], 64 bytes sha256 (hex) of everything before it.
// A shard may have no rows (validation_fraction 0).

namespace lathe {

// Views into the shard.
struct TokenRow {
  std::span<const int32_t> ids;
  std::span<const uint8_t> trained;  // 1: this token is a label. trained[0] is always 0.
  int64_t row = 0;                   // Number of the row in the user's file, from 0.
};

// sha256 over the row's ids (i32, little endian) and then its mask bytes. What preview and trainer
// both report.
std::string RowSha256(const TokenRow& row);

class ShardWriter {
 public:
  explicit ShardWriter(std::string template_sha256);
  // Copies the row. InvalidArgument: sizes differ, the row is empty, an id is negative, a mask byte
  // is neither 0 nor 1, or trained[0] is not 0.
  absl::Status Add(const TokenRow& row);
  size_t num_rows() const { return rows_.size(); }
  size_t num_tokens() const { return ids_.size(); }
  // Atomically. InvalidArgument: the template's sha256 is not 64 lower-case hexadecimal digits.
  absl::Status Write(const std::filesystem::path& path) const;

 private:
  std::string template_sha256_;
  std::vector<uint64_t> offsets_ = {0};
  std::vector<int64_t> rows_;
  std::vector<int32_t> ids_;
  std::vector<uint8_t> trained_;
};

// Immutable; safe from several threads. Checks the sha256 and every bound when it opens: a cut or
// changed file is DataLoss. The file stays mapped: shards are replaced by rename, never written in
// place.
class Shard {
 public:
  static absl::StatusOr<Shard> Open(const std::filesystem::path& path);
  Shard(Shard&&) noexcept;
  Shard& operator=(Shard&&) noexcept;
  ~Shard();
  size_t num_rows() const;
  TokenRow row(size_t index) const;  // REQUIRES: index < num_rows().
  const std::string& template_sha256() const;

 private:
  struct State;
  explicit Shard(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace lathe
