#include "worker/formats/gguf_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "nlohmann/json.hpp"
#include "worker/formats/gguf_writer.h"
#include "worker/formats/import.h"
#include "worker/formats/merge.h"
#include "worker/formats/safetensors.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

const fs::path kData = LATHE_TEST_DATA;
constexpr size_t kLong = 20;

std::string Read(const fs::path& path) { return *ReadFile(path); }

// As tests/oracle/make_gguf_export.py describes a value.
struct Describe {
  json operator()(bool value) const { return value; }
  json operator()(int64_t value) const { return value; }
  json operator()(double value) const { return json::parse(absl::StrFormat("%.9g", value)); }
  json operator()(absl::string_view text) const {
    const std::string value(text);
    return value.size() > kLong ? Sha256Hex(value) : value;
  }
  template <typename T>
  json operator()(const std::vector<T>& values) const {
    return Sha256Hex(absl::StrJoin(values, "\n"));
  }
};

std::string LittleEndian(uint64_t value, size_t size) {
  std::string bytes(size, '\0');
  std::memcpy(bytes.data(), &value, size);
  return bytes;
}

// docs/gguf.md, gguf_metadata_value_type.
uint64_t TypeNumber(const std::string& name) {
  const std::map<std::string, uint64_t> numbers = {{"UINT32", 4}, {"INT32", 5},  {"FLOAT32", 6},
                                                   {"BOOL", 7},   {"STRING", 8}, {"ARRAY", 9}};
  return numbers.at(name);
}

class GgufExportTest : public testing::Test {
 protected:
  fs::path out() const { return folder_.path() / "model.gguf"; }

  absl::Status Export(const fs::path& base, const fs::path& adapter, GgmlType type) const {
    return ExportGguf(base, adapter, out(), {.type = type, .name = "named"}, nullptr);
  }

  // The canonical folder of a family, with the tiny Llama's tokenizer.
  fs::path Base(const std::string& family) const {
    if (family == "tiny-llama") return kData / family;
    const fs::path source = folder_.path() / absl::StrCat(family, ".source");
    fs::copy(kData / "tiny-llama", source);
    fs::remove(source / "model.safetensors");
    for (const auto& entry : fs::directory_iterator(kData / "families" / family)) {
      const std::string name = entry.path().filename();
      if (name.starts_with("model") || name.starts_with("config")) {
        fs::copy(entry.path(), source, fs::copy_options::overwrite_existing);
      }
    }
    fs::path base = folder_.path() / family;
    EXPECT_TRUE(ImportModel(source, base, nullptr).ok());
    return base;
  }

  // A copy of the tiny Llama with a changed part of tokenizer.json.
  fs::path TinyWith(const json& patch) const {
    fs::path base = folder_.path() / "changed";
    fs::remove_all(base);
    fs::copy(kData / "tiny-llama", base);
    json tokenizer = json::parse(Read(base / "tokenizer.json"));
    tokenizer.merge_patch(patch);
    EXPECT_TRUE(WriteFileAtomically(base / "tokenizer.json", tokenizer.dump()).ok());
    return base;
  }

  void ExpectRefused(const fs::path& base, const std::string& words) const {
    const absl::Status status = Export(base, "", GgmlType::kF16);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
    EXPECT_FALSE(fs::exists(out()));
  }

  TempFolder folder_ = *TempFolder::Make("gguf-export-test");
};

class GgufConverterTest : public GgufExportTest, public testing::WithParamInterface<const char*> {};

