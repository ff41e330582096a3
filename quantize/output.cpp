// Writing a GGUF file beside its place, in one pass; see output.h.

#include "output.h"

#include <algorithm>
#include <cassert>

namespace ds {

namespace {
struct target { format f; uint32_t file_type; };
constexpr target targets[] = {{format::f32, 0}, {format::f16, 1}, {format::bf16, 32}, {format::q8_0, 7}};

constexpr size_t piece_bytes = 8u << 20;    // written between two looks at whether to stop
} // namespace

void write_gguf(const std::string &path, const gguf_writer &w, const job &j, const std::function<void(size_t i, const byte_sink &sink)> &produce) {
    os::output_file out(path);
    const uint64_t total = w.file_bytes();
    const auto put = [&](const void *data, size_t n) {
        for (size_t at = 0, piece; at < n; at += piece) {
            if (j.progress && !j.progress(out.size(), total)) throw error(status::cancelled, path + ": stopped before it was complete");
            piece = std::min(n - at, piece_bytes);
            out.write(static_cast<const uint8_t *>(data) + at, piece);
        }
    };
    const std::string header = w.header();
    put(header.data(), header.size());
    for (size_t i = 0; i < w.tensor_count(); ++i) {
        const uint64_t begin = out.size();
        produce(i, put);
        assert(out.size() - begin == w.tensor_bytes(i));
        (void)begin;
        const std::string zeros(w.padding(i), '\0');
        out.write(zeros.data(), zeros.size());
    }
    out.commit();
    if (j.progress) j.progress(total, total);
}

uint32_t gguf_file_type(format f) {
    for (const target &t : targets)
        if (t.f == f) return t.file_type;
    assert(!"a format that the tool writes");
    return 0;
}

std::vector<format> target_formats() {
    std::vector<format> out;
    for (const target &t : targets) out.push_back(t.f);
    return out;
}

} // namespace ds
