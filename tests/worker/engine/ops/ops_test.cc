#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include "worker/engine/ops/attention.h"
#include "worker/engine/ops/biased_attention.h"
#include "worker/engine/ops/counter_random.h"
#include "worker/engine/ops/dora_linear.h"
#include "worker/engine/ops/dropout_mask.h"
#include "worker/engine/ops/elementwise.h"
#include "worker/engine/ops/embedding.h"
#include "worker/engine/ops/lora_linear.h"
#include "worker/engine/ops/lora_plan.h"
#include "worker/engine/ops/token_loss.h"
#include "worker/engine/ops/trained_linear.h"
#include "worker/engine/ops/widened_product.h"

// Every operation against plain ATen with ATen's own autograd, in 64 bits.

namespace lathe {
namespace {

constexpr double kTolerance = 1e-11;

at::Tensor Random(at::IntArrayRef shape, uint64_t stream) {
  at::Tensor tensor = at::empty(shape, at::kDouble);
  const uint64_t key = StreamKey(42, stream);
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    tensor.data_ptr<double>()[i] = 2 * UniformAt(key, static_cast<uint64_t>(i)) - 1;
  }
  return tensor;
}

using Operation = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// Outputs, and the gradients of a random weighting of them with respect to `inputs`.
std::vector<at::Tensor> OutputAndGradients(const Operation& operation,
                                           const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(input.detach().clone().set_requires_grad(true));
  }
  const at::Tensor output = operation(leaves);
  (output * Random(output.sizes(), 99)).sum().backward();
  std::vector<at::Tensor> result = {output.detach()};
  for (const at::Tensor& leaf : leaves) result.push_back(leaf.grad());
  return result;
}

void ExpectSameFunction(const Operation& ours, const Operation& plain,
                        const std::vector<at::Tensor>& inputs) {
  const auto got = OutputAndGradients(ours, inputs);
  const auto expected = OutputAndGradients(plain, inputs);
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].sizes(), expected[i].sizes());
    EXPECT_LE((got[i] - expected[i]).abs().max().item<double>(), kTolerance)
        << (i == 0 ? "output" : "gradient of input ") << i;
  }
}

TEST(RmsNormTest, EqualsPlainAten) {
  const at::Tensor weight = Random({6}, 1);
  ExpectSameFunction([&](const auto& in) { return RmsNorm(in[0], weight, 1e-5); },
                     [&](const auto& in) {
                       return weight * in[0] * at::rsqrt(in[0].square().mean(-1, true) + 1e-5);
                     },
                     {Random({5, 6}, 2)});
}

TEST(RmsNormTest, ATrainedWeightGetsItsGradient) {
  ExpectSameFunction([](const auto& in) { return RmsNorm(in[0], in[1], 1e-5); },
                     [](const auto& in) {
                       return in[1] * in[0] * at::rsqrt(in[0].square().mean(-1, true) + 1e-5);
                     },
                     {Random({5, 6}, 2), Random({6}, 1)});
}

// One row per head, as in a model whose heads share a weight.
TEST(NormHeadsTest, ATrainedWeightGetsItsGradient) {
  const auto rows = [](const auto& in) {
    return at::cat({in[1].expand({2, -1}), in[2].expand({1, -1})}, 0);
  };
  ExpectSameFunction([&](const auto& in) { return NormHeads(in[0], rows(in), 1e-5); },
                     [&](const auto& in) {
                       const at::Tensor heads = in[0].slice(1, 0, 12).reshape({5, 3, 4});
                       const at::Tensor normed =
                           rows(in) * heads * at::rsqrt(heads.square().mean(-1, true) + 1e-5);
                       return at::cat({normed.reshape({5, 12}), in[0].slice(1, 12, 16)}, 1);
                     },
                     {Random({5, 16}, 2), Random({4}, 1), Random({4}, 3)});
}

