#include <gtest/gtest.h>

#include <fstream>
#include <map>

#include "absl/strings/match.h"
#include "common/base/file.h"
#include "nlohmann/json.hpp"
#include "worker/formats/decoder_layout.h"
#include "worker/formats/import.h"
#include "worker/formats/model_config.h"
#include "worker/formats/peft.h"
#include "worker/formats/safetensors.h"

// T5 and Flan-T5 of tests/data/families: config.json, parameters, canonical folder.

namespace lathe {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const fs::path kData = LATHE_TEST_DATA;

json ConfigOf(const std::string& family) {
  return json::parse(*ReadFile(kData / "families" / family / "config.json"));
}

absl::StatusOr<ModelConfig> ParseWith(const std::string& family, const json& changes) {
  json root = ConfigOf(family);
  root.update(changes);
  return ParseModelConfig(root.dump());
}

TEST(T5ConfigTest, ReadsBothKinds) {
  const auto t5 = ParseWith("t5", json::object());
  ASSERT_TRUE(t5.ok()) << t5.status();
  EXPECT_EQ(t5->hidden_size, 32);
  EXPECT_EQ(t5->num_heads * t5->head_dim, 24);  // Need not be d_model.
  EXPECT_EQ(t5->encoder_decoder->num_decoder_layers, 2);
  EXPECT_EQ(t5->encoder_decoder->num_buckets, 8);
  EXPECT_EQ(t5->encoder_decoder->start_id, 0);
  EXPECT_FALSE(t5->encoder_decoder->gated);
  EXPECT_TRUE(t5->tie_word_embeddings);
  EXPECT_EQ(t5->max_positions, kMaxPositions);
  const auto flan = ParseWith("flan-t5", json::object());
  ASSERT_TRUE(flan.ok()) << flan.status();
  EXPECT_EQ(flan->num_layers, 2);
  EXPECT_EQ(flan->encoder_decoder->num_decoder_layers, 1);
  EXPECT_TRUE(flan->encoder_decoder->gated);
  EXPECT_FALSE(flan->tie_word_embeddings);
}

TEST(T5ConfigTest, TakesTransformersDefaults) {
  json root = ConfigOf("t5");
  for (const char* key : {"relative_attention_num_buckets", "relative_attention_max_distance",
                          "feed_forward_proj", "layer_norm_epsilon", "pad_token_id"}) {
    root.erase(key);
  }
  const auto config = ParseModelConfig(root.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->encoder_decoder->num_buckets, 32);
  EXPECT_EQ(config->encoder_decoder->max_distance, 128);
  EXPECT_FALSE(config->encoder_decoder->gated);
  EXPECT_EQ(config->rms_norm_eps, 1e-6);
  EXPECT_EQ(config->pad_token_id, 0);
}

// transformers 5 writes Flan-T5 as tied, with a key of its own for what that means.
TEST(T5ConfigTest, AHeadIsTiedIfTransformersScalesIt) {
  const json saved_by_5 = {{"tie_word_embeddings", true}, {"scale_decoder_outputs", false}};
  EXPECT_FALSE(ParseWith("flan-t5", saved_by_5)->tie_word_embeddings);
  EXPECT_TRUE(ParseWith("t5", {{"scale_decoder_outputs", true}})->tie_word_embeddings);
  const json both = {{"tie_word_embeddings", false}, {"scale_decoder_outputs", true}};
  EXPECT_EQ(ParseWith("t5", both).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(T5ConfigTest, WhatIsWrittenIsReadBack) {
  for (const char* family : {"t5", "flan-t5"}) {
    const auto config = ParseWith(family, json::object());
    const auto again = ParseModelConfig(ModelConfigJson(*config));
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(ModelConfigJson(*again), ModelConfigJson(*config));
    EXPECT_EQ(again->encoder_decoder->num_decoder_layers,
              config->encoder_decoder->num_decoder_layers);
    EXPECT_EQ(again->encoder_decoder->max_distance, config->encoder_decoder->max_distance);
  }
}

TEST(T5ConfigTest, RefusesWhatItCannotComputeByName) {
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, json>>{{"feed_forward_proj", "gated-silu"},
                                                 {"feed_forward_proj", "gelu"},
                                                 {"feed_forward_proj", 1},
                                                 {"dense_act_fn", "gelu"},
                                                 {"is_gated_act", true},
                                                 {"is_encoder_decoder", false},
                                                 {"quantization_config", {{"load_in_8bit", true}}},
                                                 {"model_type", "mt5"}}) {
    const absl::Status status = ParseWith("t5", {{key, value}}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << key << ": " << status;
    EXPECT_TRUE(absl::StrContains(status.message(), key)) << status;
  }
  EXPECT_TRUE(absl::StrContains(
      ParseWith("t5", {{"feed_forward_proj", "silu"}}).status().message(),
      "feed_forward_proj is \"silu\"; supported is \"relu\" (T5), \"gated-gelu\""));
}

TEST(T5ConfigTest, RefusesSizesOutOfBoundsUnderTheirOwnNames) {
  for (const auto& [key, value] : std::vector<std::pair<const char*, json>>{
           {"d_model", 0},
           {"d_model", nullptr},
           {"d_ff", -1},
           {"d_kv", 1025},
           {"num_heads", 0},
           {"num_layers", 1025},
           {"num_decoder_layers", 0},
           {"vocab_size", 1 << 30},
           {"relative_attention_num_buckets", 3},
           {"relative_attention_num_buckets", "8"},
           {"relative_attention_max_distance", 4},  // Buckets 0 to 3 have these already.
           {"decoder_start_token_id", nullptr},
           {"decoder_start_token_id", 384},
           {"decoder_start_token_id", -1},
           {"scale_decoder_outputs", "no"}}) {
    const absl::Status status = ParseWith("t5", {{key, value}}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key << ": " << status;
    EXPECT_TRUE(absl::StrContains(status.message(), key)) << status;
  }
}

TEST(T5LayoutTest, AnEncodersLayersComeBeforeItsDecoders) {
  const std::vector<LayerLinears> layers = LinearsOf(*ParseWith("flan-t5", json::object()));
  ASSERT_EQ(layers.size(), 3U);
  EXPECT_EQ(layers[1].prefix, "encoder.block.1.");
  EXPECT_EQ(layers[1].linears.size(), 7U);
  EXPECT_EQ(layers[2].prefix, "decoder.block.0.");
  ASSERT_EQ(layers[2].linears.size(), 11U);
  EXPECT_EQ(layers[2].linears[4].name, "layer.1.EncDecAttention.q");
  EXPECT_EQ(layers[2].linears[10].name, "layer.2.DenseReluDense.wo");
  EXPECT_TRUE(layers[2].linears[10].never_quantized);
}

class T5ImportTest : public testing::Test {
 protected:
  T5ImportTest() : temp_(*TempFolder::Make("t5_import")) {}

  // A family's folder with a SentencePiece tokenizer, as the first T5 have it.
  fs::path Folder(const std::string& family) const {
    const fs::path folder = temp_.path() / "source";
    fs::remove_all(folder);
    fs::create_directories(folder);
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy(kData / "families" / family / name, folder / name);
    }
    fs::copy(kData / "sentencepiece" / "unigram.model", folder / "spiece.model");
    std::ofstream(folder / "tokenizer_config.json")
        << R"({"tokenizer_class":"T5Tokenizer","extra_ids":100,"eos_token":"</s>",
               "pad_token":"<pad>","unk_token":"<unk>"})";
    return folder;
  }
  fs::path Output() const { return temp_.path() / "out"; }
  absl::Status Import(const fs::path& source) const {
    fs::remove_all(Output());
    return ImportModel(source, Output(), nullptr).status();
  }
  // The folder's tensors, which a test may change, written in their place.
  std::vector<TensorView> Tensors(const std::string& family) const {
    static std::map<std::string, SafetensorsFile> files;
    const auto [file, unused] = files.try_emplace(
        family, *SafetensorsFile::Open(kData / "families" / family / "model.safetensors"));
    return file->second.tensors();
  }
  absl::Status ImportWith(const std::string& family, const std::vector<TensorView>& tensors) const {
    const fs::path folder = Folder(family);
    EXPECT_TRUE(WriteSafetensors(folder / "model.safetensors", tensors).ok());
    return Import(folder);
  }

  TempFolder temp_;
};

TEST_F(T5ImportTest, GivesACanonicalFolderThatNeedsNoTemplate) {
  for (const char* family : {"t5", "flan-t5"}) {
    const absl::Status status = Import(Folder(family));
    ASSERT_TRUE(status.ok()) << family << ": " << status;
    EXPECT_FALSE(fs::exists(Output() / "chat_template.jinja"));
    const json generation = json::parse(*ReadFile(Output() / "generation_config.json"));
    EXPECT_EQ(generation.at("decoder_start_token_id"), 0);
    EXPECT_EQ(json::parse(*ReadFile(Output() / "config.json")).at("is_encoder_decoder"), true);
    const auto config = LoadModelConfig(Output());
    ASSERT_TRUE(config.ok()) << config.status();
    const auto file = SafetensorsFile::Open(Output() / "model.safetensors");
    const std::vector<ParameterSpec> specs = ParameterSpecs(*config);
    ASSERT_EQ(file->tensors().size(), specs.size());
    for (const ParameterSpec& spec : specs) {
      EXPECT_NE(file->Find(spec.name), nullptr) << spec.name;
    }
    EXPECT_EQ(file->Find("lm_head.weight") == nullptr, config->tie_word_embeddings);
  }
}

TEST_F(T5ImportTest, LeavesOutATemplateThatItsRowsWouldNotUse) {
  const fs::path folder = Folder("t5");
  std::ofstream(folder / "chat_template.jinja") << "{{ messages[0].content }}";
  ASSERT_TRUE(Import(folder).ok());
  EXPECT_FALSE(fs::exists(Output() / "chat_template.jinja"));
}

TEST_F(T5ImportTest, NamesTensorsThatAreMissingOrExtra) {
  std::vector<TensorView> tensors = Tensors("flan-t5");
  const auto is = [](const std::string& name) {
    return [name](const TensorView& tensor) { return tensor.name == name; };
  };
  const std::string cross = "decoder.block.0.layer.1.EncDecAttention.k.weight";
  std::erase_if(tensors, is(cross));
  EXPECT_TRUE(absl::StrContains(ImportWith("flan-t5", tensors).message(),
                                "'" + cross + "' is missing; must have the shape [36, 32]"));
  tensors = Tensors("flan-t5");
  tensors.push_back(tensors[0]);
  tensors.back().name = "encoder.block.2.layer.0.layer_norm.weight";
  EXPECT_TRUE(absl::StrContains(ImportWith("flan-t5", tensors).message(), "block.2"));
  tensors = Tensors("flan-t5");
  std::erase_if(tensors, is("lm_head.weight"));
  EXPECT_TRUE(absl::StrContains(ImportWith("flan-t5", tensors).message(), "'lm_head.weight' is"));
}

TEST_F(T5ImportTest, TheEmbeddingMayHaveAnotherNameButOneValue) {
  ASSERT_TRUE(Import(Folder("t5")).ok());
  const std::string expected = *ReadFile(Output() / "model.safetensors");
  std::vector<TensorView> tensors = Tensors("t5");
  std::erase_if(tensors, [](const TensorView& tensor) { return tensor.name == "shared.weight"; });
  ASSERT_TRUE(ImportWith("t5", tensors).ok());
  EXPECT_EQ(*ReadFile(Output() / "model.safetensors"), expected);
  tensors = Tensors("t5");
  std::string other;
  for (TensorView& tensor : tensors) {
    if (tensor.name != "decoder.embed_tokens.weight") continue;
    other.assign(tensor.bytes.data(), tensor.bytes.size());
    other[5] = static_cast<char>(other[5] ^ 1);
    tensor.bytes = other;
  }
  EXPECT_TRUE(
      absl::StrContains(ImportWith("t5", tensors).message(),
                        "\"decoder.embed_tokens.weight\" has other values than 'shared.weight'"));
}

TEST(T5AdapterConfigTest, SaysThatItsModelIsAnEncoderDecoder) {
  const auto config =
      ParseAdapterConfig(*ReadFile(kData / "families" / "t5" / "adapter" / "adapter_config.json"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->task_type, "SEQ_2_SEQ_LM");
  EXPECT_EQ(json::parse(AdapterConfigJson(*config)).at("task_type"), "SEQ_2_SEQ_LM");
}

}  // namespace
}  // namespace lathe
