// llama.cpp's quantizer beside ours: the error that each leaves in the same random rows, and their speed.
// usage: quantizers LIBGGML-BASE error                    a line for each type; fails if ours is 2 % larger
//        quantizers LIBGGML-BASE speed THREADS            on the same rows: millions of elements a second
//        quantizers LIBGGML-BASE convert THREADS RESULT.gguf OUT SHARD.safetensors...
//                                                         theirs alone: for each tensor of RESULT as many
//                                                         BF16 elements of the shards, to its type, into OUT
#include "../../tensor/blocks.h"
#include "../../tensor/gguf.h"
#include "../../tensor/os.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <functional>
#include <fcntl.h>
#include <thread>
#include <unistd.h>

using namespace ds;

namespace {

// ggml/include/ggml.h
using quantize_chunk = size_t(int type, const float *src, void *dst, int64_t start, int64_t rows,
                              int64_t columns, const float *importance);
quantize_chunk *theirs;

void load(const char *path) {
    void *const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    theirs = library ? reinterpret_cast<quantize_chunk *>(dlsym(library, "ggml_quantize_chunk")) : nullptr;
    if (theirs) return;
    std::fprintf(stderr, "quantizers: %s\n", dlerror());
    std::exit(1);
}

// xorshift64*, and nearly normal values as the sum of four uniform ones.
struct numbers {
    uint64_t state = 0x9e3779b97f4a7c15u;
    float normal() {
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        const uint64_t u = state * 0x2545f4914f6cdd1du;
        return static_cast<float>(
                   static_cast<int>((u & 0xffff) + (u >> 16 & 0xffff) + (u >> 32 & 0xffff) + (u >> 48)) -
                   131070) *
               2.6e-5f;
    }
};

std::vector<format> written() {
    std::vector<format> out;
    for (int i = 0; i < static_cast<int>(format::count); ++i)
        if (is_packed(static_cast<format>(i)) && info(static_cast<format>(i)).writes)
            out.push_back(static_cast<format>(i));
    return out;
}

// Divides [0, n) among threads at multiples of `unit`.
void share(size_t n, size_t unit, unsigned threads,
           const std::function<void(size_t first, size_t last)> &run) {
    std::vector<std::jthread> others;
    const size_t units = n / unit;
    for (unsigned t = 1; t < threads; ++t)
        others.emplace_back([=, &run] { run(units * t / threads * unit, units * (t + 1) / threads * unit); });
    run(0, units / threads * unit);
}

double error_of(format f, const std::vector<float> &x, const std::vector<uint8_t> &bytes) {
    std::vector<float> y(x.size());
    decode_row(f, bytes.data(), y.data(), y.size());
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i)
        sum += (static_cast<double>(x[i]) - y[i]) * (static_cast<double>(x[i]) - y[i]);
    return std::sqrt(sum / static_cast<double>(x.size()));
}

// Rows like those of weights, and rows with one element in 64 eight times larger.
int compare_errors() {
    constexpr size_t columns = 4096, rows = 64;
    int failed = 0;
    for (const bool outliers : {false, true}) {
        numbers r;
        std::vector<float> x(columns * rows);
        for (size_t i = 0; i < x.size(); ++i)
            x[i] = r.normal() * (outliers && (i * 2654435761u >> 16) % 64 == 0 ? 8.0f : 1.0f);
        for (const format f : written()) {
            std::vector<uint8_t> a(row_bytes(f, x.size())), b(a.size());
            for (size_t i = 0; i < rows; ++i)
                encode_row(f, &x[i * columns], &a[i * row_bytes(f, columns)], columns);
            theirs(static_cast<int>(info(f).gguf_id), x.data(), b.data(), 0, rows, columns, nullptr);
            const double ours = error_of(f, x, a), other = error_of(f, x, b), ratio = ours / other;
            const bool ok = ratio <= 1.02;
            failed += !ok;
            std::printf("%s  %-8s %s  error %.4g, llama.cpp's %.4g: %.4f of it\n", ok ? "ok    " : "FAILED",
                        info(f).text, outliers ? "rows with outliers" : "normal rows       ", ours, other,
                        ratio);
        }
    }
    return failed > 0;
}

template <class F> double seconds(const F &run) {
    const double begin = os::seconds();
    run();
    return os::seconds() - begin;
}

