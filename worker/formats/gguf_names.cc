#include "worker/formats/gguf_names.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace lathe {
namespace {

// The modules of a layer, whose names all families with our names share; the prefix is "blk.N.".
struct PartName {
  absl::string_view ours;
  absl::string_view theirs;
};
constexpr PartName kParts[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.o_proj", "attn_output"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};

}  // namespace

std::string GgufName(const DecoderLayout& layout, const std::string& parameter) {
  if (parameter == layout.embedding + ".weight") return "token_embd.weight";
  if (parameter == layout.final_norm + ".weight") return "output_norm.weight";
  if (parameter == layout.head + ".weight") return "output.weight";
  const std::vector<std::string> parts = absl::StrSplit(
      absl::string_view(parameter).substr(layout.layers.size() + 1), absl::MaxSplits('.', 1));
  const size_t dot = parts[1].rfind('.');
  for (const PartName& part : kParts) {
    if (part.ours != absl::string_view(parts[1]).substr(0, dot)) continue;
    return absl::StrCat("blk.", parts[0], ".", part.theirs, parts[1].substr(dot));
  }
  return "";
}

bool IsPermuted(const ModelFamily& family, const std::string& gguf_name) {
  return family.gguf_permutes_rows &&
         (absl::StrContains(gguf_name, ".attn_q.") || absl::StrContains(gguf_name, ".attn_k."));
}

int64_t PermutedRow(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  const int64_t half = head_dim / 2;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

int64_t UnpermutedRow(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  return row - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
}

}  // namespace lathe
