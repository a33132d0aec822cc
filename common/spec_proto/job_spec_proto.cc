#include "common/spec_proto/job_spec_proto.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/spec/field.h"
#include "common/spec/given.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace lathe {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

struct Place {
  const Message* message;
  const FieldDescriptor* field;
};

// Finds "lora.rank" below `root`. Null field: the proto has no such field.
Place FindConst(const Message& root, absl::string_view key) {
  const Message* message = &root;
  const std::vector<std::string> parts = absl::StrSplit(key, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(parts[i]);
    if (field == nullptr) return {nullptr, nullptr};
    message = &message->GetReflection()->GetMessage(*message, field);
  }
  return {message, message->GetDescriptor()->FindFieldByName(parts.back())};
}

Message* MutableParent(Message& root, absl::string_view key) {
  Message* message = &root;
  const std::vector<std::string> parts = absl::StrSplit(key, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    message = message->GetReflection()->MutableMessage(
        message, message->GetDescriptor()->FindFieldByName(parts[i]));
  }
  return message;
}

struct Writer {
  Message* message;
  const FieldDescriptor* field;
  const Reflection* reflection = message->GetReflection();

  void operator()(const std::string& value) const { reflection->SetString(message, field, value); }
  void operator()(int64_t value) const { reflection->SetInt64(message, field, value); }
  void operator()(double value) const { reflection->SetDouble(message, field, value); }
  void operator()(bool value) const { reflection->SetBool(message, field, value); }
  void operator()(const std::vector<std::string>& values) const {
    for (const std::string& value : values) reflection->AddString(message, field, value);
  }
};

// False if the field is absent.
bool ReadValue(const Place& place, FieldValue& value) {
  const Reflection* reflection = place.message->GetReflection();
  if (place.field->is_repeated()) {
    const int size = reflection->FieldSize(*place.message, place.field);
    std::vector<std::string> items;
    for (int i = 0; i < size; ++i)
      items.push_back(reflection->GetRepeatedString(*place.message, place.field, i));
    value = std::move(items);
    return size > 0;
  }
  if (!reflection->HasField(*place.message, place.field)) return false;
  switch (place.field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      value = int64_t{reflection->GetInt64(*place.message, place.field)};
      break;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      value = reflection->GetDouble(*place.message, place.field);
      break;
    case FieldDescriptor::CPPTYPE_BOOL:
      value = reflection->GetBool(*place.message, place.field);
      break;
    default:
      value = reflection->GetString(*place.message, place.field);
      break;
  }
  return true;
}

void Write(const Field& field, const JobSpec& spec, v1::JobSpec& proto) {
  Message* parent = MutableParent(proto, field.key);
  std::visit(Writer{parent, FindConst(proto, field.key).field}, field.get(spec));
}

}  // namespace

v1::JobSpec ToProto(const JobSpec& spec) {
  v1::JobSpec proto;
  for (const Field& field : JobFields()) Write(field, spec, proto);
  return proto;
}

v1::JobSpec GivenToProto(const JobSpec& spec) {
  v1::JobSpec proto;
  for (const Field& field : JobFields()) {
    if (IsGiven(field, spec)) Write(field, spec, proto);
  }
  return proto;
}

absl::StatusOr<JobSpec> FromProto(const v1::JobSpec& proto) {
  JobSpec spec;
  for (const Field& field : JobFields()) {
    const Place place = FindConst(proto, field.key);
    if (place.field == nullptr)
      return absl::InternalError(absl::StrCat("lathe.v1.JobSpec lacks ", field.key));
    FieldValue value;
    if (!ReadValue(place, value)) continue;
    field.set(spec, value);
    spec.given.insert(std::string(field.key));
  }
  return spec;
}

}  // namespace lathe
