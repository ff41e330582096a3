// Writes a GGUF file in one pass, to a temporary file beside it; see output.h.

#include "output.h"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <unistd.h>

namespace ds {

namespace {
constexpr uint32_t no_file_type = UINT32_MAX;
struct target {
    format f;
    const char *text;
    uint32_t file_type;
};
constexpr target targets[] = {
    {format::f32, "f32", 0},      {format::f16, "f16", 1},        {format::bf16, "bf16", 32},
    {format::q8_0, "q8_0", 7},    {format::q6_k, "q6_k", 18},     {format::q5_k, "q5_k_m", 17},
    {format::q4_k, "q4_k_m", 15}, {format::q3_k, "q3_k_m", 12},   {format::q2_k, "q2_k", 10},
    {format::q5_1, "q5_1", 9},    {format::q5_0, "q5_0", 8},      {format::q4_1, "q4_1", 3},
    {format::q4_0, "q4_0", 2},    {format::iq4_nl, "iq4_nl", 25}, {format::i8, "int8", no_file_type},
};
const target &target_of(format f) {
    const target *const t =
        std::find_if(std::begin(targets), std::end(targets), [&](const target &x) { return x.f == f; });
    assert(t != std::end(targets));
    return *t;
}

constexpr size_t piece_bytes = 8u << 20;  // written between two checks for a stop
}  // namespace

void refuse_inputs(const std::string &path, const std::vector<std::string> &inputs) {
    for (const std::string &input : inputs) {
        std::error_code none;  // set if one does not exist: they differ then
        if (std::filesystem::equivalent(path, input, none))
            throw error(status::argument, path + ": is the same file as the input " + input +
                                              ", which the output would replace");
    }
}

std::vector<std::string> checkpoint_inputs(const std::string &directory) {
    std::vector<std::string> out;
    std::error_code none;  // the reader reports a directory that cannot be listed
    for (const auto &entry : std::filesystem::directory_iterator(directory, none)) {
        if (!entry.is_regular_file(none)) continue;
        char magic[4] = {};
        std::ifstream(entry.path(), std::ios::binary).read(magic, sizeof magic);
        if (std::memcmp(magic, "GGUF", sizeof magic) != 0) out.push_back(entry.path().string());
    }
    return out;
}

void write_gguf(const std::string &path, const gguf_writer &w, const job &j,
                const std::function<void(size_t i, const byte_sink &sink)> &produce) {
    const std::vector<gguf_writer> parts = j.split ? w.split(*j.split) : std::vector<gguf_writer>{w};
    const std::string prefix = path.ends_with(".gguf") ? path.substr(0, path.size() - 5) : path;
    uint64_t done = 0, total = 0;
    for (const gguf_writer &p : parts) total += p.file_bytes();
    const auto part_path = [&](size_t i) { return j.split ? gguf_part_path(prefix, i, parts.size()) : path; };
    for (size_t i = 0; i < parts.size(); ++i) refuse_inputs(part_path(i), j.inputs);
    std::vector<std::unique_ptr<os::output_file>> files;
    const auto put = [&](const void *data, size_t n) {
        for (size_t at = 0, piece; at < n; at += piece) {
            if (j.progress && !j.progress(done, total))
                throw error(status::cancelled, path + ": stopped before it was complete");
            piece = std::min(n - at, piece_bytes);
            files.back()->write(static_cast<const uint8_t *>(data) + at, piece);
            done += piece;
        }
    };
    size_t tensor = 0;  // index over all parts
    for (const gguf_writer &p : parts) {
        files.push_back(std::make_unique<os::output_file>(part_path(files.size())));
        const std::string header = p.header();
        put(header.data(), header.size());
        for (size_t i = 0; i < p.tensor_count(); ++i) {
            const uint64_t begin = done;
            produce(tensor++, put);
            assert(done - begin == p.tensor_bytes(i));
            (void)begin;
            const std::string zeros(p.padding(i), '\0');
            put(zeros.data(), zeros.size());
        }
        files.back()->finish();
    }
    os::output_file::commit_all(files);
    if (j.progress) j.progress(total, total);
}

scratch_file::scratch_file(const std::string &beside) : path_(beside + ".float.XXXXXX") {
    const int fd = mkstemp(path_.data());
    if (fd < 0) throw error(status::io, path_ + ": cannot be made: " + std::strerror(errno));
    close(fd);
}
scratch_file::~scratch_file() { unlink(path_.c_str()); }

constexpr std::string_view scale_suffix = "_scale";

std::string scale_name(std::string_view tensor) { return std::string(tensor) + std::string(scale_suffix); }

bool is_scales(const gguf_file &f, std::string_view name) {
    if (!name.ends_with(scale_suffix)) return false;
    const gguf_tensor *const t = f.find_tensor(name.substr(0, name.size() - scale_suffix.size()));
    return t && t->type == format::i8;
}

void set_type_keys(gguf_writer &w, format f) {
    const target &t = target_of(f);
    const bool ours = t.file_type == no_file_type;
    for (const char *const key : {"general.file_type", "general.quantization_version"})
        if (ours) w.erase(key);
    if (ours) return w.set_u32("deepseek.quant.version", 1);
    w.erase("deepseek.quant.version");
    w.set_u32("general.file_type", t.file_type);
    w.set_u32("general.quantization_version", 2);
}

const char *target_text(format f) { return target_of(f).text; }

std::vector<format> target_formats() {
    std::vector<format> out;
    for (const target &t : targets) out.push_back(t.f);
    return out;
}

}  // namespace ds
