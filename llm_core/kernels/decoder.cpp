// One step of a decoder (Llama, Mistral, Qwen2, Qwen3, GPT-2) for rows of many sequences at once, on a CPU.
//
// A row is one token at one position of one sequence; a prompt's chunk is many rows, a sequence that writes is one. Keys
// and values lie in blocks of 16 positions, which a sequence's table names in order. Each row is computed alone: its
// result depends neither on the other rows nor on which step computed the positions before it.
//
// Letters: M rows, C width, H query heads, G key/value heads, D head size, V vocabulary, S positions.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <limits>
#include <stdexcept>
#include <string>

#include <sys/mman.h>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "matmul.h"

constexpr int BLOCK = LANES;  // positions of a block: a lane each when scores are made

enum Norm { ROOT_MEAN_SQUARE = 0, LAYER = 1 };
enum Activation { SWIGLU = 0, GELU_TANH = 1, GELU = 2, RELU = 3 };

extern "C" struct Shape {
    int32_t vocab_size, num_layers, width, num_heads, num_kv_heads, head_size, mlp_width, context;
    int32_t precision, norm, activation, num_blocks;
    float norm_eps;
};

extern "C" struct Step {
    int32_t num_rows, num_wanted, table_width;
    const int32_t* ids;        // (M) tokens
    const int32_t* positions;  // (M) their places in their texts
    const int32_t* texts;      // (M) which table is theirs
    const int32_t* tables;     // (texts, table_width) blocks in order
    const int32_t* wanted;     // rows whose logits are asked for
    float* logits;             // (wanted, V)
    int32_t* likeliest;        // (wanted) the first of the largest logits
    float* logsumexp;          // (wanted) not finite where a logit is not
};

struct Vector {
    Aligned<float> values;
    int size = 0;
    explicit operator bool() const { return size; }
    void set(const float* from, int count) {
        values = aligned<float>(size_t(count + PANEL) / PANEL * PANEL), size = count;
        std::memcpy(values.get(), from, count * sizeof(float));
    }
};

struct Layer {
    Vector norm, norm_bias, mlp_norm, mlp_norm_bias, q_norm, k_norm;
    Weights qkv, out, up, down;
    int window = 0;  // positions that are seen, its own included; 0 for all
};

static float dot(const float* a, const float* b, int count) {
    Floats sums = {};
    int i = 0;
    for (; i + LANES <= count; i += LANES) sums += load(a + i) * load(b + i);
    float rest = 0;
    for (; i < count; i++) rest += a[i] * b[i];
    return sum_of(sums) + rest;
}

static float sum(const float* a, int count) {
    Floats sums = {};
    int i = 0;
    for (; i + LANES <= count; i += LANES) sums += load(a + i);
    float rest = 0;
    for (; i < count; i++) rest += a[i];
    return sum_of(sums) + rest;
}

// Blocks of 16 positions. Keys lie with a position a lane, so that 16 scores are made at once; in bfloat16 a pair of
// dimensions a lane. Values lie with a dimension a lane, position by position; in bfloat16 a pair of positions a lane.
// Memory is taken from the system when it is first written to.
class KeyValueBlocks {
  public:
    KeyValueBlocks(const Shape& s)
        : halves_(s.precision != FLOAT32), heads_(s.num_kv_heads), size_((s.head_size + LANES - 1) / LANES * LANES), blocks_(s.num_blocks) {
        bytes_ = size_t(s.num_layers) * blocks_ * heads_ * block_bytes();
        keys_ = reserve(), values_ = reserve();
    }
    ~KeyValueBlocks() { munmap(keys_, bytes_), munmap(values_, bytes_); }

    int padded_size() const { return size_; }
    bool halves() const { return halves_; }
    const char* keys(int layer, int block, int head) const { return keys_ + place(layer, block, head); }
    const char* values(int layer, int block, int head) const { return values_ + place(layer, block, head); }

