// out (M, N) = x (M, K) W' for weights W (N, K), packed once so that a step reads them in one stream.
//
// A panel holds 32 outputs: for each piece of K (1 number of float32, 2 of bfloat16, 4 of int8) the 32 outputs'
// weights lie side by side, a lane each. An output is therefore one lane that walks through K in order, whatever M is.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include <sys/mman.h>

#include "vectors.h"

enum Precision { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

constexpr int PANEL = 2 * LANES;
constexpr size_t CACHE_LINE = 64, HUGE_PAGE = size_t(2) << 20;
constexpr int AHEAD = 4096 / sizeof(uint32_t);  // of weights that are asked for before their turn: a page
#if defined(__AVX512F__)
constexpr int MAX_ROWS = 12;  // 24 of the 32 registers hold sums
#else
constexpr int MAX_ROWS = 2;  // a vector takes two registers of sixteen
#endif

struct Freed { void operator()(void* p) const { std::free(p); } };
template <class T> using Aligned = std::unique_ptr<T[], Freed>;

// Zeros. Large memory begins at a huge page: the system then finds it in a few steps, not one for each 4 KiB.
template <class T> Aligned<T> aligned(size_t count) {
    const size_t bytes = std::max<size_t>(count, 1) * sizeof(T);
    void* memory = nullptr;
    if (posix_memalign(&memory, bytes < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE, bytes)) throw std::bad_alloc();
    if (bytes >= HUGE_PAGE) madvise(memory, bytes, MADV_HUGEPAGE);
    std::memset(memory, 0, bytes);
    return Aligned<T>(static_cast<T*>(memory));
}

static inline int pieces_of(int K, Precision precision) {
    const int width = precision == FLOAT32 ? 1 : precision == BFLOAT16 ? 2 : 4;
    return (K + width - 1) / width;
}

// The largest size of K numbers; not a number where one of them is not.
static inline float largest_size(const float* from, int K) {
    float most = 0;
    for (int k = 0; k < K; k++) most = std::fabs(from[k]) > most || from[k] != from[k] ? std::fabs(from[k]) : most;
    return most;
}

// Rows of activations in the form that the products read: float32, or four bytes to a word with a scale for the row.
struct Activations {
    Precision precision;
    int stride = 0;
    Aligned<uint32_t> words;
    Aligned<float> scales;  // of int8: what one unit of each row is worth

    Activations(Precision p, int rows, int K)
        : precision(p), stride((p == INT8 ? pieces_of(K, p) : K) / LANES * LANES + LANES),
          words(aligned<uint32_t>(size_t(rows) * stride)), scales(aligned<float>(rows)) {}

    uint32_t* row(int m) const { return words.get() + size_t(m) * stride; }

    void set(int m, const float* from, int K) {
        if (precision == INT8) set_bytes(m, from, K);
        else std::memcpy(row(m), from, K * sizeof(float));
    }

  private:
    // Symmetric, one scale a row; stored with 128 added, as the byte product takes one side unsigned.
    void set_bytes(int m, const float* from, int K) {
        const float most = largest_size(from, K), inverse = most > 0 ? 127 / most : 0;
        scales[m] = most / 127;
        uint8_t* bytes = reinterpret_cast<uint8_t*>(row(m));
        for (int k = 0; k < K; k++) bytes[k] = uint8_t(int(std::lrintf(from[k] * inverse)) + 128);
        for (int k = K; k % 4; k++) bytes[k] = 128;
    }
};

struct Weights {
    int N = 0, K = 0, pieces = 0;
    Precision precision = FLOAT32;
    Aligned<uint32_t> panels;
    Aligned<float> scales;   // of int8: what one unit of each output's weights is worth
    Aligned<int32_t> sums;   // of int8: 128 times the sum of each output's weights
    Aligned<float> bias;

    const uint32_t* panel(int n) const { return panels.get() + size_t(n) * pieces * PANEL; }
    int num_panels() const { return (N + PANEL - 1) / PANEL; }

    void pack(const float* from, int num_out, int num_in, Precision p) {
        N = num_out, K = num_in, precision = p, pieces = pieces_of(K, p);
        panels = aligned<uint32_t>(size_t(num_panels()) * pieces * PANEL);
        if (p == INT8) scales = aligned<float>(size_t(num_panels()) * PANEL), sums = aligned<int32_t>(size_t(num_panels()) * PANEL);
        for (int n = 0; n < N; n++) pack_output(n, from + size_t(n) * K);
    }

  private:
    void pack_output(int n, const float* from) {
        uint32_t* first = panels.get() + size_t(n / PANEL) * pieces * PANEL + n % PANEL;
        float inverse = 0;
        if (precision == INT8) {
            const float most = largest_size(from, K);
            scales[n] = most / 127;
            inverse = most > 0 ? 127 / most : 0;
        }
        for (int k = 0; k < K; k++) {
            if (precision == FLOAT32) {
                std::memcpy(first + size_t(k) * PANEL, from + k, 4);
            } else if (precision == BFLOAT16) {
                reinterpret_cast<uint16_t*>(first + size_t(k / 2) * PANEL)[k % 2] = to_bf16(from[k]);
            } else {
                const int8_t byte = int8_t(std::lrintf(from[k] * inverse));
                reinterpret_cast<int8_t*>(first + size_t(k / 4) * PANEL)[k % 4] = byte;
                sums[n] += 128 * byte;
            }
        }
    }
};

// What 16 outputs' weights of one piece of K are multiplied by, one after the other: PARTS words of a row. bfloat16 is
// widened first, which costs little as all rows share it, and the products are float32's: on the Xeons measured twice
// as fast as their own bfloat16 products, more exact, and the same on every machine.
template <Precision P> struct Product {
    typedef Floats Sum;
    static constexpr int PARTS = P == BFLOAT16 ? 2 : 1;
    static inline Floats operand(Words w, int part) {
        return P == FLOAT32 ? as_floats(w) : part ? high_half(w) : low_half(w);
    }
    static inline Floats add(Floats sum, Floats w, uint32_t x) {
        float factor;
        std::memcpy(&factor, &x, 4);
#if defined(__AVX512F__)
        if constexpr (P == BFLOAT16) {  // left to itself, GCC 12 moves sums about: a fifth more time
            asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(_mm512_set1_ps(factor)));
            return sum;
        }
#endif
        return sum + w * factor;
    }
};

