#include "worker/data/row_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status.h"
#include "worker/data/utf8.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = size_t{256} << 10;
constexpr int kEnd = -1;

bool IsJsonSpace(int c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

bool IsBlank(absl::string_view text) { return std::all_of(text.begin(), text.end(), IsJsonSpace); }

// A regular file, read once from front to end. A read error ends it and stays in status().
class ByteStream {
 public:
  absl::Status Open(const fs::path& path, size_t max_bytes);
  const absl::Status& status() const { return status_; }

  // What is buffered, at least one byte unless the file has ended.
  absl::string_view Available() {
    if (at_ == end_) Fill();
    return {buffer_.data() + at_, end_ - at_};
  }
  void Skip(size_t bytes) { at_ += bytes; }
  int Peek() {
    const absl::string_view bytes = Available();
    return bytes.empty() ? kEnd : static_cast<uint8_t>(bytes[0]);
  }
  int Get() {
    const int byte = Peek();
    if (byte != kEnd) Skip(1);
    return byte;
  }

 private:
  void Fill();

  std::string name_;
  UniqueFd fd_;
  std::vector<char> buffer_ = std::vector<char>(kBufferBytes);
  size_t at_ = 0;
  size_t end_ = 0;
  absl::Status status_;
};

absl::Status ByteStream::Open(const fs::path& path, size_t max_bytes) {
  name_ = path.string();
  // Without O_NONBLOCK, opening a pipe would wait for a writer for ever.
  fd_ = UniqueFd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd_.valid()) return ErrnoToStatus(errno, absl::StrCat(name_, ": open"));
  struct stat info {};
  if (fstat(fd_.get(), &info) != 0) return ErrnoToStatus(errno, absl::StrCat(name_, ": stat"));
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(name_, ": is not a regular file"));
  if (static_cast<size_t>(info.st_size) > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ": has ", info.st_size, " bytes; at most ", max_bytes, " are allowed"));
  }
  Fill();
  return status_;
}

void ByteStream::Fill() {
  at_ = end_ = 0;
  while (status_.ok()) {
    const ssize_t got = read(fd_.get(), buffer_.data(), buffer_.size());
    if (got >= 0) {
      end_ = static_cast<size_t>(got);
      return;
    }
    if (errno != EINTR) status_ = ErrnoToStatus(errno, absl::StrCat(name_, ": read"));
  }
}

// Looks at the first bytes: what surely is neither JSON nor JSONL in UTF-8.
absl::Status CheckEncoding(absl::string_view head, absl::string_view name) {
  const struct {
    absl::string_view magic, what;
  } foreign[] = {{"\xFF\xFE", "UTF-16 text"},
                 {"\xFE\xFF", "UTF-16 text"},
                 {"\x1F\x8B", "a gzip file"},
                 {"PK\x03\x04", "a zip file or spreadsheet"},
                 {"PAR1", "a Parquet file"}};
  for (const auto& kind : foreign) {
    if (absl::StartsWith(head, kind.magic)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": is ", kind.what, "; must be JSON or JSONL in UTF-8"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

struct RowReader::State {
  absl::Status Start(const fs::path& path, absl::string_view format);
  bool NextLine(RawRow& row);
  bool NextElement(RawRow& row);
  int ScanElement(RawRow& row);
  bool Break(RawRow& row, std::string reason);
  void RefuseSize(RawRow& row) const;

  RowLimits limits;
  std::string name;
  ByteStream bytes;
  bool is_list = false;
  bool ended = false;
  int64_t lines = 0;  // Lines read so far.
  int64_t rows = 0;
};

absl::Status RowReader::State::Start(const fs::path& path, absl::string_view format) {
  name = path.string();
  if (format != "" && format != "json" && format != "jsonl") {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": format is ", Quoted(format), "; must be json or jsonl"));
  }
  LATHE_RETURN_IF_ERROR(bytes.Open(path, limits.max_file_bytes));
  LATHE_RETURN_IF_ERROR(CheckEncoding(bytes.Available(), name));
  if (absl::StartsWith(bytes.Available(), "\xEF\xBB\xBF")) bytes.Skip(3);
  while (IsJsonSpace(bytes.Peek())) lines += bytes.Get() == '\n' ? 1 : 0;
  const int first = bytes.Peek();
  is_list = format != "jsonl" && first == '[';
  if (format == "json" && !is_list && first != kEnd) {
    const char character = static_cast<char>(first);
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": format is json, but the file begins with ",
        Quoted(absl::string_view(&character, 1)), "; must be a list of objects: [{...}, ...]"));
  }
  if (is_list) bytes.Skip(1);
  return bytes.status();
}

