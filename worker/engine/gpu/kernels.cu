// Kernels of device_kernels.h: BF16 in memory, F32 in registers. Built when a GPU is first used (compiled_kernels.h), for that GPU.
// kNf4Codes[16] and kDynamicMap[256] are put before this text.

typedef unsigned short Bf16;
typedef unsigned char Byte;
typedef unsigned long long U64;
typedef long long I64;
typedef unsigned U32;

constexpr int kPack = 8;  // Values of one load: 16 bytes.
constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;
#define kInfinity __int_as_float(0x7F800000)

struct Pack {
  float v[kPack];
};

__device__ inline float Wide(Bf16 x) { return __uint_as_float(static_cast<U32>(x) << 16); }

__device__ inline Bf16 Narrow(float x) {
  Bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}

__device__ inline Pack Load(const Bf16* p) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  const U32 words[4] = {raw.x, raw.y, raw.z, raw.w};
  Pack pack;
  for (int i = 0; i < 4; ++i) {
    pack.v[2 * i] = __uint_as_float(words[i] << 16);
    pack.v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
  return pack;
}

__device__ inline void Store(Bf16* p, const Pack& pack) {
  U32 words[4];
  for (int i = 0; i < 4; ++i) {
    words[i] = Narrow(pack.v[2 * i]) | static_cast<U32>(Narrow(pack.v[2 * i + 1])) << 16;
  }
  *reinterpret_cast<uint4*>(p) = make_uint4(words[0], words[1], words[2], words[3]);
}

struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// One number of all threads of the block, for all of them. REQUIRES: whole warps.
template <typename Combine>
__device__ float Reduce(float x, float neutral, Combine combine) {
  __shared__ float parts[kMaxWarps];
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x = combine(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
  }
  __syncthreads();  // Of an earlier call's parts.
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = threadIdx.x % kWarp < blockDim.x / kWarp ? parts[threadIdx.x % kWarp] : neutral;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    x = combine(x, __shfl_xor_sync(0xFFFFFFFFu, x, step));
  }
  return x;
}

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

// One block per head of a row. Rows are row_width apart, their first `heads` heads are normed.
extern "C" __global__ void RmsNorm(const Bf16* x, const float* weight, float eps, int heads, int width, I64 row_width, Bf16* y,
                                   float* inverse) {
  const I64 at = blockIdx.x / heads * row_width + blockIdx.x % heads * width;
  weight += blockIdx.x % heads * width;
  float sum = 0;
  for (int i = threadIdx.x * kPack; i < width; i += blockDim.x * kPack) {
    const Pack in = Load(x + at + i);
    for (int k = 0; k < kPack; ++k) sum += in.v[k] * in.v[k];
  }
  const float scale = rsqrtf(Reduce(sum, 0, Add()) / width + eps);
  if (threadIdx.x == 0) inverse[blockIdx.x] = scale;
  for (int i = threadIdx.x * kPack; i < width; i += blockDim.x * kPack) {
    Pack out = Load(x + at + i);
    for (int k = 0; k < kPack; ++k) out.v[k] = out.v[k] * scale * weight[i + k];
    Store(y + at + i, out);
  }
}

extern "C" __global__ void RmsNormGradient(const Bf16* grad_y, const Bf16* x, const float* weight, const float* inverse, int heads,
                                           int width, I64 row_width, Bf16* grad_x) {
  const I64 at = blockIdx.x / heads * row_width + blockIdx.x % heads * width;
  weight += blockIdx.x % heads * width;
  const float scale = inverse[blockIdx.x];
  float sum = 0;
  for (int i = threadIdx.x * kPack; i < width; i += blockDim.x * kPack) {
    const Pack grad = Load(grad_y + at + i);
    const Pack in = Load(x + at + i);
    for (int k = 0; k < kPack; ++k) sum += grad.v[k] * weight[i + k] * in.v[k] * scale;
  }
  const float mean = Reduce(sum, 0, Add()) / width;
  for (int i = threadIdx.x * kPack; i < width; i += blockDim.x * kPack) {
    Pack grad = Load(grad_y + at + i);
    const Pack in = Load(x + at + i);
    for (int k = 0; k < kPack; ++k) grad.v[k] = scale * (grad.v[k] * weight[i + k] - in.v[k] * scale * mean);
    Store(grad_x + at + i, grad);
  }
}

// One thread per pair of values, and per pair of those that pass. sign is -1 to turn back.
extern "C" __global__ void Rotate(const Bf16* x, const Bf16* cos, const Bf16* sin, U32 count, int heads, int width, int half,
                                  int interleaved, float sign, I64 x_row, I64 x_head, I64 y_row, I64 y_head, Bf16* y) {
  const U32 index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const U32 num_pairs = width / 2;
  const int pair = static_cast<int>(index % num_pairs);
  const I64 head = index / num_pairs % static_cast<U32>(heads);
  const I64 token = index / num_pairs / static_cast<U32>(heads);
  x += token * x_row + head * x_head;
  y += token * y_row + head * y_head;
  if (pair >= half) {
    y[2 * pair] = x[2 * pair];
    y[2 * pair + 1] = x[2 * pair + 1];
    return;
  }
  const int first = interleaved ? 2 * pair : pair;
  const int second = interleaved ? 2 * pair + 1 : pair + half;
  const float c = Wide(cos[token * half + pair]);
  const float s = sign * Wide(sin[token * half + pair]);
  const float a = Wide(x[first]);
  const float b = Wide(x[second]);
  y[first] = Narrow(a * c - b * s);
  y[second] = Narrow(b * c + a * s);
}

