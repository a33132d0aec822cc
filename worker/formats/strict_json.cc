#include "worker/formats/strict_json.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace lathe {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;

// Builds the value and refuses on the way what the finished value could not show any more. (The
// library's own callback parser takes quadratic time in the number of keys.)
class StrictBuilder : public nlohmann::json_sax<json> {
 public:
  bool null() override { return Add(json()); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t&) override { return Add(value); }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& name) override {
    key_ = std::move(name);
    if (!open_.back()->contains(key_)) return true;
    error_ = absl::StrCat("has the key ", ShortJson(key_), " twice");
    return false;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error_ = absl::StrCat("is not valid JSON in UTF-8 at byte ", position);
    return false;
  }

  const std::string& error() const { return error_; }
  json Take() { return std::move(root_); }

 private:
  json* Place(json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool Add(json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(json value) {
    if (open_.size() == kMaxDepth) {
      error_ = absl::StrCat("is nested deeper than ", kMaxDepth, " levels");
      return false;
    }
    open_.push_back(Place(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  json root_;
  std::vector<json*> open_;  // Into root_; only the last one grows, so none moves.
  std::string key_;
  std::string error_;
};

}  // namespace

absl::StatusOr<json> ParseStrictJson(absl::string_view text, absl::string_view name) {
  StrictBuilder builder;
  if (json::sax_parse(text.begin(), text.end(), &builder)) return builder.Take();
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", builder.error()));
}

absl::StatusOr<json> ParseStrictObject(absl::string_view text, absl::string_view name) {
  LATHE_ASSIGN_OR_RETURN(json value, ParseStrictJson(text, name));
  if (value.is_object()) return value;
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": is ", ShortJson(value), "; must be a JSON object"));
}

std::optional<std::string> JsonQuoted(absl::string_view text) {
  const json value(std::string(text.data(), text.size()));
  std::string quoted = value.dump(-1, ' ', false, json::error_handler_t::replace);
  // Replaced bytes do not come back.
  if (json::parse(quoted, nullptr, /*allow_exceptions=*/false) != value) return std::nullopt;
  return quoted;
}

std::string ShortJson(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 80) text = absl::StrCat(text.substr(0, 77), "...");
  return text;
}

}  // namespace lathe
