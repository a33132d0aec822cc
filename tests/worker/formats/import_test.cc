#include "worker/formats/import.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/file.h"
#include "common/base/sha256.h"
#include "nlohmann/json.hpp"
#include "tests/worker/formats/gguf_bytes.h"
#include "worker/formats/model_config.h"
#include "worker/formats/safetensors.h"

namespace lathe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const fs::path kTinyFolder = LATHE_TEST_DATA "/tiny-llama";
const fs::path kTinyGguf = LATHE_TEST_DATA "/gguf/tiny.gguf";
constexpr int64_t kTinyParameters = 30880;

std::string Read(const fs::path& path) { return *ReadFile(path); }

class ImportTest : public testing::Test {
 protected:
  ImportTest() : temp_(*TempFolder::Make("import_test")) {}

  fs::path Output() const { return temp_.path() / "out"; }
  absl::Status Import(const fs::path& source) {
    return ImportModel(source, Output(), nullptr).status();
  }
  // A copy of the tiny folder that a test may break.
  fs::path Folder() {
    const fs::path folder = temp_.path() / "source";
    fs::remove_all(folder);
    fs::copy(kTinyFolder, folder);
    return folder;
  }
  fs::path Write(const fs::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }
  // The tiny GGUF with one byte string put for another of the same length.
  fs::path Gguf(const std::string& from, const std::string& to) {
    std::string bytes = Read(kTinyGguf);
    const size_t at = bytes.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    EXPECT_EQ(from.size(), to.size());
    return Write(temp_.path() / "x.gguf", bytes.replace(at, from.size(), to));
  }
  // Refused with `words`, and nothing is left.
  void ExpectRefused(const fs::path& source, const std::string& words, absl::StatusCode code) {
    const absl::Status status = Import(source);
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), words)) << status;
    EXPECT_FALSE(fs::exists(Output()));
    for (const auto& entry : fs::directory_iterator(temp_.path())) {
      EXPECT_FALSE(absl::StartsWith(entry.path().filename().string(), ".import")) << entry;
    }
  }

  TempFolder temp_;
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

TEST_F(ImportTest, AGgufGivesTheReferencesBitsUnderTheReferencesNames) {
  std::vector<std::string> lines;
  const auto model =
      ImportModel(kTinyGguf, Output(), [&](const std::string& line) { lines.push_back(line); });
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->architecture, "llama");
  EXPECT_EQ(model->parameters, kTinyParameters);
  EXPECT_FALSE(lines.empty());
  const json expected = json::parse(Read(LATHE_TEST_DATA "/gguf/tiny.json"));
  const auto file = SafetensorsFile::Open(Output() / "model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), expected.size());
  for (const TensorView& tensor : file->tensors()) {
    EXPECT_EQ(Sha256Hex(tensor.bytes), expected.at(tensor.name).at("sha256")) << tensor.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % 64, 0U) << tensor.name;
  }
}

TEST_F(ImportTest, AGgufGivesTheTokenizerAndTemplateOfItsSource) {
  ASSERT_TRUE(Import(kTinyGguf).ok());
  const json ours = json::parse(Read(Output() / "tokenizer.json"));
  const json theirs = json::parse(Read(kTinyFolder / "tokenizer.json"));
  EXPECT_EQ(ours["model"]["vocab"], theirs["model"]["vocab"]);
  EXPECT_EQ(ours["added_tokens"], theirs["added_tokens"]);
  EXPECT_EQ(ours["pre_tokenizer"], theirs["pre_tokenizer"]);
  EXPECT_EQ(ours["model"]["merges"].size(), theirs["model"]["merges"].size());
  const std::string chat_template = Read(kTinyFolder / "chat_template.jinja");
  EXPECT_EQ(Read(Output() / "chat_template.jinja"), chat_template);
  const json config = json::parse(Read(Output() / "tokenizer_config.json"));
  EXPECT_EQ(config["chat_template"], chat_template);
  EXPECT_EQ(config["eos_token"], "<|im_end|>");
  EXPECT_EQ(config["bos_token"], "<|im_start|>");
  EXPECT_EQ(config["pad_token"], "<|im_end|>");
  EXPECT_EQ(json::parse(Read(Output() / "generation_config.json")),
            json::parse(Read(kTinyFolder / "generation_config.json")));
}