// Keys, their types and values, and every tensor's name, type, shape and bytes are those that
// llama.cpp's converter writes.
TEST_P(GgufConverterTest, WritesWhatLlamaCppsConverterWrites) {
  const json golden = json::parse(Read(kData / "goldens/gguf_export.json"));
  const fs::path base = Base(GetParam());
  for (const auto& [type, name] : {std::pair(GgmlType::kF16, "f16"), {GgmlType::kQ8_0, "q8_0"}}) {
    SCOPED_TRACE(name);
    fs::remove(out());
    ASSERT_TRUE(Export(base, "", type).ok());
    const auto file = GgufFile::Open(out());
    ASSERT_TRUE(file.ok()) << file.status();
    json expected = golden.at(absl::StrCat(GetParam(), ".", name));
    json& metadata = expected["metadata"];
    metadata["general.name"] = {{"STRING"}, "named"};
    // llama.cpp's own default for this pre-tokenizer, said aloud.
    metadata["tokenizer.ggml.add_bos_token"] = {{"BOOL"}, false};
    ASSERT_EQ(file->metadata().size(), metadata.size());
    const std::string bytes = Read(out());
    for (const auto& [key, entry] : metadata.items()) {
      const auto found = file->metadata().find(key);
      ASSERT_NE(found, file->metadata().end()) << key;
      EXPECT_EQ(std::visit(Describe(), found->second), entry[1]) << key;
      std::string start = LittleEndian(key.size(), 8) + key;
      for (const json& part : entry[0]) start += LittleEndian(TypeNumber(part), 4);
      EXPECT_NE(bytes.find(start), std::string::npos) << key << " is no " << entry[0];
    }
    ASSERT_EQ(file->tensors().size(), expected["tensors"].size());
    for (const auto& [key, tensor] : file->tensors()) {
      const json& golden_tensor = expected["tensors"][key];
      EXPECT_EQ(GgmlTypeName(tensor.type), golden_tensor[0].get<std::string>()) << key;
      EXPECT_EQ(json(tensor.shape), golden_tensor[1]) << key;
      EXPECT_EQ(Sha256Hex(tensor.bytes), golden_tensor[2]) << key;
      EXPECT_EQ((tensor.bytes.data() - file->tensors().begin()->second.bytes.data()) % 32, 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GgufConverterTest,
                         testing::Values("tiny-llama", "llama3", "mistral", "qwen2", "qwen3"));

TEST_F(GgufExportTest, ImportedAgainItIsTheMergedModelRoundedToHalf) {
  const fs::path base = kData / "tiny-llama";
  ASSERT_TRUE(Export(base, kData / "tiny-adapter", GgmlType::kF16).ok());
  const fs::path back = folder_.path() / "back";
  ASSERT_TRUE(ImportModel(out(), back, nullptr).ok());
  const fs::path merged = folder_.path() / "merged";
  ASSERT_TRUE(MergeAdapter(base, kData / "tiny-adapter", merged, {}, nullptr).ok());
  const auto exact = SafetensorsFile::Open(merged / "model.safetensors");
  const auto ours = SafetensorsFile::Open(back / "model.safetensors");
  ASSERT_TRUE(exact.ok() && ours.ok());
  ASSERT_EQ(exact->tensors().size(), ours->tensors().size());
  for (const TensorView& tensor : exact->tensors()) {
    std::string rounded(tensor.bytes);
    for (size_t at = 0; tensor.shape.size() == 2 && at < rounded.size(); at += 4) {
      float value = 0;
      std::memcpy(&value, rounded.data() + at, 4);
      value = HalfToFloat(FloatToHalf(value));
      std::memcpy(rounded.data() + at, &value, 4);
    }
    EXPECT_EQ(ours->Find(tensor.name)->bytes, rounded) << tensor.name;
  }
  const json theirs = json::parse(Read(base / "tokenizer.json"));
  const json tokenizer = json::parse(Read(back / "tokenizer.json"));
  for (const char* part : {"added_tokens", "pre_tokenizer", "normalizer"}) {
    EXPECT_EQ(tokenizer[part], theirs[part]) << part;
  }
  EXPECT_EQ(tokenizer["model"]["vocab"], theirs["model"]["vocab"]);
  EXPECT_EQ(Read(back / "chat_template.jinja"), Read(base / "chat_template.jinja"));
}

TEST_F(GgufExportTest, LlamaThreesRotaryScalingComesBack) {
  const fs::path base = folder_.path() / "scaled";
  fs::copy(kData / "tiny-llama", base);
  json config = json::parse(Read(base / "config.json"));
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}};
  ASSERT_TRUE(WriteFileAtomically(base / "config.json", config.dump()).ok());
  ASSERT_TRUE(Export(base, "", GgmlType::kF16).ok());
  const fs::path back = folder_.path() / "back";
  ASSERT_TRUE(ImportModel(out(), back, nullptr).ok());
  EXPECT_EQ(json::parse(Read(back / "config.json"))["rope_scaling"], config["rope_scaling"]);
}

TEST_F(GgufExportTest, AFamilyWithoutAFormIsRefusedWithThoseThatHaveOne) {
  ExpectRefused(Base("chatglm3"),
                "the architecture is ChatGLMModel; GGUF is written of LlamaForCausalLM, "
                "MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM");
}

TEST_F(GgufExportTest, ATokenizerThatGgufCannotSayIsRefusedByThePart) {
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}};
  ExpectRefused(TinyWith({{"pre_tokenizer", bytes}}),
                "pre_tokenizer is {\"add_prefix_space\":true");
  ExpectRefused(TinyWith({{"normalizer", {{"type", "NFC"}}}}), "normalizer is {\"type\":\"NFC\"}");
  ExpectRefused(TinyWith({{"model", {{"ignore_merges", true}}}}), "model.ignore_merges is true");
  ExpectRefused(TinyWith({{"model", {{"type", "Unigram"}}}}), "model.type is \"Unigram\"");
  ExpectRefused(TinyWith({{"model", {{"dropout", 0.5}}}}), "model.dropout is 0.5");
  ExpectRefused(TinyWith({{"post_processor", {{"type", "BertProcessing"}}}}), "BertProcessing");
  json added = json::parse(Read(kData / "tiny-llama/tokenizer.json"))["added_tokens"];
  added[1]["rstrip"] = true;
  ExpectRefused(TinyWith({{"added_tokens", added}}), "token \"<|im_start|>\" has rstrip");
}