TEST(NormHeadsTest, NormsTheFirstHeadsAndPassesTheOthers) {
  const at::Tensor weight = Random({3, 4}, 1);
  ExpectSameFunction([&](const auto& in) { return NormHeads(in[0], weight, 1e-5); },
                     [&](const auto& in) {
                       const at::Tensor heads = in[0].slice(1, 0, 12).reshape({5, 3, 4});
                       const at::Tensor normed =
                           weight * heads * at::rsqrt(heads.square().mean(-1, true) + 1e-5);
                       return at::cat({normed.reshape({5, 12}), in[0].slice(1, 12, 16)}, 1);
                     },
                     {Random({5, 16}, 2)});
}

TEST(SwiGluTest, EqualsPlainAten) {
  ExpectSameFunction(
      [](const auto& in) { return SwiGlu(in[0]); },
      [](const auto& in) { return at::silu(in[0].slice(1, 0, 7)) * in[0].slice(1, 7, 14); },
      {Random({5, 14}, 3) * 4});
}

TEST(GatedGeluTest, EqualsPlainAten) {
  ExpectSameFunction([](const auto& in) { return GatedGelu(in[0]); },
                     [](const auto& in) {
                       const at::Tensor x = in[0].slice(1, 0, 7);
                       const at::Tensor inner =
                           std::sqrt(2 / M_PI) * (x + 0.044715 * at::pow(x, 3));
                       return 0.5 * x * (1 + at::tanh(inner)) * in[0].slice(1, 7, 14);
                     },
                     {Random({5, 14}, 3) * 4});
}

LoraUpdate UpdateOf(const std::vector<at::Tensor>& in, double dropout) {
  return {.pairs = {{in[1], in[2]}, {}, {in[3], in[4]}},
          .scale = 1.7,
          .dropout = dropout,
          .dropout_seed = 5};
}

class LoraLinearTest : public testing::TestWithParam<double> {};
INSTANTIATE_TEST_SUITE_P(Dropout, LoraLinearTest, testing::Values(0.0, 0.4));

TEST_P(LoraLinearTest, EqualsPlainAtenWithAFrozenLayerBetweenTwoTuned) {
  const LinearGroup group = {Random({9, 6}, 4), {4, 2, 3}, Random({9}, 11)};
  const auto masked = [](const at::Tensor& x, int64_t layer) {
    return GetParam() == 0 ? x : x * DropoutMask(x, GetParam(), 5, layer);
  };
  ExpectSameFunction(
      [&](const auto& in) {
        const LoraUpdate update = UpdateOf(in, GetParam());
        return LoraLinear(in[0], group, &update);
      },
      [&](const auto& in) {
        const at::Tensor y = at::matmul(in[0], group.weight.t()) + group.bias;
        const auto update = [&](int64_t layer, size_t a) {
          return 1.7 * at::matmul(at::matmul(masked(in[0], layer), in[a].t()), in[a + 1].t());
        };
        return at::cat(
            {y.slice(1, 0, 4) + update(0, 1), y.slice(1, 4, 6), y.slice(1, 6, 9) + update(2, 3)},
            1);
      },
      {Random({5, 6}, 5), Random({2, 6}, 6), Random({4, 2}, 7), Random({2, 6}, 8),
       Random({3, 2}, 9)});
}

TEST_P(LoraLinearTest, TheWayOfNarrowTensorsIsTheSameFunction) {
  const LinearGroup group = {Random({9, 6}, 4), {4, 2, 3}};
  ExpectSameFunction(
      [&](const auto& in) {
        std::vector<at::Tensor> tensors;
        const PlanPtr plan = MakePlan(group, UpdateOf(in, GetParam()), tensors);
        return NarrowLoraLinear(in[0], tensors, plan);
      },
      [&](const auto& in) {
        const LoraUpdate update = UpdateOf(in, GetParam());
        return LoraLinear(in[0], group, &update);
      },
      {Random({5, 6}, 5), Random({2, 6}, 6), Random({4, 2}, 7), Random({2, 6}, 8),
       Random({3, 2}, 9)});
}