TEST_F(ImportTest, AGgufGivesTheConfigOfItsSource) {
  ASSERT_TRUE(Import(kTinyGguf).ok());
  auto ours = LoadModelConfig(Output());
  ASSERT_TRUE(ours.ok()) << ours.status();
  EXPECT_EQ(ours->rms_norm_eps, 9.999999747378752e-06);  // A 32-bit float in the file.
  ours->rms_norm_eps = 1e-5;
  EXPECT_EQ(ModelConfigJson(*ours), ModelConfigJson(*LoadModelConfig(kTinyFolder)));
}

TEST_F(ImportTest, TheSameSourceGivesTheSameBytes) {
  for (const fs::path& source : {kTinyGguf, kTinyFolder}) {
    std::map<std::string, std::string> first;
    for (int round = 0; round < 2; ++round) {
      ASSERT_TRUE(Import(source).ok());
      std::map<std::string, std::string> files;
      for (const auto& entry : fs::directory_iterator(Output())) {
        files[entry.path().filename().string()] = Read(entry.path());
      }
      EXPECT_EQ(files.size(), 7U);
      if (round == 1) {
        EXPECT_EQ(files, first);
      }
      first = files;
      fs::remove_all(Output());
    }
  }
}

TEST_F(ImportTest, ImportingAnImportedFolderChangesNothing) {
  ASSERT_TRUE(Import(kTinyGguf).ok());
  const fs::path again = temp_.path() / "again";
  ASSERT_TRUE(ImportModel(Output(), again, nullptr).ok());
  for (const auto& entry : fs::directory_iterator(Output())) {
    EXPECT_EQ(Read(entry.path()), Read(again / entry.path().filename())) << entry;
  }
}

TEST_F(ImportTest, AFolderWithOneGgufIsThatGguf) {
  const fs::path folder = temp_.path() / "folder";
  fs::create_directory(folder);
  fs::copy(kTinyGguf, folder / "a.gguf");
  EXPECT_TRUE(Import(folder).ok());
  fs::remove_all(Output());
  fs::copy(kTinyGguf, folder / "b.gguf");
  ExpectRefused(folder, "2 GGUF files (a.gguf, b.gguf)", kInvalid);
}

TEST_F(ImportTest, AFolderKeepsEveryBitOfItsFloatsAndItsTokenizerFile) {
  const auto model = ImportModel(kTinyFolder, Output(), nullptr);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->parameters, kTinyParameters);
  EXPECT_EQ(Read(Output() / "tokenizer.json"), Read(kTinyFolder / "tokenizer.json"));
  const auto source = SafetensorsFile::Open(kTinyFolder / "model.safetensors");
  const auto made = SafetensorsFile::Open(Output() / "model.safetensors");
  EXPECT_EQ(made->tensors().size(), source->tensors().size());
  for (const TensorView& tensor : source->tensors()) {
    ASSERT_NE(made->Find(tensor.name), nullptr) << tensor.name;
    EXPECT_EQ(made->Find(tensor.name)->bytes, tensor.bytes) << tensor.name;
  }
}

TEST_F(ImportTest, SixteenBitWeightsBecomeTheSameThirtyTwoBitFloats) {
  const fs::path folder = Folder();
  const auto source = SafetensorsFile::Open(kTinyFolder / "model.safetensors");
  std::vector<std::string> halves;
  std::vector<TensorView> tensors = source->tensors();
  for (TensorView& tensor : tensors) {  // BF16 is the upper half of a float.
    std::string bytes;
    for (size_t i = 0; i < tensor.bytes.size(); i += 4)
      bytes.append(tensor.bytes.data() + i + 2, 2);
    halves.push_back(bytes);
    tensor.dtype = Dtype::kBf16;
  }
  for (size_t i = 0; i < tensors.size(); ++i) tensors[i].bytes = halves[i];
  ASSERT_TRUE(WriteSafetensors(folder / "model.safetensors", tensors).ok());
  ASSERT_TRUE(Import(folder).ok());
  const auto made = SafetensorsFile::Open(Output() / "model.safetensors");
  for (const TensorView& tensor : source->tensors()) {
    const TensorView* other = made->Find(tensor.name);
    ASSERT_EQ(other->dtype, Dtype::kF32);
    for (size_t i = 0; i < tensor.bytes.size(); i += 4) {
      ASSERT_EQ(other->bytes.substr(i, 2), absl::string_view("\0\0", 2));
      ASSERT_EQ(other->bytes.substr(i + 2, 2), tensor.bytes.substr(i + 2, 2));
    }
  }
}