TEST_F(GgufExportTest, PostProcessorSaysWhetherTheFirstTokenIsAdded) {
  const json start = {{"SpecialToken", {{"id", "<|im_start|>"}, {"type_id", 0}}}};
  const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json post = {{"type", "TemplateProcessing"}, {"single", {start, text}}};
  ASSERT_TRUE(Export(TinyWith({{"post_processor", post}}), "", GgmlType::kF16).ok());
  const auto file = GgufFile::Open(out());
  EXPECT_EQ(std::get<bool>(file->metadata().at("tokenizer.ggml.add_bos_token")), true);
  EXPECT_EQ(std::get<bool>(file->metadata().at("tokenizer.ggml.add_eos_token")), false);
}

TEST_F(GgufExportTest, IdsWithoutATokenAreFilledUp) {
  const fs::path base = folder_.path() / "wide";
  fs::copy(kData / "tiny-llama", base);
  json tokenizer = json::parse(Read(base / "tokenizer.json"));
  const auto last = tokenizer["model"]["merges"].size() - 1;
  std::string whole;
  for (const json& part : tokenizer["model"]["merges"][last]) whole += part;
  const auto id = tokenizer["model"]["vocab"][whole].get<size_t>();
  tokenizer["model"]["vocab"].erase(whole);
  tokenizer["model"]["merges"].erase(last);
  ASSERT_TRUE(WriteFileAtomically(base / "tokenizer.json", tokenizer.dump()).ok());
  ASSERT_TRUE(Export(base, "", GgmlType::kF16).ok());
  const auto file = GgufFile::Open(out());
  const auto& tokens =
      std::get<std::vector<absl::string_view>>(file->metadata().at("tokenizer.ggml.tokens"));
  EXPECT_EQ(tokens[id], absl::StrCat("[PAD", id, "]"));
  EXPECT_EQ(std::get<std::vector<int64_t>>(file->metadata().at("tokenizer.ggml.token_type"))[id],
            5);
}

TEST_F(GgufExportTest, NothingIsWrittenOverAndTheNameEndsInGguf) {
  ASSERT_TRUE(WriteFileAtomically(out(), "mine").ok());
  EXPECT_EQ(Export(kData / "tiny-llama", "", GgmlType::kF16).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Read(out()), "mine");
  const absl::Status status =
      ExportGguf(kData / "tiny-llama", "", folder_.path() / "model", {}, nullptr);
  EXPECT_THAT(std::string(status.message()), HasSubstr("a new file that ends in .gguf"));
}

TEST_F(GgufExportTest, AValueThatHalfCannotHoldIsRefusedAndNothingIsLeft) {
  const fs::path base = folder_.path() / "large";
  fs::copy(kData / "tiny-llama", base);
  std::string weights = Read(base / "model.safetensors");
  const auto file = SafetensorsFile::Open(kData / "tiny-llama/model.safetensors");
  const absl::string_view first = file->Find("model.layers.0.mlp.up_proj.weight")->bytes;
  const float large = 70000;
  std::memcpy(weights.data() + weights.find(std::string(first)), &large, sizeof(large));
  ASSERT_TRUE(WriteFileAtomically(base / "model.safetensors", weights).ok());
  const absl::Status status = Export(base, "", GgmlType::kF16);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("'model.layers.0.mlp.up_proj.weight', merged, has a value in row 0 that is "
                        "too large for F16"));
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    EXPECT_EQ(entry.path(), base);
  }
  EXPECT_TRUE(Export(base, "", GgmlType::kQ8_0).ok());  // Its scale is 551.
}

// A limit on the size of files, as a disk that is full, fails a write in the middle.
TEST_F(GgufExportTest, AWriteThatFailsLeavesNothing) {
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {40000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const absl::Status status = Export(kData / "tiny-llama", "", GgmlType::kF16);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST(EncodeGgmlRowTest, Q8BlocksRoundHalfAwayFromZero) {
  std::vector<float> row(32, 0.0F);
  row[0] = 127;
  row[1] = 2.5F;
  row[2] = -2.5F;
  row[3] = 2.4999998F;
  std::string bytes;
  ASSERT_TRUE(EncodeGgmlRow(GgmlType::kQ8_0, row, bytes));
  ASSERT_EQ(bytes.size(), 34U);
  EXPECT_EQ(bytes.substr(0, 6), std::string("\x00\x3C\x7F\x03\xFD\x02", 6));
}

TEST(EncodeGgmlRowTest, AScaleBelowTheSmallestHalfGivesZeros) {
  std::string bytes;
  ASSERT_TRUE(EncodeGgmlRow(GgmlType::kQ8_0, std::vector<float>(32, 1e-40F), bytes));
  EXPECT_EQ(bytes, std::string(34, '\0'));
  EXPECT_FALSE(EncodeGgmlRow(GgmlType::kQ8_0, std::vector<float>(32, 1e7F), bytes));
}

}  // namespace
}  // namespace lathe
