#include "worker/formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/mapped_file.h"
#include "common/base/status.h"

namespace lathe {
namespace {

constexpr uint64_t kMaxTensors = 65536;
constexpr uint64_t kMaxKeys = 65536;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kMaxNameBytes = 255;
constexpr uint64_t kMaxStringBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxListValues = uint64_t{1} << 22;
constexpr uint64_t kMaxAllListValues = uint64_t{1} << 24;
constexpr uint32_t kMaxDimensions = 4;

// docs/gguf.md, gguf_metadata_value_type.
enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

absl::Status Error(absl::string_view thing, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(absl::CHexEscape(thing.substr(0, 80)), ": ", what));
}

// Takes values off the front. Never reads past the end.
class Cursor {
 public:
  explicit Cursor(absl::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  absl::Status Read(T& value) {
    if (bytes_.size() - at_ < sizeof(T)) return Cut(sizeof(T));
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return absl::OkStatus();
  }

  absl::Status ReadString(uint64_t max_bytes, absl::string_view& value) {
    uint64_t size = 0;
    LATHE_RETURN_IF_ERROR(Read(size));
    if (size > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("a string has ", size, " bytes; at most ", max_bytes, " are allowed"));
    }
    if (bytes_.size() - at_ < size) return Cut(size);
    value = bytes_.substr(at_, size);
    at_ += size;
    return absl::OkStatus();
  }

  uint64_t at() const { return at_; }
  uint64_t left() const { return bytes_.size() - at_; }

 private:
  absl::Status Cut(uint64_t wanted) const {
    return absl::InvalidArgumentError(absl::StrCat("the file ends at byte ", bytes_.size(),
                                                   " where ", wanted, " more were due after ", at_,
                                                   ": cut"));
  }

  absl::string_view bytes_;
  uint64_t at_ = 0;
};

template <typename Stored, typename Result>
absl::Status ReadAs(Cursor& cursor, Result& result) {
  Stored stored{};
  LATHE_RETURN_IF_ERROR(cursor.Read(stored));
  if constexpr (std::is_same_v<Stored, uint64_t>) {
    if (stored > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return absl::InvalidArgumentError(
          absl::StrCat("has the value ", stored, "; must be below 2^63"));
    }
  }
  result = static_cast<Result>(stored);
  return absl::OkStatus();
}

absl::Status ReadInteger(Cursor& cursor, uint32_t type, int64_t& value) {
  switch (type) {
    case kUint8:
      return ReadAs<uint8_t>(cursor, value);
    case kInt8:
      return ReadAs<int8_t>(cursor, value);
    case kUint16:
      return ReadAs<uint16_t>(cursor, value);
    case kInt16:
      return ReadAs<int16_t>(cursor, value);
    case kUint32:
      return ReadAs<uint32_t>(cursor, value);
    case kInt32:
      return ReadAs<int32_t>(cursor, value);
    case kUint64:
      return ReadAs<uint64_t>(cursor, value);
    case kInt64:
      return ReadAs<int64_t>(cursor, value);
    case kBool:
      LATHE_RETURN_IF_ERROR(ReadAs<uint8_t>(cursor, value));
      if (value <= 1) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat("has the bool ", value, "; must be 0 or 1"));
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("has the value type ", type, "; must be in [0, 12]"));
  }
}

absl::Status ReadFloat(Cursor& cursor, uint32_t type, double& value) {
  return type == kFloat32 ? ReadAs<float>(cursor, value) : ReadAs<double>(cursor, value);
}

bool IsFloat(uint32_t type) { return type == kFloat32 || type == kFloat64; }

template <typename T, typename ReadOne>
absl::StatusOr<GgufValue> ReadList(uint64_t count, const ReadOne& read_one) {
  std::vector<T> values;
  for (uint64_t i = 0; i < count; ++i) {
    T value{};
    LATHE_RETURN_IF_ERROR(read_one(value));
    values.push_back(value);
  }
  return GgufValue(std::move(values));
}

// `values_left`: of all lists together; a value in memory is up to eight times as large.
absl::StatusOr<GgufValue> ReadArray(Cursor& cursor, uint64_t& values_left) {
  uint32_t type = 0;
  uint64_t count = 0;
  LATHE_RETURN_IF_ERROR(cursor.Read(type));
  LATHE_RETURN_IF_ERROR(cursor.Read(count));
  if (count > kMaxListValues) {
    return absl::InvalidArgumentError(
        absl::StrCat("has a list of ", count, " values; at most ", kMaxListValues, " are allowed"));
  }
  if (count > values_left) {
    return absl::InvalidArgumentError(absl::StrCat("has a list that makes more than the ",
                                                   kMaxAllListValues,
                                                   " values that are allowed in all lists"));
  }
  values_left -= count;
  if (type == kArray) return absl::InvalidArgumentError("has a list of lists; it must be flat");
  if (type == kString) {
    return ReadList<absl::string_view>(
        count, [&](absl::string_view& v) { return cursor.ReadString(kMaxStringBytes, v); });
  }
  if (IsFloat(type)) {
    return ReadList<double>(count, [&](double& v) { return ReadFloat(cursor, type, v); });
  }
  return ReadList<int64_t>(count, [&](int64_t& v) { return ReadInteger(cursor, type, v); });
}