TEST_F(ImportTest, NamesEveryMissingFile) {
  const fs::path folder = Folder();
  fs::remove(folder / "tokenizer.json");
  fs::remove(folder / "model.safetensors");
  ExpectRefused(folder, "is missing tokenizer.json, model.safetensors",
                absl::StatusCode::kNotFound);
  ExpectRefused(temp_.path() / "no", "is not there", absl::StatusCode::kNotFound);
}

TEST_F(ImportTest, RefusesPickleByName) {
  const fs::path folder = Folder();
  fs::remove(folder / "model.safetensors");
  Write(folder / "pytorch_model.bin", "x");
  ExpectRefused(folder, "pytorch_model.bin; supported are model.safetensors and the shards",
                kUnimplemented);
}

// The tiny model with its tensors dealt out to shards, and an index that says so.
class ShardTest : public ImportTest {
 protected:
  ShardTest() : source_(*SafetensorsFile::Open(kTinyFolder / "model.safetensors")) {
    for (const TensorView& tensor : source_.tensors()) {
      const char* shard = shards_.size() % 2 == 0 ? kFirst : kSecond;
      shards_[tensor.name] = shard;
      index_[tensor.name] = shard;
    }
  }

  fs::path WriteFolder() {
    const fs::path folder = Folder();
    fs::remove(folder / "model.safetensors");
    for (const char* shard : {kFirst, kSecond}) {
      std::vector<TensorView> part;
      for (const TensorView& tensor : source_.tensors()) {
        if (shards_[tensor.name] == shard) part.push_back(tensor);
      }
      EXPECT_TRUE(WriteSafetensors(folder / shard, part).ok());
    }
    Write(folder / "model.safetensors.index.json", json{{"weight_map", index_}}.dump());
    return folder;
  }

  static constexpr const char* kFirst = "model-00001-of-00002.safetensors";
  static constexpr const char* kSecond = "model-00002-of-00002.safetensors";
  const SafetensorsFile source_;
  std::map<std::string, std::string> shards_;
  json index_ = json::object();
};

TEST_F(ShardTest, ShardsGiveTheBytesOfOneFile) {
  ASSERT_TRUE(Import(WriteFolder()).ok());
  const std::string sharded = Read(Output() / "model.safetensors");
  fs::remove_all(Output());
  ASSERT_TRUE(Import(kTinyFolder).ok());
  EXPECT_EQ(sharded, Read(Output() / "model.safetensors"));
}

TEST_F(ShardTest, AMissingShardIsNamed) {
  const fs::path folder = WriteFolder();
  fs::remove(folder / kSecond);
  ExpectRefused(folder, absl::StrCat("is missing ", kSecond, ", of the 2 shards"),
                absl::StatusCode::kNotFound);
}

TEST_F(ShardTest, AShardNameWithAPathIsRefused) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""}) {
    index_["model.norm.weight"] = name;
    ExpectRefused(WriteFolder(), "must be plain names of .safetensors files", kInvalid);
  }
  index_["model.norm.weight"] = 7;
  ExpectRefused(WriteFolder(), "weight_map has 7", kInvalid);
}

TEST_F(ShardTest, ATensorInTwoShardsIsRefused) {
  const fs::path folder = WriteFolder();
  ASSERT_TRUE(WriteSafetensors(folder / kSecond, source_.tensors()).ok());
  ExpectRefused(folder, absl::StrCat(" is in ", kFirst, " and in ", kSecond), kInvalid);
}

