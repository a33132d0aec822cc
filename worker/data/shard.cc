#include "worker/data/shard.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/mapped_file.h"
#include "common/base/sha256.h"
#include "common/base/status.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "shards are mapped as they lie on disk");

constexpr absl::string_view kMagic = "LATHESH1";
constexpr size_t kHexBytes = 64;
constexpr size_t kHeaderBytes = 8 + 8 + 8 + kHexBytes;

template <class T>
void AppendArray(std::string& out, const std::vector<T>& values) {
  static_assert(std::is_trivially_copyable_v<T>);
  out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

absl::string_view BytesOf(const void* data, size_t size) {
  return {static_cast<const char*>(data), size};
}

bool IsSha256Hex(absl::string_view text) {
  return text.size() == kHexBytes && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f');
         });
}

// Bytes of a whole file, or 0 if that does not fit 64 bits.
uint64_t FileBytes(uint64_t rows, uint64_t tokens) {
  constexpr uint64_t kLimit = uint64_t{1} << 56;
  if (rows > kLimit / 16 || tokens > kLimit / 8) return 0;
  return kHeaderBytes + (rows + 1) * 8 + rows * 8 + tokens * 5 + kHexBytes;
}

absl::Status CheckRow(const TokenRow& row) {
  const std::string name = absl::StrCat("shard: row ", row.row);
  if (row.ids.empty()) return absl::InvalidArgumentError(absl::StrCat(name, " has no tokens"));
  if (row.ids.size() != row.trained.size()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has ", row.ids.size(), " ids and ",
                                                   row.trained.size(), " mask bytes"));
  }
  if (row.trained[0] != 0)
    return absl::InvalidArgumentError(absl::StrCat(name, ": the first token cannot be trained"));
  if (*std::min_element(row.ids.begin(), row.ids.end()) < 0)
    return absl::InvalidArgumentError(absl::StrCat(name, " has a negative id"));
  if (*std::max_element(row.trained.begin(), row.trained.end()) > 1)
    return absl::InvalidArgumentError(absl::StrCat(name, " has a mask byte other than 0 and 1"));
  return absl::OkStatus();
}

}  // namespace

std::string RowSha256(const TokenRow& row) {
  Sha256 hash;
  hash.Update(BytesOf(row.ids.data(), row.ids.size_bytes()));
  hash.Update(BytesOf(row.trained.data(), row.trained.size_bytes()));
  return hash.FinishHex();
}

ShardWriter::ShardWriter(std::string template_sha256)
    : template_sha256_(std::move(template_sha256)) {}

absl::Status ShardWriter::Add(const TokenRow& row) {
  LATHE_RETURN_IF_ERROR(CheckRow(row));
  ids_.insert(ids_.end(), row.ids.begin(), row.ids.end());
  trained_.insert(trained_.end(), row.trained.begin(), row.trained.end());
  rows_.push_back(row.row);
  offsets_.push_back(ids_.size());
  return absl::OkStatus();
}

absl::Status ShardWriter::Write(const fs::path& path) const {
  if (!IsSha256Hex(template_sha256_)) {
    return absl::InvalidArgumentError(absl::StrCat("shard: the template's sha256 is '",
                                                   template_sha256_,
                                                   "'; must be 64 lower-case hexadecimal digits"));
  }
  std::string bytes(kMagic);
  bytes.reserve(FileBytes(rows_.size(), ids_.size()));
  AppendArray(bytes, std::vector<uint64_t>{rows_.size(), ids_.size()});
  bytes.append(template_sha256_);
  AppendArray(bytes, offsets_);
  AppendArray(bytes, rows_);
  AppendArray(bytes, ids_);
  AppendArray(bytes, trained_);
  bytes.append(Sha256Hex(bytes));
  return WriteFileAtomically(path, bytes);
}

struct Shard::State {
  explicit State(MappedFile mapped) : file(std::move(mapped)) {}
  absl::Status Parse();
  absl::Status CheckContent() const;

  MappedFile file;
  std::string template_sha256;
  std::span<const uint64_t> offsets;
  std::span<const int64_t> rows;
  std::span<const int32_t> ids;
  std::span<const uint8_t> trained;
};