absl::StatusOr<GgufValue> ReadValue(Cursor& cursor, uint64_t& values_left) {
  uint32_t type = 0;
  LATHE_RETURN_IF_ERROR(cursor.Read(type));
  if (type == kArray) return ReadArray(cursor, values_left);
  if (type == kString) {
    absl::string_view text;
    LATHE_RETURN_IF_ERROR(cursor.ReadString(kMaxStringBytes, text));
    return GgufValue(text);
  }
  if (IsFloat(type)) {
    double number = 0;
    LATHE_RETURN_IF_ERROR(ReadFloat(cursor, type, number));
    return GgufValue(number);
  }
  int64_t number = 0;
  LATHE_RETURN_IF_ERROR(ReadInteger(cursor, type, number));
  return type == kBool ? GgufValue(number != 0) : GgufValue(number);
}

struct Header {
  uint32_t version = 0;
  uint64_t num_tensors = 0;
  uint64_t num_keys = 0;
};

absl::StatusOr<Header> ReadHeader(Cursor& cursor) {
  char magic[4] = {};
  Header header;
  LATHE_RETURN_IF_ERROR(cursor.Read(magic));
  if (std::memcmp(magic, "GGUF", 4) != 0) {
    return absl::InvalidArgumentError("does not start with GGUF: no GGUF file");
  }
  LATHE_RETURN_IF_ERROR(cursor.Read(header.version));
  if (header.version != 2 && header.version != 3) {
    return absl::UnimplementedError(
        absl::StrCat("is GGUF version ", header.version, "; supported are 2 and 3, little endian"));
  }
  LATHE_RETURN_IF_ERROR(cursor.Read(header.num_tensors));
  LATHE_RETURN_IF_ERROR(cursor.Read(header.num_keys));
  if (header.num_tensors > kMaxTensors || header.num_keys > kMaxKeys) {
    return absl::InvalidArgumentError(absl::StrCat("has ", header.num_tensors, " tensors and ",
                                                   header.num_keys, " keys; at most ", kMaxTensors,
                                                   " of each are allowed"));
  }
  return header;
}

struct Located {
  GgufTensor tensor;
  uint64_t offset = 0;  // In the data.
  uint64_t num_bytes = 0;
};

absl::Status ReadShape(Cursor& cursor, GgufTensor& tensor) {
  uint32_t rank = 0;
  LATHE_RETURN_IF_ERROR(cursor.Read(rank));
  if (rank < 1 || rank > kMaxDimensions) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", rank, " dimensions; must be in [1, ", kMaxDimensions, "]"));
  }
  for (uint32_t i = 0; i < rank; ++i) {
    uint64_t size = 0;
    LATHE_RETURN_IF_ERROR(cursor.Read(size));
    if (size < 1 || size > (uint64_t{1} << 40)) {
      return absl::InvalidArgumentError(
          absl::StrCat("has the size ", size, " in its shape; must be in [1, 2^40]"));
    }
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  return absl::OkStatus();
}

absl::Status CountBytes(Located& located) {
  const GgufTensor& tensor = located.tensor;
  const GgmlBlock block = GgmlBlockOf(tensor.type);
  if (block.num_values == 0) {
    return absl::UnimplementedError(absl::StrCat("has the type ", GgmlTypeName(tensor.type), " (",
                                                 static_cast<uint32_t>(tensor.type),
                                                 "); supported are ", GgmlTypeNames()));
  }
  if (tensor.shape.back() % block.num_values != 0) {
    return absl::InvalidArgumentError(absl::StrCat("has rows of ", tensor.shape.back(), " values; ",
                                                   GgmlTypeName(tensor.type),
                                                   " needs a multiple of ", block.num_values));
  }
  int64_t bytes = tensor.shape.back() / block.num_values;
  bool overflow = __builtin_mul_overflow(bytes, block.num_bytes, &bytes);
  for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) {
    overflow = overflow || __builtin_mul_overflow(bytes, tensor.shape[i], &bytes);
  }
  if (overflow) return absl::InvalidArgumentError("has a shape that 63 bits cannot count");
  located.num_bytes = static_cast<uint64_t>(bytes);
  return absl::OkStatus();
}

