#include "worker/engine/train/plan/weight_decay.h"

#include <gtest/gtest.h>

namespace lathe {
namespace {

TEST(WeightDecayTest, SparesNormsAndBiasesOfEveryFamily) {
  for (const char* name :
       {"model.layers.0.input_layernorm.weight", "model.layers.11.post_attention_layernorm.weight",
        "model.norm.weight", "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "transformer.encoder.layers.0.self_attention.query_key_value.bias",
        "transformer.encoder.final_layernorm.weight", "encoder.RMSNorm.weight",
        "decoder.block.0.layer.0.layer_norm.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"}) {
    EXPECT_FALSE(HasWeightDecay(name)) << name;
  }
}

TEST(WeightDecayTest, AppliesToEveryOtherTensor) {
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.down_proj.weight", "model.normal.weight", "model.layers.0.norms.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector"}) {
    EXPECT_TRUE(HasWeightDecay(name)) << name;
  }
}

}  // namespace
}  // namespace lathe