TEST_F(ShardTest, AnIndexThatContradictsItsShardsIsRefused) {
  index_["model.norm.weight"] = shards_["model.norm.weight"] == kFirst ? kSecond : kFirst;
  ExpectRefused(WriteFolder(), "\"model.norm.weight\" is in model-0000", kInvalid);
  index_ = json::object({{"model.no.weight", kFirst}});
  ExpectRefused(WriteFolder(), "which has none of that name", kInvalid);
  index_ = json::array();
  ExpectRefused(WriteFolder(), "weight_map is []", kInvalid);
}

TEST_F(ShardTest, ALinkOutOfTheFolderIsRefused) {
  const fs::path folder = WriteFolder();
  fs::rename(folder / kFirst, temp_.path() / "elsewhere");
  fs::create_symlink(temp_.path() / "elsewhere", folder / kFirst);
  ExpectRefused(folder, "symbolic link out of its folder", kInvalid);
}

TEST_F(ImportTest, NamesTheTensorThatIsMissingExtraOrOfAnotherShape) {
  const fs::path folder = Folder();
  const auto source = SafetensorsFile::Open(kTinyFolder / "model.safetensors");
  std::vector<TensorView> tensors = source->tensors();
  const TensorView last = tensors.back();
  tensors.pop_back();
  ASSERT_TRUE(WriteSafetensors(folder / "model.safetensors", tensors).ok());
  ExpectRefused(folder, absl::StrCat("tensor '", last.name, "' is missing"), kInvalid);
  tensors.push_back(last);
  tensors.back().shape.insert(tensors.back().shape.begin(), 1);
  ASSERT_TRUE(WriteSafetensors(folder / "model.safetensors", tensors).ok());
  ExpectRefused(folder, absl::StrCat("tensor '", last.name, "' has the shape [1, "), kInvalid);
  tensors.back() = last;
  tensors.push_back({"model.layers.0.extra", Dtype::kU8, {1}, "x"});
  ASSERT_TRUE(WriteSafetensors(folder / "model.safetensors", tensors).ok());
  ExpectRefused(folder, "\"model.layers.0.extra\" is there", kInvalid);
  tensors.back().name = "model.layers.0.self_attn.rotary_emb.inv_freq";
  ASSERT_TRUE(WriteSafetensors(folder / "model.safetensors", tensors).ok());
  EXPECT_TRUE(Import(folder).ok());
}

TEST_F(ImportTest, RefusesWeightsThatAreNotFinite) {
  const fs::path folder = Folder();
  std::string bytes = Read(folder / "model.safetensors");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + bytes.size() - 4, &nan, 4);
  Write(folder / "model.safetensors", bytes);
  ExpectRefused(folder, "is not finite", kInvalid);
}

TEST_F(ImportTest, RefusesCutFiles) {
  const fs::path folder = Folder();
  const std::string weights = Read(folder / "model.safetensors");
  Write(folder / "model.safetensors", weights.substr(0, weights.size() / 2));
  ExpectRefused(folder, "model.safetensors", kInvalid);
  const std::string gguf = Read(kTinyGguf);
  ExpectRefused(Write(temp_.path() / "x.gguf", gguf.substr(0, gguf.size() - 1)), "cut", kInvalid);
}

TEST_F(ImportTest, RefusesLinksOutOfTheFolder) {
  const fs::path folder = Folder();
  fs::remove(folder / "tokenizer.json");
  fs::create_symlink(kTinyFolder / "tokenizer.json", folder / "tokenizer.json");
  ExpectRefused(folder, "symbolic link out of its folder", kInvalid);
  fs::remove(folder / "tokenizer.json");
  fs::copy(kTinyFolder / "tokenizer.json", folder / "real.json");
  fs::create_symlink("real.json", folder / "tokenizer.json");
  EXPECT_TRUE(Import(folder).ok());
}

TEST_F(ImportTest, RefusesAFolderWithoutAChatTemplate) {
  const fs::path folder = Folder();
  fs::remove(folder / "chat_template.jinja");
  EXPECT_TRUE(Import(folder).ok());  // tokenizer_config.json has it too.
  EXPECT_EQ(Read(Output() / "chat_template.jinja"), Read(kTinyFolder / "chat_template.jinja"));
  fs::remove_all(Output());
  json config = json::parse(Read(folder / "tokenizer_config.json"));
  config.erase("chat_template");
  Write(folder / "tokenizer_config.json", config.dump());
  ExpectRefused(folder, "has no chat template", kInvalid);
}