absl::StatusOr<Located> ReadTensorInfo(Cursor& cursor) {
  Located located;
  absl::string_view name;
  LATHE_RETURN_IF_ERROR(cursor.ReadString(kMaxNameBytes, name));
  located.tensor.name = std::string(name);
  const auto annotate = [&](const absl::Status& status) {
    return Annotate(status, absl::StrCat("tensor '", absl::CHexEscape(name), "'"));
  };
  LATHE_RETURN_IF_ERROR(annotate(ReadShape(cursor, located.tensor)));
  LATHE_RETURN_IF_ERROR(cursor.Read(located.tensor.type));
  LATHE_RETURN_IF_ERROR(annotate(CountBytes(located)));
  LATHE_RETURN_IF_ERROR(cursor.Read(located.offset));
  return located;
}

absl::StatusOr<uint64_t> AlignmentOf(const std::map<std::string, GgufValue>& metadata) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return uint64_t{32};
  const int64_t* value = std::get_if<int64_t>(&found->second);
  if (value != nullptr && *value >= 8 && *value <= 65536 && (*value & (*value - 1)) == 0) {
    return static_cast<uint64_t>(*value);
  }
  return Error("general.alignment",
               value == nullptr
                   ? std::string("is no whole number")
                   : absl::StrCat("is ", *value, "; must be a power of 2 in [8, 65536]"));
}

// Gives each tensor its bytes. Sorts by offset.
absl::Status Locate(std::vector<Located>& all, absl::string_view data, uint64_t alignment) {
  std::sort(all.begin(), all.end(),
            [](const Located& a, const Located& b) { return a.offset < b.offset; });
  uint64_t used = 0;
  for (Located& located : all) {
    const uint64_t offset = located.offset;
    const std::string thing = absl::StrCat("tensor '", located.tensor.name, "'");
    if (offset % alignment != 0) {
      return Error(thing,
                   absl::StrCat("starts at byte ", offset, "; must be a multiple of ", alignment));
    }
    if (offset < used) return Error(thing, "overlaps another tensor");
    if (offset > data.size() || located.num_bytes > data.size() - offset) {
      return Error(thing,
                   absl::StrCat("needs bytes ", offset, " to ", offset, "+", located.num_bytes,
                                " of the data; the file has ", data.size(), ": cut"));
    }
    located.tensor.bytes = data.substr(offset, located.num_bytes);
    used = offset + located.num_bytes;
  }
  return absl::OkStatus();
}

}  // namespace

struct GgufFile::State {
  explicit State(MappedFile mapped) : file(std::move(mapped)) {}
  absl::Status Parse();
  absl::Status ReadMetadata(Cursor& cursor, uint64_t count);

  MappedFile file;
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, GgufTensor> tensors;
};

absl::Status GgufFile::State::ReadMetadata(Cursor& cursor, uint64_t count) {
  uint64_t values_left = kMaxAllListValues;
  for (uint64_t i = 0; i < count; ++i) {
    absl::string_view key;
    LATHE_RETURN_IF_ERROR(Annotate(cursor.ReadString(kMaxKeyBytes, key), "metadata key"));
    auto value = ReadValue(cursor, values_left);
    if (!value.ok()) return Annotate(value.status(), absl::CHexEscape(key.substr(0, 80)));
    if (!metadata.emplace(std::string(key), *std::move(value)).second) {
      return Error(key, "is there twice");
    }
  }
  return absl::OkStatus();
}

absl::Status GgufFile::State::Parse() {
  Cursor cursor(file.bytes());
  LATHE_ASSIGN_OR_RETURN(const Header header, ReadHeader(cursor));
  LATHE_RETURN_IF_ERROR(ReadMetadata(cursor, header.num_keys));
  std::vector<Located> all;
  for (uint64_t i = 0; i < header.num_tensors; ++i) {
    LATHE_ASSIGN_OR_RETURN(Located located, ReadTensorInfo(cursor));
    all.push_back(std::move(located));
  }
  LATHE_ASSIGN_OR_RETURN(const uint64_t alignment, AlignmentOf(metadata));
  const uint64_t begin = (cursor.at() + alignment - 1) / alignment * alignment;
  const absl::string_view data =
      begin > file.bytes().size() ? absl::string_view() : file.bytes().substr(begin);
  LATHE_RETURN_IF_ERROR(Locate(all, data, alignment));
  for (Located& located : all) {
    const std::string name = located.tensor.name;
    if (!tensors.emplace(name, std::move(located.tensor)).second) {
      return Error(absl::StrCat("tensor '", name, "'"), "is there twice");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufFile> GgufFile::Open(const std::filesystem::path& path) {
  LATHE_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  auto state = std::make_unique<State>(std::move(file));
  LATHE_RETURN_IF_ERROR(Annotate(state->Parse(), path.string()));
  return GgufFile(std::move(state));
}

GgufFile::GgufFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
GgufFile::GgufFile(GgufFile&&) noexcept = default;
GgufFile& GgufFile::operator=(GgufFile&&) noexcept = default;
GgufFile::~GgufFile() = default;

const std::map<std::string, GgufValue>& GgufFile::metadata() const { return state_->metadata; }
const std::map<std::string, GgufTensor>& GgufFile::tensors() const { return state_->tensors; }

}  // namespace lathe