void RowReader::State::RefuseSize(RawRow& row) const {
  row.text.clear();
  row.fault = {ProblemCode::kRowTooLarge,
               absl::StrCat("has more than ", limits.max_row_bytes, " bytes")};
}

bool RowReader::State::NextLine(RawRow& row) {
  while (bytes.Peek() != kEnd) {
    row.text.clear();
    bool too_long = false;
    bool line_ends = false;
    while (!line_ends) {
      const absl::string_view available = bytes.Available();
      if (available.empty()) break;
      const size_t newline = available.find('\n');
      line_ends = newline != absl::string_view::npos;
      const absl::string_view part = available.substr(0, newline);
      too_long = too_long || row.text.size() + part.size() > limits.max_row_bytes;
      if (!too_long) row.text.append(part.data(), part.size());
      bytes.Skip(part.size() + (line_ends ? 1 : 0));
    }
    row.line = ++lines;
    if (too_long) RefuseSize(row);
    if (too_long || !IsBlank(row.text)) return true;
  }
  return false;
}

bool RowReader::State::Break(RawRow& row, std::string reason) {
  ended = true;
  row.text.clear();
  row.fault = {ProblemCode::kBrokenList, std::move(reason)};
  return true;
}

// Appends up to the comma or bracket that ends the element and returns that byte, or kEnd.
int RowReader::State::ScanElement(RawRow& row) {
  bool in_string = false;
  bool escaped = false;
  int64_t depth = 0;
  for (int c = bytes.Peek(); c != kEnd; c = bytes.Peek()) {
    if (in_string) {
      if (!escaped && c == '"') in_string = false;
      escaped = !escaped && c == '\\';
    } else {
      if (depth == 0 && (c == ',' || c == ']')) return c;
      if (c == '"') in_string = true;
      if (c == '{' || c == '[') ++depth;
      // A bracket too many is the JSON parser's to name.
      if ((c == '}' || c == ']') && depth > 0) --depth;
    }
    if (row.text.size() <= limits.max_row_bytes) row.text.push_back(static_cast<char>(c));
    bytes.Skip(1);
  }
  return kEnd;
}

bool RowReader::State::NextElement(RawRow& row) {
  row.text.clear();
  row.line = rows + 1;
  if (ended) return false;
  while (IsJsonSpace(bytes.Peek())) bytes.Skip(1);
  if (rows == 0 && bytes.Peek() == ']') {
    ended = true;
    return false;
  }
  const int end = ScanElement(row);
  if (end == kEnd) return Break(row, "the file ends inside the list; nothing after it can be read");
  bytes.Skip(1);
  if (row.text.size() > limits.max_row_bytes) RefuseSize(row);
  if (end == ']') {
    ended = true;
    while (IsJsonSpace(bytes.Peek())) bytes.Skip(1);
    // The row itself is then refused too, but so is the file: which part is meant is unknown.
    if (bytes.Peek() != kEnd) return Break(row, "there is text after the end of the list");
  }
  return true;
}

absl::StatusOr<RowReader> RowReader::Open(const fs::path& path, absl::string_view format,
                                          const RowLimits& limits) {
  auto state = std::make_unique<State>();
  state->limits = limits;
  LATHE_RETURN_IF_ERROR(state->Start(path, format));
  return RowReader(std::move(state));
}

absl::StatusOr<bool> RowReader::Next(RawRow& row) {
  row.fault.reset();
  const bool more = state_->is_list ? state_->NextElement(row) : state_->NextLine(row);
  LATHE_RETURN_IF_ERROR(state_->bytes.status());
  if (!more) return false;
  row.row = state_->rows++;
  if (row.row >= state_->limits.max_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat(state_->name, ": has more than ", state_->limits.max_rows, " rows"));
  }
  return true;
}

RowReader::RowReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
RowReader::RowReader(RowReader&&) noexcept = default;
RowReader& RowReader::operator=(RowReader&&) noexcept = default;
RowReader::~RowReader() = default;

}  // namespace lathe