TEST_F(ImportTest, RefusesJsonThatIsBroken) {
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json",
                           "generation_config.json", "special_tokens_map.json"}) {
    const fs::path folder = Folder();
    Write(folder / name, "{\"a\": ");
    ExpectRefused(folder, "not valid JSON", kInvalid);
  }
}

TEST_F(ImportTest, MakesTokenizerJsonFromASentencePieceFile) {
  const fs::path folder = Folder();
  fs::remove(folder / "tokenizer.json");
  fs::copy(fs::path(LATHE_TEST_DATA) / "sentencepiece" / "bpe.model", folder / "tokenizer.model");
  json config = json::parse(Read(folder / "tokenizer_config.json"));
  config["tokenizer_class"] = "LlamaTokenizer";
  config["add_prefix_space"] = true;
  Write(folder / "tokenizer_config.json", config.dump());
  ASSERT_TRUE(Import(folder).ok());
  const json tokenizer = json::parse(Read(Output() / "tokenizer.json"));
  EXPECT_EQ(tokenizer["model"]["type"], "BPE");
  EXPECT_EQ(tokenizer["pre_tokenizer"]["prepend_scheme"], "first");
  fs::remove_all(Output());

  config["tokenizer_class"] = "XLNetTokenizer";
  Write(folder / "tokenizer_config.json", config.dump());
  ExpectRefused(folder, "\"XLNetTokenizer\"; supported are ChatGLMTokenizer", kUnimplemented);
  config["tokenizer_class"] = 7;
  Write(folder / "tokenizer_config.json", config.dump());
  ExpectRefused(folder, "tokenizer_class is 7", kInvalid);
  Write(folder / "tokenizer.model", "no protobuf");
  config["tokenizer_class"] = "LlamaTokenizer";
  Write(folder / "tokenizer_config.json", config.dump());
  ExpectRefused(folder, "tokenizer.model: is not a SentencePiece model", kInvalid);
}

TEST_F(ImportTest, NamesWhatAGgufHasThatIsNotSupported) {
  ExpectRefused(Gguf("smollm", "qwenxx"), "\"qwenxx\"; supported are \"codeshell\", \"command-r\"",
                kUnimplemented);
  ExpectRefused(Gguf("gpt2", "bert"), "tokenizer.ggml.model is \"bert\"", kUnimplemented);
  std::string from = GgufString("llama");
  ExpectRefused(Gguf(from, GgufString("bloom")),
                "general.architecture is \"bloom\"; supported are \"llama\", \"qwen2\", \"qwen3\"",
                kUnimplemented);
  ExpectRefused(Gguf(from, GgufString("qwen2")), "qwen2.embedding_length is missing", kInvalid);
  ExpectRefused(Gguf("llama.vocab_size", "llama.logit_scal"), "llama.logit_scal", kUnimplemented);
  ExpectRefused(Gguf("blk.1.ffn_up", "blk.9.ffn_up"), "'blk.1.ffn_up.weight' is missing", kInvalid);
  ExpectRefused(Gguf("tokenizer.chat_template", "tokenizer.chat_templatx"),
                "tokenizer.chat_template is missing", kInvalid);
  ExpectRefused(Gguf("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eox_token_id"),
                "tokenizer.ggml.eos_token_id is missing", kInvalid);
}

TEST_F(ImportTest, RefusesATokenizerThatContradictsItself) {
  const std::string eos = GgufKey("tokenizer.ggml.eos_token_id", 4, Raw(uint32_t{2}));
  ExpectRefused(Gguf(eos, GgufKey("tokenizer.ggml.eos_token_id", 4, Raw(uint32_t{384}))),
                "must be in [0, 384)", kInvalid);
  ExpectRefused(Gguf(GgufString("!"), GgufString("\"")), "twice", kInvalid);
  ExpectRefused(Gguf(GgufString("!"), GgufString("\xff")), "not UTF-8", kInvalid);
  const json theirs = json::parse(Read(kTinyFolder / "tokenizer.json"));
  const json merge = theirs["model"]["merges"][0];
  const std::string text =
      absl::StrCat(merge[0].get<std::string>(), " ", merge[1].get<std::string>());
  const std::string broken = absl::StrReplaceAll(text, {{" ", "_"}});
  ExpectRefused(Gguf(GgufString(text), GgufString(broken)), "must be two tokens", kInvalid);
}