// Half a last place of BF16 is 2^-9 of a value: an update of a tenth of that must still count, on
// average over many values. Added to a rounded product it would not.
TEST(LoraLinearTest, InSixteenBitsASmallUpdateCounts) {
  const auto narrow = [](const at::Tensor& x) { return x.to(at::kBFloat16); };
  const LinearGroup group = {narrow(Random({512, 64}, 1)), {512}};
  const at::Tensor x = narrow(Random({256, 64}, 2));
  const LoraUpdate update = {
      .pairs = {{Random({2, 64}, 3).to(at::kFloat), (Random({512, 2}, 4) * 1e-4).to(at::kFloat)}},
      .scale = 2};
  const at::Tensor change =
      (LoraLinear(x, group, &update).to(at::kDouble) - LoraLinear(x, group, nullptr));
  const LoraPair& pair = update.pairs[0];
  const at::Tensor expected =
      2 * at::mm(at::mm(x.to(at::kFloat), pair.a.t()), pair.b.t()).to(at::kDouble);
  const double share =
      (change * expected).sum().item<double>() / expected.square().sum().item<double>();
  EXPECT_NEAR(share, 1, 0.2);
}

// The formula of the header in plain ATen, layer by layer; the norm takes no part in the gradient.
at::Tensor PlainDora(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& a,
                     const at::Tensor& b, const at::Tensor& magnitude, const at::Tensor& mask) {
  const at::Tensor norm = (weight + 1.7 * at::matmul(b, a)).square().sum(1).sqrt().detach();
  const at::Tensor gain = magnitude / norm;
  const at::Tensor dropped = x * mask;
  return at::matmul(x, weight.t()) + (gain - 1) * at::matmul(dropped, weight.t()) +
         gain * 1.7 * at::matmul(at::matmul(dropped, a.t()), b.t());
}

TEST_P(LoraLinearTest, WithMagnitudesEqualsPlainDoraPlusBias) {
  const LinearGroup group = {Random({9, 6}, 4), {4, 2, 3}, Random({9}, 12)};
  const auto mask = [](const at::Tensor& x, int64_t layer) {
    return GetParam() == 0 ? at::ones_like(x) : DropoutMask(x, GetParam(), 5, layer);
  };
  ExpectSameFunction(
      [&](const auto& in) {
        LoraUpdate update = UpdateOf(in, GetParam());
        update.pairs[0].magnitude = in[5];
        update.pairs[2].magnitude = in[6];
        return LoraLinear(in[0], group, &update);
      },
      [&](const auto& in) {
        const at::Tensor& x = in[0];
        return group.bias +
               at::cat({PlainDora(x, group.weight.slice(0, 0, 4), in[1], in[2], in[5], mask(x, 0)),
                        at::matmul(x, group.weight.slice(0, 4, 6).t()),
                        PlainDora(x, group.weight.slice(0, 6, 9), in[3], in[4], in[6], mask(x, 2))},
                       1);
      },
      {Random({5, 6}, 5), Random({2, 6}, 6), Random({4, 2}, 7), Random({2, 6}, 8),
       Random({3, 2}, 9), Random({4}, 10), Random({3}, 11)});
}

// Wide enough for several pieces; blocks end within rows.
TEST(Nf4MatrixTest, PiecesAreTheRowsOfTheWhole) {
  const at::Tensor weight = Random({200, 9000}, 13).to(at::kFloat);
  const Nf4Matrix matrix = QuantizeNf4(weight);
  const at::Tensor whole = Dequantize(matrix, at::kDouble);
  EXPECT_LT((whole - weight).abs().max().item<double>(), 0.16);  // Half of the widest gap.
  int64_t next = 0;
  ForEachPiece(matrix, at::kDouble, [&](int64_t first, const at::Tensor& rows) {
    EXPECT_EQ(first, next);
    EXPECT_TRUE(at::equal(rows, whole.narrow(0, first, rows.size(0))));
    next += rows.size(0);
  });
  EXPECT_EQ(next, 200);
}