template <> struct Product<INT8> {
    typedef Ints Sum;
    static constexpr int PARTS = 1;
    static inline Ints operand(Words w, int) { return (Ints)w; }
    static inline Ints add(Ints sum, Ints w, uint32_t x) {
#if defined(__AVX512VNNI__)
        return (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(int(x)), (__m512i)w);
#else
        for (int i = 0; i < 4; i++) sum += ((w << (24 - 8 * i)) >> 24) * int32_t((x >> (8 * i)) & 0xff);
        return sum;
#endif
    }
};

// R rows against V vectors of outputs: V / 2 panels, which follow each other.
template <Precision P, int R, int V>
static inline void tile(const Weights& w, int first_panel, const Activations& x, int m, float* out, int stride, bool adds) {
    typedef Product<P> Each;
    typename Each::Sum sums[R][V] = {};
    const uint32_t* rows[R];
    for (int r = 0; r < R; r++) rows[r] = x.row(m + r);
    const uint32_t* at = w.panel(first_panel);
    const size_t next_panel = size_t(w.pieces) * PANEL;
    for (int k = 0; k < w.pieces; k++, at += PANEL) {
        for (int v = 0; v < V; v++) __builtin_prefetch(at + (v / 2) * next_panel + (v % 2) * LANES + AHEAD);
        for (int part = 0; part < Each::PARTS; part++) {
            decltype(Each::operand(Words{}, 0)) operands[V];
            for (int v = 0; v < V; v++) {
                Words weights;
                std::memcpy(&weights, at + (v / 2) * next_panel + (v % 2) * LANES, 64);
                operands[v] = Each::operand(weights, part);
            }
            // Row by row: each number of x is spread over a register once, and no more than one waits there.
            for (int r = 0; r < R; r++)
                for (int v = 0; v < V; v++) sums[r][v] = Each::add(sums[r][v], operands[v], rows[r][k * Each::PARTS + part]);
        }
    }
    for (int v = 0; v < V; v++) {
        const int n = first_panel * PANEL + v * LANES;
        const int count = std::min(LANES, w.N - n);
        for (int r = 0; r < R && count > 0; r++) {
            Floats value;
            if constexpr (P == INT8) {
                Ints correction;
                std::memcpy(&correction, w.sums.get() + n, 64);
                value = __builtin_convertvector(sums[r][v] - correction, Floats) * (load(w.scales.get() + n) * x.scales[m + r]);
            } else {
                value = sums[r][v];
            }
            float* to = out + size_t(r) * stride + n;
            if (count == LANES) {
                if (w.bias) value += load(w.bias.get() + n);
                store(to, adds ? load(to) + value : value);
                continue;
            }
            for (int i = 0; i < count; i++) {
                const float each = w.bias ? value[i] + w.bias[n + i] : value[i];
                to[i] = adds ? to[i] + each : each;
            }
        }
    }
}

template <Precision P, int R>
static void rows_by_panels(const Weights& w, int begin, int end, const Activations& x, int m, float* out, int stride, bool adds) {
    // A few rows leave registers free: two panels at a time hide the products' latency.
    int n = begin;
    if constexpr (R <= MAX_ROWS / 2)
        for (; n + 2 <= end; n += 2) tile<P, R, 4>(w, n, x, m, out + size_t(m) * stride, stride, adds);
    for (; n < end; n++) tile<P, R, 2>(w, n, x, m, out + size_t(m) * stride, stride, adds);
}

template <Precision P, int R = MAX_ROWS>
static void any_rows(int rows, const Weights& w, int begin, int end, const Activations& x, int m, float* out, int stride, bool adds) {
    if constexpr (R > 1)
        if (rows < R) return any_rows<P, R - 1>(rows, w, begin, end, x, m, out, stride, adds);
    rows_by_panels<P, R>(w, begin, end, x, m, out, stride, adds);
}

// out (M, N), rows `stride` apart; with `adds` what is there is added to. Weights are read from memory once.
template <Precision P>
static void multiply_as(const Weights& w, const Activations& x, int M, float* out, int stride, bool adds) {
    const int tiles = (M + MAX_ROWS - 1) / MAX_ROWS, each = M ? (M + tiles - 1) / tiles : 0;  // 32 rows: 11, 11, 10
    const int chunk = 2;  // panels that stay in the first cache while all rows pass
#pragma omp parallel for schedule(static)
    for (int n = 0; n < w.num_panels(); n += chunk)
        for (int m = 0; m < M; m += each)
            any_rows<P>(std::min(each, M - m), w, n, std::min(n + chunk, w.num_panels()), x, m, out, stride, adds);
}

static inline void multiply(const Weights& w, const Activations& x, int M, float* out, int stride, bool adds = false) {
    if (w.precision == FLOAT32) multiply_as<FLOAT32>(w, x, M, out, stride, adds);
    else if (w.precision == BFLOAT16) multiply_as<BFLOAT16>(w, x, M, out, stride, adds);
    else multiply_as<INT8>(w, x, M, out, stride, adds);
}