// q and k rows in llama.cpp's order (llama) or not (qwen), biases, norms of heads.
TEST_F(ImportTest, AGgufOfEveryFamilyGivesTheReferencesBits) {
  for (const auto& [name, type] :
       {std::pair("llama3", "llama"), std::pair("qwen2", "qwen2"), std::pair("qwen3", "qwen3")}) {
    const fs::path base = fs::path(LATHE_TEST_DATA) / "gguf" / name;
    const auto model = ImportModel(base.string() + ".gguf", Output(), nullptr);
    ASSERT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(model->architecture, type);
    const json expected = json::parse(Read(base.string() + ".json"));
    const auto file = SafetensorsFile::Open(Output() / "model.safetensors");
    ASSERT_EQ(file->tensors().size(), expected.size());
    for (const TensorView& tensor : file->tensors()) {
      EXPECT_EQ(Sha256Hex(tensor.bytes), expected.at(tensor.name)) << name << " " << tensor.name;
    }
    auto config = LoadModelConfig(Output());
    const auto source = LoadModelConfig(fs::path(LATHE_TEST_DATA) / "families" / name);
    ASSERT_TRUE(config.ok() && source.ok()) << config.status() << source.status();
    config->rms_norm_eps = source->rms_norm_eps;  // A 32-bit float in the file.
    config->pad_token_id = source->pad_token_id;
    if (std::string(name) == "llama3") {  // Has Llama 3.1's own numbers.
      EXPECT_EQ(config->rope_theta, 500000);
      EXPECT_EQ(config->rope_scaling.factor, 8);
      EXPECT_EQ(config->rope_scaling.original_positions, 8192);
      config->rope_theta = source->rope_theta;
      config->rope_scaling = source->rope_scaling;
    }
    EXPECT_EQ(ModelConfigJson(*config), ModelConfigJson(*source));
    fs::remove_all(Output());
  }
}

TEST_F(ImportTest, RefusesRopeFactorsThatAreNotLlama3s) {
  std::string bytes = Read(LATHE_TEST_DATA "/gguf/llama3.gguf");
  const std::string factors = absl::StrCat(Raw(1.0F), Raw(1.0F));  // rope_freqs.weight begins so.
  const size_t at = bytes.rfind(factors);
  ASSERT_NE(at, std::string::npos);
  std::string other = bytes;
  other.replace(at + 4, 4, Raw(1.5F));
  ExpectRefused(Write(temp_.path() / "x.gguf", other),
                "'rope_freqs.weight' has 1.5 at 1; supported are", kUnimplemented);
  other.replace(at + 4, 4, Raw(std::numeric_limits<float>::quiet_NaN()));
  ExpectRefused(Write(temp_.path() / "x.gguf", other), "'rope_freqs.weight' has nan",
                kUnimplemented);
}

TEST_F(ImportTest, SaysThatASlidingWindowLimitsTheLength) {
  const fs::path folder = Folder();
  json config = json::parse(Read(folder / "config.json"));
  config["architectures"] = json::array({"MistralForCausalLM"});
  config["model_type"] = "mistral";
  config["sliding_window"] = 128;
  Write(folder / "config.json", config.dump());
  std::vector<std::string> lines;
  const auto model =
      ImportModel(folder, Output(), [&](const std::string& line) { lines.push_back(line); });
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(lines[0],
            "config.json: sliding_window is 128: sequences are limited to 128 of 512 tokens");
}

TEST_F(ImportTest, NeverTouchesWhatIsThereAlready) {
  fs::create_directory(Output());
  Write(Output() / "mine", "x");
  EXPECT_EQ(Import(kTinyGguf).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Read(Output() / "mine"), "x");
  EXPECT_EQ(std::distance(fs::directory_iterator(Output()), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace lathe