TEST(Nf4MatrixTest, AWeightTakesLittleMoreThanHalfAByte) {
  const Nf4Matrix matrix = QuantizeNf4(Random({512, 576}, 14).to(at::kFloat));
  const auto bytes = matrix.codes.nbytes() + matrix.scale_indices.nbytes() + matrix.nested.nbytes();
  EXPECT_LE(static_cast<double>(bytes) / (512 * 576), 4.13 / 8);
}

// What a GPU computes with, here on the CPU. An odd number of values: the last byte has one.
TEST(Nf4MatrixTest, TensorOperationsGiveTheNumbersOfTheLoop) {
  for (const auto& [rows, cols] : {std::pair(200, 9000), std::pair(3, 43)}) {
    const Nf4Matrix matrix = QuantizeNf4(Random({rows, cols}, 13).to(at::kFloat));
    EXPECT_TRUE(at::equal(DequantizeThere(matrix, at::kDouble), Dequantize(matrix, at::kDouble)));
  }
}

TEST(DropoutMaskTest, TensorOperationsDrawTheBitsOfTheLoop) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const at::Tensor loop = DropoutMask(at::empty({37, 129}, dtype), 0.3, 7, 2);
    at::Tensor tensors = at::empty({37, 129}, dtype);
    FillDropoutMask(tensors, 0.3, StreamKey(7, 2));
    EXPECT_TRUE(at::equal(tensors, loop));
    EXPECT_TRUE(at::equal(DropoutMask(loop.to(at::kBFloat16), 0.3, 7, 2).eq(0), loop.eq(0)));
  }
}

TEST_P(LoraLinearTest, OverQuantizedLayersIsThatOverTheirValues) {
  LinearGroup group = {{}, {4, 2, 3}, Random({9}, 12)};
  std::vector<at::Tensor> values;
  for (const int64_t rows : group.out_features) {
    group.quantized.push_back(QuantizeNf4(Random({rows, 6}, 20 + rows).to(at::kFloat)));
    values.push_back(Dequantize(group.quantized.back(), at::kDouble));
  }
  const LinearGroup dense = {at::cat(values), {4, 2, 3}, group.bias};
  const auto run = [](const LinearGroup& layers, bool dora) {
    return [&layers, dora](const auto& in) {
      LoraUpdate update = UpdateOf(in, GetParam());
      if (dora) update.pairs[0].magnitude = in[5];
      if (dora) update.pairs[2].magnitude = in[6];
      const at::Tensor frozen = LoraLinear(in[0], layers, nullptr);
      return LoraLinear(in[0], layers, &update) + frozen + (in[5].sum() + in[6].sum());
    };
  };
  for (const bool dora : {false, true}) {
    ExpectSameFunction(run(group, dora), run(dense, dora),
                       {Random({5, 6}, 5), Random({2, 6}, 6), Random({4, 2}, 7), Random({2, 6}, 8),
                        Random({3, 2}, 9), Random({4}, 10), Random({3}, 11)});
  }
}

// Several pieces of rows.
TEST(WidenedProductTest, AMatrixInBf16GivesTheProductsOfItsValues) {
  const at::Tensor weight = Random({1200, 2000}, 4).to(at::kBFloat16);
  for (const auto& [dtype, tolerance] :
       {std::pair(at::kFloat, 1e-6), std::pair(at::kDouble, 1e-13)}) {
    const at::Tensor values = weight.to(dtype);
    const at::Tensor x = Random({5, 2000}, 5).to(dtype);
    const at::Tensor g = Random({5, 1200}, 6).to(dtype);
    at::Tensor y = at::empty({5, 1200}, x.options());
    ProductInto(y, x, weight);
    const at::Tensor expected_y = at::mm(x, values.t());
    EXPECT_LE((y - expected_y).norm().item<double>(), tolerance * expected_y.norm().item<double>());
    at::Tensor grad_x = at::empty({5, 2000}, x.options());
    BackProductInto(grad_x, g, weight);
    const at::Tensor expected_x = at::mm(g, values);
    EXPECT_LE((grad_x - expected_x).norm().item<double>(),
              tolerance * expected_x.norm().item<double>());
  }
}

