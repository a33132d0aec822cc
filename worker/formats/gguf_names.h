#pragma once

#include <cstdint>
#include <string>

#include "worker/formats/decoder_layout.h"
#include "worker/formats/model_family.h"

// How llama.cpp's files name and order the parameters of a decoder. Only for .cc files of this
// folder.

namespace lathe {

// What each rotary frequency is divided by; only with Llama 3's scaling.
inline constexpr char kGgufRopeFactors[] = "rope_freqs.weight";

// Of `parameter`, with our names for its place: "blk.0.attn_q.weight". Empty: llama.cpp has none.
std::string GgufName(const DecoderLayout& layout, const std::string& parameter);

// Whether the rows of the parameter with this GGUF name stand in the order of PermutedRow: q and k
// of Llama.
bool IsPermuted(const ModelFamily& family, const std::string& gguf_name);

// llama.cpp turns the two halves of each head's rows into pairs (conversion/llama.py, permute): our
// row j * head_dim / 2 + i of a head is its row 2 * i + j, for j in {0, 1}.
int64_t PermutedRow(int64_t row, int64_t head_dim);
// The row of ours that stands at `row` in the file.
int64_t UnpermutedRow(int64_t row, int64_t head_dim);

}  // namespace lathe