    void write(int layer, int block, int head, int slot, const float* key, const float* value, int D) {
        char *keys = keys_ + place(layer, block, head), *values = values_ + place(layer, block, head);
        for (int d = 0; d < D; d++) {
            if (halves_) {
                reinterpret_cast<uint16_t*>(keys)[(d / 2 * BLOCK + slot) * 2 + d % 2] = to_bf16(key[d]);
                reinterpret_cast<uint16_t*>(values)[(slot / 2 * size_ + d) * 2 + slot % 2] = to_bf16(value[d]);
            } else {
                reinterpret_cast<float*>(keys)[d * BLOCK + slot] = key[d];
                reinterpret_cast<float*>(values)[slot * size_ + d] = value[d];
            }
        }
    }

  private:
    size_t block_bytes() const { return size_t(BLOCK) * size_ * (halves_ ? 2 : 4); }
    size_t place(int layer, int block, int head) const { return ((size_t(layer) * blocks_ + block) * heads_ + head) * block_bytes(); }
    char* reserve() const {
        void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        madvise(memory, bytes_, MADV_HUGEPAGE);  // else a third of the time goes into finding pages
        return static_cast<char*>(memory);
    }
    bool halves_;
    int heads_, size_, blocks_;
    size_t bytes_;
    char *keys_, *values_;
};

class Decoder {
  public:
    explicit Decoder(const Shape& s) : shape_(s), layers_(s.num_layers), blocks_(s) {}

    void set(const std::string& name, int layer, const float* from, int rows, int columns) {
        const Precision precision = Precision(shape_.precision);
        if (name == "tokens") return embeddings_.set(from, rows * columns);
        if (name == "places") return places_.set(from, rows * columns);
        if (name == "cos") return cos_.set(from, rows * columns);
        if (name == "sin") return sin_.set(from, rows * columns);
        if (name == "norm") return norm_.set(from, columns);
        if (name == "norm_bias") return norm_bias_.set(from, columns);
        if (name == "head") return head_.pack(from, rows, columns, precision);
        Layer& at = layers_.at(layer);
        if (name == "attention.norm") return at.norm.set(from, columns);
        if (name == "attention.norm_bias") return at.norm_bias.set(from, columns);
        if (name == "attention.q_norm") return at.q_norm.set(from, columns);
        if (name == "attention.k_norm") return at.k_norm.set(from, columns);
        if (name == "attention.qkv") return at.qkv.pack(from, rows, columns, precision);
        if (name == "attention.out") return at.out.pack(from, rows, columns, precision);
        if (name == "attention.qkv_bias") return set_bias(at.qkv, from, columns);
        if (name == "attention.out_bias") return set_bias(at.out, from, columns);
        if (name == "attention.window") { at.window = int(from[0]); return; }
        if (name == "mlp.norm") return at.mlp_norm.set(from, columns);
        if (name == "mlp.norm_bias") return at.mlp_norm_bias.set(from, columns);
        if (name == "mlp.up") return at.up.pack(from, rows, columns, precision);
        if (name == "mlp.down") return at.down.pack(from, rows, columns, precision);
        if (name == "mlp.up_bias") return set_bias(at.up, from, columns);
        if (name == "mlp.down_bias") return set_bias(at.down, from, columns);
        throw std::invalid_argument("no such weights: " + name);
    }

    void run(const Step& step) {
        const int M = step.num_rows, C = shape_.width;
        if (!work_ || M > work_->rows) work_.reset(), work_ = std::make_unique<Work>(shape_, M);
        Work& work = *work_;
        embed(step, work.states.get());
        for (int l = 0; l < shape_.num_layers; l++) {
            const Layer& layer = layers_[l];
            normalize(work.states.get(), M, layer.norm, layer.norm_bias, work.input);
            multiply(layer.qkv, work.input, M, work.projected.get(), layer.qkv.N);
            remember(step, l, work.projected.get());
            attend(step, l, work.projected.get(), work.attended);
            multiply(layer.out, work.attended, M, work.states.get(), C, true);
            normalize(work.states.get(), M, layer.mlp_norm, layer.mlp_norm_bias, work.input);
            multiply(layer.up, work.input, M, work.inner.get(), layer.up.N);
            activate(work.inner.get(), M, layer.up.N, work.activated);
            multiply(layer.down, work.activated, M, work.states.get(), C, true);
        }
        tell(step, work);
    }

