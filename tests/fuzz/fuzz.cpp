// libFuzzer's entry points, and functions that all targets share.
#include "fuzz.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <unistd.h>

namespace ds::fuzz {

uint64_t dice::next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

uint64_t interesting(dice &d) {
    switch (d.below(6)) {
    case 0: return d.below(5);
    case 1: return (uint64_t(1) << d.below(64)) + d.below(3) - 1;
    case 2: return uint64_t(0) - d.below(5);
    case 3: return d.below(300);
    case 4: return (uint64_t(1) << (8 << d.below(4)) % 64) - d.below(3);
    default: return d.next() >> d.below(64);
    }
}

double interesting_float(dice &d) {
    const double values[] = {0,
                             -0.0,
                             1,
                             -1,
                             0.5,
                             1e-30,
                             1e-45,
                             1e30,
                             3.4e38,
                             1e300,
                             -1e30,
                             65504,
                             65520,
                             127,
                             1e6,
                             1e9,
                             std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::denorm_min()};
    return d.one_in(3) ? static_cast<double>(static_cast<int64_t>(interesting(d))) : d.of(values);
}

std::string changed_bytes(std::string s, dice &d) {
    const size_t size = s.size(), most = size + 1 + d.below(64);
    s.resize(most);
    s.resize(LLVMFuzzerMutate(reinterpret_cast<uint8_t *>(s.data()), size, most));
    return s;
}

std::string packed(const std::vector<std::string> &parts) {
    std::string out;
    for (const std::string &p : parts) {
        const auto n = static_cast<uint32_t>(p.size());
        out.append(reinterpret_cast<const char *>(&n), sizeof n).append(p);
    }
    return out;
}

std::vector<std::string> unpacked(std::string_view bytes, size_t most) {
    std::vector<std::string> out;
    while (out.size() < most && bytes.size() >= sizeof(uint32_t)) {
        uint32_t n;
        memcpy(&n, bytes.data(), sizeof n);
        bytes.remove_prefix(sizeof n);
        n = static_cast<uint32_t>(std::min<size_t>(n, bytes.size()));
        out.emplace_back(bytes.substr(0, n));
        bytes.remove_prefix(n);
    }
    return out;
}

// As f16, bf16 and f32 the 16-bit parts are about 0.08 and 0.02; as E4M3 no byte is NaN.
void fill(std::string &bytes, size_t size) {
    size_t at = bytes.size();
    bytes.resize(std::max(at, size));
    for (dice d{at}; at < bytes.size(); ++at) {
        const auto low = static_cast<uint8_t>(d.next() & 0x3f),
                   high = static_cast<uint8_t>((at & 2 ? 0x3c : 0x2d) | (d.next() & 0x80));
        bytes[at] = static_cast<char>(at & 1 ? high : low);
    }
}

const std::string &scratch() {
    static const struct directory {
        std::string path = std::filesystem::is_directory("/dev/shm") ? "/dev/shm/deepseek-fuzz-XXXXXX"
                                                                     : "/tmp/deepseek-fuzz-XXXXXX";
        pid_t owner = getpid();
        directory() { must(mkdtemp(path.data()) != nullptr, "a directory for scratch files"); }
        ~directory() {
            std::error_code ignored;
            if (getpid() == owner) std::filesystem::remove_all(path, ignored);
        }
    } made;
    return made.path;
}

void write_file(const std::string &path, std::string_view bytes) {
    FILE *const f = fopen(path.c_str(), "wb");
    must(f && fwrite(bytes.data(), 1, bytes.size(), f) == bytes.size(), "a scratch file can be written");
    fclose(f);
}

std::string read_file(const std::string &path) {
    std::string out;
    FILE *const f = fopen(path.c_str(), "rb");
    must(f != nullptr, path.c_str());
    char piece[65536];
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0;) out.append(piece, n);
    fclose(f);
    return out;
}

}  // namespace ds::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    try {
        ds::fuzz::run({reinterpret_cast<const char *>(data), size});
    } catch (const ds::error &e) {
        ds::fuzz::must(e.code != ds::status::internal && e.code != ds::status::ok, e.what());
    } catch (const std::bad_alloc &) {  // a limit that the target sets
    }
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    ds::fuzz::dice d{seed};
    std::string out = d.one_in(8) ? "" : ds::fuzz::mutated({reinterpret_cast<const char *>(data), size}, d);
    if (out.empty() || out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    memcpy(data, out.data(), out.size());
    return out.size();
}