TEST(LoraLinearTest, WithoutUpdateIsTheFrozenLayer) {
  const LinearGroup group = {Random({9, 6}, 4), {9}};
  ExpectSameFunction([&](const auto& in) { return LoraLinear(in[0], group, nullptr); },
                     [&](const auto& in) { return at::matmul(in[0], group.weight.t()); },
                     {Random({5, 6}, 5)});
}

TEST(LoraLinearTest, AFrozenLayerHasItsBias) {
  const LinearGroup group = {Random({9, 6}, 4), {9}, Random({9}, 11)};
  ExpectSameFunction(
      [&](const auto& in) { return LoraLinear(in[0], group, nullptr); },
      [&](const auto& in) { return at::matmul(in[0], group.weight.t()) + group.bias; },
      {Random({5, 6}, 5)});
}

TEST(LoraLinearTest, WithoutUpdateATrainedLayerGetsItsGradients) {
  ExpectSameFunction(
      [](const auto& in) {
        return LoraLinear(in[0], {in[1], {4, 5}}, nullptr) +
               LoraLinear(in[0], {in[1], {4, 5}, in[2]}, nullptr);
      },
      [](const auto& in) { return 2 * at::matmul(in[0], in[1].t()) + in[2]; },
      {Random({5, 6}, 5), Random({9, 6}, 4), Random({9}, 11)});
}

TEST(TrainedLinearTest, AnInputWithoutGradientIsLeftOut) {
  const at::Tensor x = Random({5, 6}, 5);
  ExpectSameFunction([&](const auto& in) { return TrainedLinear(x, in[0], in[1]); },
                     [&](const auto& in) { return at::matmul(x, in[0].t()) + in[1]; },
                     {Random({9, 6}, 4), Random({9}, 11)});
}

class CountingHook final : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit CountingHook(int& calls) : calls_(calls) {}
  void operator()(const at::Tensor& /*tensor*/) override { ++calls_; }

 private:
  int& calls_;
};

TEST(TrainedLinearTest, AddsToAGradientThatIsThereAndTellsItsHookOnce) {
  const at::Tensor weight = Random({9, 6}, 4).set_requires_grad(true);
  const at::Tensor before = Random({9, 6}, 12);
  const at::Tensor memory = before.clone();
  weight.mutable_grad() = memory;
  int calls = 0;
  torch::autograd::impl::set_post_acc_grad_hooks(weight, std::make_unique<CountingHook>(calls));
  const at::Tensor x = Random({5, 6}, 5);
  const at::Tensor g = Random({5, 9}, 6);
  (TrainedLinear(x, weight, {}) * g).sum().backward();
  EXPECT_LE((memory - before - at::matmul(g.t(), x)).abs().max().item<double>(), kTolerance);
  EXPECT_EQ(weight.grad().const_data_ptr(), memory.const_data_ptr());
  EXPECT_EQ(calls, 1);
}

// Tokens repeat, and some of the vocabulary is not there.
TEST(EmbeddingTest, EqualsPlainAten) {
  const at::Tensor ids = at::tensor({3, 0, 3, 6, 3, 0}, at::kLong);
  ExpectSameFunction([&](const auto& in) { return Embedding(in[0], ids); },
                     [&](const auto& in) { return in[0].index_select(0, ids); },
                     {Random({8, 5}, 4)});
}

TEST(EmbeddingTest, ThePaddingRowGetsNoGradient) {
  const at::Tensor ids = at::tensor({3, 0, 3, 6, 3, 0}, at::kLong);
  ExpectSameFunction([&](const auto& in) { return Embedding(in[0], ids, 3); },
                     [&](const auto& in) {
                       const at::Tensor rows = in[0].index_select(0, ids);
                       return at::where(ids.eq(3).unsqueeze(1), rows.detach(), rows);
                     },
                     {Random({8, 5}, 4)});
}