  private:
    struct Work {  // what a step holds; kept for the next, as getting and clearing memory would take a twentieth of it
        int rows;
        Aligned<float> states, projected, inner;
        Activations input, attended, activated;
        Work(const Shape& s, int M)
            : rows(M), states(aligned<float>(size_t(M) * s.width)),
              projected(aligned<float>(size_t(M) * (s.num_heads + 2 * s.num_kv_heads) * s.head_size)),
              inner(aligned<float>(size_t(M) * s.mlp_width * (s.activation == SWIGLU ? 2 : 1))),
              input(Precision(s.precision), M, s.width),
              attended(Precision(s.precision), M, s.num_heads * s.head_size),
              activated(Precision(s.precision), M, s.mlp_width) {}
    };

    static void set_bias(Weights& weights, const float* from, int count) {
        weights.bias = aligned<float>(size_t(count + PANEL) / PANEL * PANEL);
        std::memcpy(weights.bias.get(), from, count * sizeof(float));
    }

    void embed(const Step& step, float* states) const {
        const int C = shape_.width;
        for (int m = 0; m < step.num_rows; m++) {
            const float* token = embeddings_.values.get() + size_t(step.ids[m]) * C;
            const float* place = places_ ? places_.values.get() + size_t(step.positions[m]) * C : nullptr;
            for (int c = 0; c < C; c++) states[size_t(m) * C + c] = place ? token[c] + place[c] : token[c];
        }
    }

    void norm_row(const float* x, int C, const Vector& gain, const Vector& bias, float* to) const {
        const bool centred = shape_.norm == LAYER && bias;
        const float mean = centred ? sum(x, C) / C : 0;
        for (int c = 0; c < C; c++) to[c] = x[c] - mean;
        const float scale = 1 / std::sqrt(dot(to, to, C) / C + shape_.norm_eps);
        const float *g = gain.values.get(), *b = bias.values.get();
        for (int c = 0; c < C; c++) to[c] = centred ? to[c] * scale * g[c] + b[c] : to[c] * scale * g[c];
    }

    void normalize(const float* states, int M, const Vector& gain, const Vector& bias, Activations& to) const {
        const int C = shape_.width;
#pragma omp parallel
        {
            Aligned<float> normed = aligned<float>(C);
#pragma omp for
            for (int m = 0; m < M; m++) {
                norm_row(states + size_t(m) * C, C, gain, bias, normed.get());
                to.set(m, normed.get(), C);
            }
        }
    }

    // Turn a head by its position's angles: dimension d pairs with d + D/2.
    void rotate(float* head, int position) const {
        const int D = shape_.head_size, half = D / 2;
        const float* cos = cos_.values.get() + size_t(position) * D;
        const float* sin = sin_.values.get() + size_t(position) * D;
        for (int d = 0; d < half; d++) {
            const float first = head[d], second = head[d + half];
            head[d] = first * cos[d] - second * sin[d];
            head[d + half] = second * cos[d] + first * sin[d];
        }
    }