absl::Status Shard::State::Parse() {
  const char* at = file.bytes().data();
  const size_t size = file.bytes().size();
  if (size < FileBytes(0, 0)) {
    return absl::DataLossError(
        absl::StrCat("has ", size, " bytes; a shard has at least ", FileBytes(0, 0)));
  }
  if (absl::string_view(at, kMagic.size()) != kMagic)
    return absl::DataLossError(absl::StrCat("does not start with ", kMagic));
  uint64_t counts[2];
  std::memcpy(counts, at + kMagic.size(), sizeof(counts));
  const uint64_t expected = FileBytes(counts[0], counts[1]);
  if (expected != size) {
    return absl::DataLossError(absl::StrCat("announces ", counts[0], " rows and ", counts[1],
                                            " tokens; its ", size, " bytes do not fit that"));
  }
  const absl::string_view body(at, size - kHexBytes);
  if (Sha256Hex(body) != absl::string_view(at + body.size(), kHexBytes))
    return absl::DataLossError("its bytes do not match the sha256 at its end");
  template_sha256.assign(at + 24, kHexBytes);
  at += kHeaderBytes;  // A multiple of 8, and a map starts on a page: all arrays are aligned.
  offsets = {reinterpret_cast<const uint64_t*>(at), counts[0] + 1};
  at += offsets.size_bytes();
  rows = {reinterpret_cast<const int64_t*>(at), counts[0]};
  at += rows.size_bytes();
  ids = {reinterpret_cast<const int32_t*>(at), counts[1]};
  at += ids.size_bytes();
  trained = {reinterpret_cast<const uint8_t*>(at), counts[1]};
  return absl::OkStatus();
}

// A right sha256 only says that the file is what its writer wrote: it may have been a foreign one.
absl::Status Shard::State::CheckContent() const {
  if (!IsSha256Hex(template_sha256))
    return absl::DataLossError("the template's sha256 is not hexadecimal");
  if (offsets.front() != 0 || offsets.back() != ids.size())
    return absl::DataLossError("its offsets do not span its tokens");
  for (size_t i = 0; i < rows.size(); ++i) {
    if (offsets[i] >= offsets[i + 1] || offsets[i + 1] > ids.size())
      return absl::DataLossError(absl::StrCat("offset ", i + 1, " does not grow"));
    if (trained[offsets[i]] != 0)
      return absl::DataLossError(absl::StrCat("the first token of row ", i, " is trained"));
  }
  if (!std::all_of(ids.begin(), ids.end(), [](int32_t id) { return id >= 0; }))
    return absl::DataLossError("it has a negative id");
  if (!std::all_of(trained.begin(), trained.end(), [](uint8_t byte) { return byte <= 1; }))
    return absl::DataLossError("it has a mask byte other than 0 and 1");
  return absl::OkStatus();
}

absl::StatusOr<Shard> Shard::Open(const fs::path& path) {
  auto file = MappedFile::Open(path);
  if (!file.ok()) return Annotate(file.status(), "shard");
  auto state = std::make_unique<State>(*std::move(file));
  absl::Status status = state->Parse();
  if (status.ok()) status = state->CheckContent();
  if (!status.ok()) return Annotate(status, absl::StrCat("shard ", path.string()));
  return Shard(std::move(state));
}

Shard::Shard(std::unique_ptr<State> state) : state_(std::move(state)) {}
Shard::Shard(Shard&&) noexcept = default;
Shard& Shard::operator=(Shard&&) noexcept = default;
Shard::~Shard() = default;

size_t Shard::num_rows() const { return state_->rows.size(); }

TokenRow Shard::row(size_t index) const {
  const size_t begin = state_->offsets[index];
  const size_t size = state_->offsets[index + 1] - begin;
  return TokenRow{state_->ids.subspan(begin, size), state_->trained.subspan(begin, size),
                  state_->rows[index]};
}

const std::string& Shard::template_sha256() const { return state_->template_sha256; }

}  // namespace lathe