__device__ inline I64 GateAt(U32 pack, int width) {
  const U32 packs = static_cast<U32>(width) / kPack;
  return static_cast<I64>(pack / packs) * 2 * width + pack % packs * kPack;
}

// One thread per pack of y, of which `count` are there. Gate and up lie one after the other in a row.
extern "C" __global__ void SwiGlu(const Bf16* gate_up, U32 count, int width, Bf16* y) {
  const U32 index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const Bf16* from = gate_up + GateAt(index, width);
  const Pack gate = Load(from);
  Pack out = Load(from + width);
  for (int k = 0; k < kPack; ++k) out.v[k] *= gate.v[k] * Sigmoid(gate.v[k]);
  Store(y + static_cast<I64>(index) * kPack, out);
}

extern "C" __global__ void SwiGluGradient(const Bf16* grad_y, const Bf16* gate_up, U32 count, int width, Bf16* grad) {
  const U32 index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const I64 at = GateAt(index, width);
  const Pack dy = Load(grad_y + static_cast<I64>(index) * kPack);
  Pack gate = Load(gate_up + at);
  Pack up = Load(gate_up + at + width);
  for (int k = 0; k < kPack; ++k) {
    const float s = Sigmoid(gate.v[k]);
    const float d_up = dy.v[k] * gate.v[k] * s;
    gate.v[k] = dy.v[k] * up.v[k] * s * (1 + gate.v[k] * (1 - s));
    up.v[k] = d_up;
  }
  Store(grad + at, gate);
  Store(grad + at + width, up);
}

// One thread per pack of y, of which `count` are there. Rows are `width` wide.
extern "C" __global__ void AddBias(Bf16* y, const float* bias, U32 count, int width) {
  const U32 index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) return;
  bias += index % (static_cast<U32>(width) / kPack) * kPack;
  y += static_cast<I64>(index) * kPack;
  Pack out = Load(y);
  for (int k = 0; k < kPack; ++k) out.v[k] += bias[k];
  Store(y, out);
}

// One block per row. logits become softmax - one_hot(label).
extern "C" __global__ void CrossEntropy(Bf16* logits, const I64* labels, int width, float* losses) {
  logits += static_cast<I64>(blockIdx.x) * width;
  const int label = static_cast<int>(labels[blockIdx.x]);
  float largest = -kInfinity;
  float sum = 0;  // Of exp(x - largest).
  for (int i = threadIdx.x * kPack; i < width; i += blockDim.x * kPack) {
    const Pack in = Load(logits + i);
    float next = largest;
    for (int k = 0; k < kPack; ++k) next = fmaxf(next, in.v[k]);
    if (next > largest) {
      sum *= __expf(largest - next);
      largest = next;
    }
    for (int k = 0; k < kPack; ++k) sum += __expf(in.v[k] - largest);
  }
  const float top = Reduce(largest, -kInfinity, Max());
  sum = Reduce(largest == -kInfinity ? 0 : sum * __expf(largest - top), 0, Add());
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + top - Wide(logits[label]);
  __syncthreads();  // The label's logit is read.
  for (int i = threadIdx.x * kPack; i < width; i += blockDim.x * kPack) {
    Pack out = Load(logits + i);
    for (int k = 0; k < kPack; ++k) out.v[k] = __expf(out.v[k] - top) / sum - (i + k == label ? 1.0f : 0.0f);
    Store(logits + i, out);
  }
}

// One thread per 16 values, of which `count` are there; a row of `out` has `width` values and starts `stride` after the one before.
// No multiply-add: bitsandbytes rounds after the product.
extern "C" __global__ void DequantizeNf4(const uint2* codes, const Byte* scale_indices, const float* nested, float mean, U32 count,
                                         U32 width, I64 stride, Bf16* out) {
  const U32 index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const U32 block = index / 4;
  const float scale = __fadd_rn(__fmul_rn(kDynamicMap[scale_indices[block]], nested[block / 256]), mean);
  out += static_cast<I64>(index / (width / 16)) * stride + index % (width / 16) * 16;
  const uint2 bytes = codes[index];
  for (int half = 0; half < 2; ++half) {
    const U32 word = half == 0 ? bytes.x : bytes.y;
    Pack pack;
    for (int k = 0; k < 4; ++k) {
      const U32 byte = word >> (8 * k) & 255;
      pack.v[2 * k] = __fmul_rn(kNf4Codes[byte >> 4], scale);
      pack.v[2 * k + 1] = __fmul_rn(kNf4Codes[byte & 15], scale);
    }
    Store(out + half * kPack, pack);
  }
}

// counter_random.h.
__device__ inline U64 Mix64(U64 x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// One thread per pack. A value is dropped whose 53 random bits are less than `bound`.
extern "C" __global__ void DropoutMask(Bf16* mask, I64 count, U64 key, U64 bound, float keep) {
  const I64 index = (static_cast<I64>(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  if (index >= count) return;
  Pack out;
  for (int k = 0; k < kPack; ++k) {
    const U64 bits = Mix64(key + static_cast<U64>(index + k) * 0xD1342543DE82EF95ull) >> 11;
    out.v[k] = bits < bound ? 0 : keep;
  }
  Store(mask + index, out);
}