    // Finish queries and keys, and put keys and values into their blocks.
    void remember(const Step& step, int l, float* projected) {
        const Layer& layer = layers_[l];
        const int D = shape_.head_size, H = shape_.num_heads, G = shape_.num_kv_heads;
#pragma omp parallel for
        for (int m = 0; m < step.num_rows; m++) {
            float* q = projected + size_t(m) * layer.qkv.N;
            float *k = q + H * D, *v = k + G * D;
            const int position = step.positions[m];
            for (int h = 0; h < H + G; h++) {
                const Vector& gain = h < H ? layer.q_norm : layer.k_norm;
                if (gain) norm_row(q + h * D, D, gain, Vector(), q + h * D);
                if (cos_) rotate(q + h * D, position);
            }
            const int block = step.tables[size_t(step.texts[m]) * step.table_width + position / BLOCK];
            for (int g = 0; g < G; g++) blocks_.write(l, block, g, position % BLOCK, k + g * D, v + g * D, D);
        }
    }

    // softmax(q k' / sqrt(D)) v of each row over its own positions. All heads of a block before the next block: its keys
    // and values are one stream of memory, which is what this costs.
    void attend(const Step& step, int l, const float* projected, Activations& to) const {
        const int D = shape_.head_size, H = shape_.num_heads, padded = blocks_.padded_size();
        const int stride = (H + 2 * shape_.num_kv_heads) * D, longest = shape_.context + BLOCK;
#pragma omp parallel
        {
            Aligned<float> queries = aligned<float>(size_t(H) * padded), sums = aligned<float>(size_t(H) * padded);
            Aligned<float> scores = aligned<float>(size_t(H) * longest), result = aligned<float>(size_t(H) * D);
#pragma omp for schedule(dynamic, 4)
            for (int m = 0; m < step.num_rows; m++) {
                const int* table = step.tables + size_t(step.texts[m]) * step.table_width;
                const int position = step.positions[m], window = layers_[l].window;
                const int first = window ? std::max(0, position - window + 1) : 0;
                for (int h = 0; h < H; h++)  // zeros stay behind each query
                    std::memcpy(queries.get() + h * padded, projected + size_t(m) * stride + h * D, D * sizeof(float));
                score(l, first, position, table, queries.get(), scores.get(), longest);
                for (int h = 0; h < H; h++) share(first, position, scores.get() + size_t(h) * longest);
                std::memset(sums.get(), 0, size_t(H) * padded * sizeof(float));
                if (blocks_.halves()) weigh<true>(l, first, position, table, scores.get(), longest, sums.get());
                else weigh<false>(l, first, position, table, scores.get(), longest, sums.get());
                for (int h = 0; h < H; h++) std::memcpy(result.get() + h * D, sums.get() + h * padded, D * sizeof(float));
                to.set(m, result.get(), H * D);
            }
        }
    }

    // q k' / sqrt(D) of each head and position, `longest` apart; minus infinity where a query does not see.
    void score(int l, int first, int position, const int* table, const float* queries, float* scores, int longest) const {
        const int H = shape_.num_heads, shared = H / shape_.num_kv_heads, padded = blocks_.padded_size();
        const float scale = 1 / std::sqrt(float(shape_.head_size));
        const int last = position / BLOCK;
        for (int b = first / BLOCK; b <= last; b++) {
            for (int h = 0; h < H; h++) {
                const char* next = b < last ? blocks_.keys(l, table[b + 1], h / shared) : blocks_.values(l, table[first / BLOCK], h / shared);
                Floats found = scores_of_block(blocks_.keys(l, table[b], h / shared), queries + h * padded, next) * scale;
                for (int i = 0; i < BLOCK && (b * BLOCK < first || b * BLOCK + BLOCK > position); i++)
                    if (b * BLOCK + i > position || b * BLOCK + i < first) found[i] = -std::numeric_limits<float>::infinity();
                store(scores + size_t(h) * longest + b * BLOCK, found);
            }
        }
    }