void compare_speed(unsigned threads) {
    constexpr size_t columns = 4096, rows = 1024;
    numbers r;
    std::vector<float> x(columns * rows);
    for (float &v : x) v = r.normal();
    for (const format f : written()) {
        const size_t bytes = row_bytes(f, columns);
        std::vector<uint8_t> to(bytes * rows);
        double ours = 1e9, other = 1e9;
        for (int round = 0; round < 3; ++round) {
            ours = std::min(ours, seconds([&] {
                                share(rows, 1, threads, [&](size_t a, size_t b) {
                                    for (; a < b; ++a)
                                        encode_row(f, &x[a * columns], &to[a * bytes], columns);
                                });
                            }));
            other = std::min(other, seconds([&] {
                                 share(rows, 1, threads, [&](size_t a, size_t b) {
                                     theirs(static_cast<int>(info(f).gguf_id), x.data(), to.data(),
                                            static_cast<int64_t>(a * columns), static_cast<int64_t>(b - a),
                                            columns, nullptr);
                                 });
                             }));
        }
        std::printf("%-8s %8.1f million elements a second, llama.cpp's %8.1f: %.2f times as fast\n",
                    info(f).text, 1e-6 * columns * rows / ours, 1e-6 * columns * rows / other, other / ours);
    }
}

// The data of the shards as one stream of elements.
struct stream {
    std::vector<os::mapping> files;
    size_t file = 0, at = 0;

    explicit stream(int count, char **paths) {
        for (int i = 0; i < count; ++i) files.push_back(os::mapping::map_file(paths[i]));
    }
    // Returns up to the requested number of elements: fewer at a file's end, none at the last one's.
    const uint8_t *next(size_t want, size_t *got) {
        for (; file < files.size(); ++file, at = 0) {
            uint64_t header;
            std::memcpy(&header, files[file].data(), sizeof header);
            const uint8_t *const data = files[file].data() + sizeof header + header;
            const size_t all = (files[file].size() - sizeof header - header) / 2;
            *got = std::min(want, all - at);
            if (*got == 0) continue;
            at += *got;
            return data + 2 * (at - *got);
        }
        *got = 0;
        return nullptr;
    }
};

void convert(unsigned threads, const char *result, const char *out, stream s) {
    const gguf_file file = gguf_file::open(result);
    const int fd = ::open(out, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    constexpr size_t chunk = 8192 * 1024;
    std::vector<float> x(chunk);
    std::vector<uint8_t> y(4 * chunk);
    double encoding = 0;
    uint64_t done = 0;
    const double all = seconds([&] {
        for (const gguf_tensor &t : file.tensors()) {
            const format f = t.type == format::i8 ? format::q8_0 : t.type;
            uint64_t left = 1;
            for (const int64_t n : t.ne) left *= static_cast<uint64_t>(n);
            for (size_t have; left > 0; left -= std::min<uint64_t>(left, have)) {
                for (size_t got = have = 0; have < std::min<uint64_t>(left, chunk); have += got) {
                    const uint8_t *const from = s.next(std::min<uint64_t>(left, chunk) - have, &got);
                    if (!from) return;
                    share(got, 1, threads, [&](size_t a, size_t b) {
                        decode_row(format::bf16, from + 2 * a, &x[have + a], b - a);
                    });
                }
                have = have / 256 * 256;
                if (have == 0) break;
                encoding += seconds([&] {
                    share(have, 256, threads, [&](size_t a, size_t b) {
                        if (f != format::f32)
                            theirs(static_cast<int>(info(f).gguf_id), x.data(), y.data(),
                                   static_cast<int64_t>(a), static_cast<int64_t>((b - a) / 256), 256,
                                   nullptr);
                    });
                });
                if (write(fd, y.data(), row_bytes(f, have)) < 0) return;
                done += have;
            }
        }
        fsync(fd);
    });
    std::printf("{\"elements\": %llu, \"seconds\": %.3f, \"encoding\": %.3f}\n",
                static_cast<unsigned long long>(done), all, encoding);
    close(fd);
}

}  // namespace

int main(int argc, char **argv) {
    const std::string what = argc > 2 ? argv[2] : "";
    if (argc > 1) load(argv[1]);
    if (what == "error" && argc == 3) return compare_errors();
    const unsigned threads = argc > 3 ? static_cast<unsigned>(std::atoi(argv[3])) : 1;
    if (what == "speed" && argc == 4) return compare_speed(threads), 0;
    if (what == "convert" && argc > 6)
        return convert(threads, argv[4], argv[5], stream(argc - 6, argv + 6)), 0;
    return std::fprintf(stderr, "usage: quantizers LIBGGML-BASE error | speed THREADS | convert THREADS "
                                "RESULT.gguf OUT SHARD...\n"),
           2;
}
