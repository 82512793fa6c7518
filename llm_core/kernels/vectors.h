// Sixteen lanes at once, by GCC's vector extensions: one AVX-512 register, two of AVX2, four of NEON.
//
// Every sum here is taken in an order that depends on the place of its terms alone, never on how many rows are in a
// call or how a prompt was cut. That is what makes an answer the same alone and in a batch, to the bit.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

constexpr int LANES = 16;

typedef float Floats __attribute__((vector_size(64), aligned(4)));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4)));

static inline Floats load(const float* from) { Floats v; std::memcpy(&v, from, sizeof v); return v; }
static inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }
static inline Floats all(float x) { return Floats{} + x; }
static inline Floats as_floats(Words w) { return (Floats)w; }
static inline Floats at_most(Floats a, Floats b) { return a < b ? a : b; }
static inline Floats at_least(Floats a, Floats b) { return a > b ? a : b; }

// bfloat16 is the upper half of a float; a pair of them fills a lane, the even place below.
static inline Floats low_half(Words pair) { return as_floats(pair << 16); }
static inline Floats high_half(Words pair) { return as_floats(pair & 0xffff0000u); }

static inline uint16_t to_bf16(float x) {  // to the nearest, halves to even, as the hardware does
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);  // stays a NaN
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

static inline float from_bf16(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

static inline float sum_of(Floats v) {
    float lane[LANES];
    store(lane, v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}

static inline float largest_of(Floats v) {
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

// e^x as 2^n * e^r with a polynomial for e^r (Cody and Waite's reduction, Cephes' coefficients): below 2 units in the
// last place. Below -87 it gives 0; a NaN stays a NaN.
static inline Floats exponential(Floats x) {
    const Floats kept = at_most(x, all(88.0f));
    const Floats scaled = kept * 1.44269504f;
    const Floats n = (scaled + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 rounds to a whole number
    Floats r = kept - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    Floats y = all(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const Ints power = (__builtin_convertvector(at_least(n, all(-126.0f)), Ints) + 127) << 23;
    const Floats result = y * (Floats)power;
    return x == x ? (x < -87.0f ? Floats{} : result) : x;
}