    // Dimension d goes to sum d % 4: four chains of additions instead of one that waits for itself. Line by line, what
    // comes `next` is asked for: half of the time would go into waiting for it, and a whole block at once would queue.
    Floats scores_of_block(const char* keys, const float* query, const char* next) const {
        const int D = blocks_.padded_size();
        Floats sums[4] = {};
        for (int d = 0; d < D; d += 4) {
            if (blocks_.halves()) {
                for (int i = 0; i < 4; i += 2) {
                    Words pair;
                    std::memcpy(&pair, keys + (d + i) / 2 * 64, 64);
                    __builtin_prefetch(next + (d + i) / 2 * 64);
                    sums[i] += low_half(pair) * query[d + i];
                    sums[i + 1] += high_half(pair) * query[d + i + 1];
                }
            } else {
                for (int i = 0; i < 4; i++) {
                    sums[i] += load(reinterpret_cast<const float*>(keys) + (d + i) * BLOCK) * query[d + i];
                    __builtin_prefetch(next + (d + i) * 64);
                }
            }
        }
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }

    // One head's softmax, in place.
    void share(int first, int position, float* scores) const {
        const int begin = first / BLOCK * BLOCK;
        Floats most = all(-std::numeric_limits<float>::infinity()), total = {};
        for (int s = begin; s <= position; s += BLOCK) most = at_least(load(scores + s), most);
        const Floats top = all(largest_of(most));
        for (int s = begin; s <= position; s += BLOCK) {
            const Floats share = exponential(load(scores + s) - top);
            store(scores + s, share);
            total += share;
        }
        const float inverse = 1 / sum_of(total);
        for (int s = begin; s <= position; s += BLOCK) store(scores + s, load(scores + s) * inverse);
    }

    // Each head's sum of the values of positions first..position by their shares.
    template <bool HALVES>
    void weigh(int l, int first, int position, const int* table, const float* shares, int longest, float* sums) const {
        const int H = shape_.num_heads, shared = H / shape_.num_kv_heads, padded = blocks_.padded_size();
        const int last = position / BLOCK;
        for (int b = first / BLOCK; b <= last; b++) {
            const int end = std::min(BLOCK, position + 1 - b * BLOCK);
            for (int h = 0; h < H; h++) {
                const char* values = blocks_.values(l, table[b], h / shared);
                const char* next = blocks_.values(l, table[std::min(b + 1, last)], h / shared);
                const float *by = shares + size_t(h) * longest + b * BLOCK;
                int d = 0;
                for (; d + 4 * LANES <= padded; d += 4 * LANES) weigh_part<HALVES, 4>(values, next, by, end, d, sums + h * padded + d);
                for (; d < padded; d += LANES) weigh_part<HALVES, 1>(values, next, by, end, d, sums + h * padded + d);
            }
        }
    }

    // W vectors of 16 dimensions from dimension d on, of the block's first positions; those not seen have a share of 0.
    template <bool HALVES, int W>
    void weigh_part(const char* values, const char* next, const float* shares, int end, int d, float* sums) const {
        const int padded = blocks_.padded_size();
        Floats part[W];
        for (int w = 0; w < W; w++) part[w] = load(sums + w * LANES);
        for (int i = 0; i < end; i += HALVES ? 2 : 1) {
            for (int w = 0; w < W; w++) {
                if constexpr (HALVES) {
                    Words pair;
                    const size_t place = (size_t(i) / 2 * padded + d + w * LANES) * 4;
                    std::memcpy(&pair, values + place, 64);
                    __builtin_prefetch(next + place);
                    part[w] += low_half(pair) * shares[i];
                    // What lies behind the end may be anything, and 0 times that no number.
                    if (i + 1 < end) part[w] += high_half(pair) * shares[i + 1];
                } else {
                    const size_t place = (size_t(i) * padded + d + w * LANES) * 4;
                    part[w] += load(reinterpret_cast<const float*>(values + place)) * shares[i];
                    __builtin_prefetch(next + place);
                }
            }
        }
        for (int w = 0; w < W; w++) store(sums + w * LANES, part[w]);
    }