TEST(DropoutMaskTest, ZeroesTheAskedShareAndKeepsTheMean) {
  const at::Tensor like = at::empty({400, 500}, at::kFloat);
  const at::Tensor mask = DropoutMask(like, 0.25, 1, 0);
  EXPECT_NEAR(mask.eq(0).to(at::kDouble).mean().item<double>(), 0.25, 0.005);
  EXPECT_NEAR(mask.mean().item<double>(), 1, 0.007);
  EXPECT_FALSE(at::equal(mask, DropoutMask(like, 0.25, 1, 1)));
}

// Softmax attention of one document with repeated keys and a full mask.
at::Tensor PlainAttention(const at::Tensor& qkv, const at::Tensor& positions,
                          const HeadShape& shape, double theta) {
  const int64_t count = qkv.size(0);
  const auto heads = [&](int64_t first, int64_t number) {
    return qkv.slice(1, first * shape.head_dim, (first + number) * shape.head_dim)
        .view({count, number, shape.head_dim})
        .transpose(0, 1);
  };
  const at::Tensor exponent = at::arange(0, shape.head_dim, 2, at::kDouble) / shape.head_dim;
  const at::Tensor half = positions.to(at::kDouble).unsqueeze(1) * at::pow(theta, -exponent);
  const at::Tensor angle = at::cat({half, half}, 1);
  const auto rotate = [&](const at::Tensor& x) {
    const auto halves = x.chunk(2, -1);
    return x * angle.cos() + at::cat({-halves[1], halves[0]}, -1) * angle.sin();
  };
  const auto repeat = [&](const at::Tensor& x) {
    return x.repeat_interleave(shape.num_heads / shape.num_kv_heads, 0);
  };
  const at::Tensor q = rotate(heads(0, shape.num_heads));
  const at::Tensor k = repeat(rotate(heads(shape.num_heads, shape.num_kv_heads)));
  const at::Tensor v = repeat(heads(shape.num_heads + shape.num_kv_heads, shape.num_kv_heads));
  const at::Tensor mask = at::ones({count, count}, at::kBool).triu(1);
  const at::Tensor scores =
      (at::matmul(q, k.transpose(1, 2)) / std::sqrt(static_cast<double>(shape.head_dim)))
          .masked_fill(mask, -std::numeric_limits<double>::infinity());
  return at::matmul(scores.softmax(-1), v).transpose(0, 1).reshape({count, -1});
}

TEST(PackedAttentionTest, EqualsPlainAtenPerDocument) {
  const HeadShape shape = {.num_heads = 6, .num_kv_heads = 2, .head_dim = 4};
  const std::vector<int32_t> begin = {0, 3, 4, 4 + 270};  // One is longer than a block.
  std::vector<at::Tensor> positions;
  for (size_t d = 0; d + 1 < begin.size(); ++d) {
    positions.push_back(at::arange(begin[d + 1] - begin[d], at::kLong));
  }
  ExpectSameFunction(
      [&](const auto& in) {
        const RopeTable rope =
            MakeRopeTable(at::cat(positions), at::tensor({1.0, 0.01}, at::kDouble), false);
        return PackedAttention(in[0], rope, shape, begin);
      },
      [&](const auto& in) {
        std::vector<at::Tensor> parts;
        for (size_t d = 0; d + 1 < begin.size(); ++d) {
          parts.push_back(
              PlainAttention(in[0].slice(0, begin[d], begin[d + 1]), positions[d], shape, 10000));
        }
        return at::cat(parts);
      },
      {Random({begin.back(), 40}, 10) * 2});
}

// bias [H, rows, keys] or undefined.
at::Tensor PlainBiasedAttention(const at::Tensor& q, const at::Tensor& keys_values,
                                const at::Tensor& bias, int64_t num_heads, bool causal) {
  const auto heads = [&](const at::Tensor& x) {
    return x.reshape({x.size(0), num_heads, -1}).transpose(0, 1);
  };
  const auto both = keys_values.chunk(2, 1);
  at::Tensor scores = at::matmul(heads(q), heads(both[0]).transpose(1, 2));
  if (bias.defined()) scores = scores + bias;
  const at::Tensor ahead = at::ones({scores.size(1), scores.size(2)}, at::kBool).triu(1);
  if (causal) scores = scores.masked_fill(ahead, -std::numeric_limits<double>::infinity());
  return at::matmul(scores.softmax(-1), heads(both[1])).transpose(0, 1).reshape({q.size(0), -1});
}

// Row i, column j is by_distance's column for j - i.
at::Tensor PlainBias(const at::Tensor& by_distance, int64_t rows, int64_t keys) {
  const at::Tensor distance =
      at::arange(keys, at::kLong) - at::arange(rows, at::kLong).unsqueeze(1);
  const int64_t middle = (by_distance.size(1) - 1) / 2;
  return by_distance.index_select(1, (distance + middle).flatten()).view({-1, rows, keys});
}

void ExpectPlainBiasedAttention(bool causal, bool biased, const DocumentPairs& documents) {
  const ScoreShape shape = {.num_heads = 3, .causal = causal};
  const at::Tensor bias = biased ? Random({3, 2 * 270 - 1}, 20) : at::Tensor();
  ExpectSameFunction(
      [&](const auto& in) { return BiasedAttention(in[0], in[1], bias, shape, documents); },
      [&](const auto& in) {
        std::vector<at::Tensor> parts;
        for (size_t d = 0; d + 1 < documents.query_begin.size(); ++d) {
          const at::Tensor q =
              in[0].slice(0, documents.query_begin[d], documents.query_begin[d + 1]);
          const at::Tensor kv = in[1].slice(0, documents.key_begin[d], documents.key_begin[d + 1]);
          parts.push_back(PlainBiasedAttention(
              q, kv, biased ? PlainBias(bias, q.size(0), kv.size(0)) : bias, 3, causal));
        }
        return at::cat(parts);
      },
      {Random({documents.query_begin.back(), 12}, 21),
       Random({documents.key_begin.back(), 24}, 22)});
}

TEST(BiasedAttentionTest, EqualsPlainAtenPerDocument) {
  const std::vector<int32_t> begin = {0, 3, 4, 4 + 270};  // One is longer than a block.
  ExpectPlainBiasedAttention(/*causal=*/false, /*biased=*/true, {begin, begin});
  ExpectPlainBiasedAttention(/*causal=*/true, /*biased=*/true, {begin, begin});
}

TEST(BiasedAttentionTest, QueriesOfADocumentSeeTheKeysOfItsPartner) {
  ExpectPlainBiasedAttention(/*causal=*/false, /*biased=*/false,
                             {{0, 2, 262, 263}, {0, 5, 6, 290}});
}

TEST(BiasedAttentionTest, NewTokensSeeTheCachedOnes) {
  const at::Tensor q = Random({300, 12}, 23);
  const at::Tensor keys_values = Random({300, 24}, 24);
  const at::Tensor bias = Random({3, 2 * 300 - 1}, 25);
  const at::Tensor whole =
      BiasedAttention(q, keys_values, bias, {.num_heads = 3, .causal = true}, {{0, 300}, {0, 300}});
  const auto both = keys_values.view({300, 6, 4}).split(3, 1);
  const at::Tensor last = BiasedAttendToCache(q.view({300, 3, 4}).slice(0, 10, 300), both[0],
                                              both[1], bias, /*causal=*/true, /*position=*/10);
  EXPECT_LE((last - whole.slice(0, 10, 300)).abs().max().item<double>(), kTolerance);
}