    void activate(float* inner, int M, int N, Activations& to) const {
        const int F = shape_.mlp_width;
#pragma omp parallel for
        for (int m = 0; m < M; m++) {
            float* x = inner + size_t(m) * N;
            const float* up = x + F;  // of SwiGLU
            int f = 0;
            for (; f + LANES <= F; f += LANES) store(x + f, activated(load(x + f), shape_.activation == SWIGLU ? load(up + f) : Floats{}));
            if (f < F) {
                float gates[LANES] = {}, ups[LANES] = {};
                std::memcpy(gates, x + f, (F - f) * sizeof(float));
                if (shape_.activation == SWIGLU) std::memcpy(ups, up + f, (F - f) * sizeof(float));
                store(gates, activated(load(gates), load(ups)));
                std::memcpy(x + f, gates, (F - f) * sizeof(float));
            }
            to.set(m, x, F);
        }
    }

    Floats activated(Floats x, Floats up) const {
        if (shape_.activation == SWIGLU) return x / (1.0f + exponential(-x)) * up;
        if (shape_.activation == RELU) return at_least(x, Floats{});
        if (shape_.activation == GELU_TANH) {  // tanh(y) = 1 - 2 / (e^2y + 1)
            const Floats y = (x + x * x * x * 0.044715f) * 0.7978845608f;
            return x * (1.0f - 1.0f / (exponential(y * 2.0f) + 1.0f));
        }
        Floats y = x;
        for (int i = 0; i < LANES; i++) y[i] = x[i] * 0.5f * (1 + std::erf(x[i] * 0.70710678f));
        return y;
    }

    // Logits of the wanted rows, their first largest one, and the logarithm of the sum of their exponentials.
    void tell(const Step& step, Work& work) const {
        const int C = shape_.width, V = shape_.vocab_size;
        for (int i = 0; i < step.num_wanted; i++)  // rows only move towards the front
            std::memmove(work.states.get() + size_t(i) * C, work.states.get() + size_t(step.wanted[i]) * C, C * sizeof(float));
        normalize(work.states.get(), step.num_wanted, norm_, norm_bias_, work.input);
        multiply(head_, work.input, step.num_wanted, step.logits, V);
#pragma omp parallel for
        for (int i = 0; i < step.num_wanted; i++) {
            const float* logits = step.logits + size_t(i) * V;
            int best = 0;
            Floats most = all(-std::numeric_limits<float>::infinity());
            int v = 0;
            for (; v + LANES <= V; v += LANES) most = at_least(load(logits + v), most);
            float top = largest_of(most);
            for (; v < V; v++) top = std::max(top, logits[v]);
            while (best < V - 1 && logits[best] != top) best++;
            step.likeliest[i] = best;
            Floats total = {};
            for (v = 0; v + LANES <= V; v += LANES) total += exponential(load(logits + v) - top);
            float rest = 0;
            for (; v < V; v++) rest += std::exp(logits[v] - top);
            step.logsumexp[i] = top + std::log(sum_of(total) + rest);
        }
    }

    Shape shape_;
    std::vector<Layer> layers_;
    KeyValueBlocks blocks_;
    Vector embeddings_, places_, cos_, sin_, norm_, norm_bias_;
    Weights head_;
    std::unique_ptr<Work> work_;
};

static thread_local std::string problem;

template <class Work> static int guarded(Work work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        problem = "out of memory";
    } catch (const std::exception& found) {
        problem = found.what();
    }
    return 1;
}

extern "C" {

const char* decoder_problem() { return problem.c_str(); }

Decoder* decoder_new(const Shape* shape) {
    Decoder* made = nullptr;
    guarded([&] { made = new Decoder(*shape); });
    return made;
}

void decoder_free(Decoder* decoder) { delete decoder; }

int decoder_set(Decoder* decoder, const char* name, int layer, const float* from, int rows, int columns) {
    return guarded([&] { decoder->set(name, layer, from, rows, columns); });
}

int decoder_run(Decoder* decoder, const Step* step, int num_threads) {
#if defined(_OPENMP)
    omp_set_num_threads(num_threads);
#endif
    return guarded([&] { decoder->run(*step); });
}

}  // extern "C"