// Neighbours turn as complex numbers; what is beyond the table's width passes.
TEST(RotateHeadsTest, InterleavedPairsOfThePartThatTurns) {
  const at::Tensor x = Random({5, 2, 6}, 13);
  const at::Tensor frequencies = at::tensor({1.0, 0.3}, at::kDouble);
  const at::Tensor positions = at::arange(5, at::kLong);
  const at::Tensor out = RotateHeads(x, MakeRopeTable(positions, frequencies, true));
  const at::Tensor angle = (positions.unsqueeze(1) * frequencies).unsqueeze(1);  // [T, 1, 2]
  const at::Tensor turned = at::view_as_complex(x.slice(-1, 0, 4).reshape({5, 2, 2, 2})) *
                            at::polar(at::ones_like(angle), angle);
  const at::Tensor expected =
      at::cat({at::view_as_real(turned).reshape({5, 2, 4}), x.slice(-1, 4, 6)}, -1);
  EXPECT_LE((out - expected).abs().max().item<double>(), kTolerance);
}

TEST(TokenLossTest, EqualsPlainAtenWhateverTheChunk) {
  const at::Tensor weight = Random({11, 6}, 11) * 3;
  const at::Tensor labels = at::arange(7, at::kLong).mul(5).remainder(11);
  for (const int64_t chunk : {1, 3, 7, 100}) {
    ExpectSameFunction([&](const auto& in) { return TokenLossSum(in[0], weight, labels, chunk); },
                       [&](const auto& in) {
                         return -at::log_softmax(at::matmul(in[0], weight.t()), 1)
                                     .gather(1, labels.unsqueeze(1))
                                     .sum();
                       },
                       {Random({7, 6}, 12)});
  }
}

TEST(TokenLossTest, ATrainedHeadGetsItsGradientWhateverTheChunk) {
  const at::Tensor labels = at::arange(7, at::kLong).mul(5).remainder(11);
  for (const int64_t chunk : {1, 3, 100}) {
    ExpectSameFunction(
        [&](const auto& in) { return 3 * TokenLossSum(in[0], in[1], labels, chunk); },
        [&](const auto& in) {
          return -3 * at::log_softmax(at::matmul(in[0], in[1].t()), 1)
                          .gather(1, labels.unsqueeze(1))
                          .sum();
        },
        {Random({7, 6}, 12), Random({11, 6}, 11)});
  }
}

// A tied head: what the embedding and the head add up to, as one tensor.
TEST(TokenLossTest, ATiedWeightGetsTheSumOfBothGradients) {
  const at::Tensor ids = at::arange(7, at::kLong);
  const at::Tensor labels = ids.mul(5).remainder(11);
  ExpectSameFunction(
      [&](const auto& in) { return TokenLossSum(Embedding(in[0], ids), in[0], labels, 3); },
      [&](const auto& in) {
        return -at::log_softmax(at::matmul(in[0].index_select(0, ids), in[0].t()), 1)
                    .gather(1, labels.unsqueeze(1))
                    .sum();
      },
      {Random({11, 6}, 11)});
}

TEST(TokenLossTest, UnlikelyLabelsKeepAFiniteLoss) {
  const at::Tensor weight = at::tensor({200.0F, 0.0F}).unsqueeze(1);
  const at::Tensor hidden = at::ones({1, 1});
  EXPECT_FLOAT_EQ(TokenLossSum(hidden, weight, at::ones({1}, at::kLong)).item<float>(), 200);
}

TEST(TokenLossTest, MeasuredSumsCountTheBestTokens) {
  const at::Tensor weight = at::eye(3, at::kDouble) * 10;
  const at::Tensor hidden = at::eye(3, at::kDouble);
  const at::Tensor labels = at::tensor({0, 1, 1}, at::kLong);
  const TokenLossStats stats = MeasureTokenLoss(hidden, weight, labels, 2);
  EXPECT_EQ(stats.correct, 2);
  EXPECT_NEAR(stats.loss, 10 + 3 * std::log(1 + 2 * std::exp(-10.0)), 1e-12);
}

}  // namespace
}  // namespace lathe
