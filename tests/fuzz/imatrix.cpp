// Importance files of both formats and statistics of calibrations, and encoding with their importance.
#include "fuzz.h"

#include "../../quantize/calibrate.h"
#include "../../quantize/imatrix.h"
#include "../../tensor/numerics.h"

#include <algorithm>

namespace ds::fuzz {

static void encode_by(const std::vector<float> &importance) {
    if (importance.size() < 32) return;
    const size_t n = importance.size() < 256 ? 32 : 256;
    std::vector<float> x(n), y(n);
    for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(static_cast<int>(i * 37 % 101) - 50) * 0.01f;
    for (const format f : {format::q4_0, format::iq4_nl, format::q4_k, format::q6_k}) {
        if (n % info(f).block) continue;
        std::vector<uint8_t> bytes(row_bytes(f, n));
        encode_row(f, x.data(), bytes.data(), n, importance.data());
        decode_row(f, bytes.data(), y.data(), n);
        for (size_t i = 0; i < n; ++i)
            must(finite_f32(y[i]) && std::abs(y[i]) < 2,
                 "weights up to 0.5 stay below 2 with any importance");
    }
}

static bool is_calibration(std::string_view input) {
    return input.find("deepseek.calibration.version") != std::string_view::npos;
}

void run(std::string_view input) {
    const std::vector<uint8_t> block(input.begin(), input.end());
    if (is_calibration(input)) {
        const calibration c = parse_calibration(os::mapping::borrow(block.data(), block.size()), "input");
        for (const linear_input &in : c.inputs) {
            must(in.mean_square.size() == in.channels() && in.samples.size() % in.channels() == 0,
                 "a value for each channel in every list");
            c.input_of(in.name, static_cast<int64_t>(in.channels()));
        }
        if (!c.inputs.empty()) encode_by(c.inputs[0].mean_square);
        return;
    }
    const imatrix m = parse_imatrix(os::mapping::borrow(block.data(), block.size()), "input");
    must(!m.entries.empty(), "a file without entries is refused");
    size_t values = 0;
    for (const auto &[name, list] : m.entries) {
        values += list.size();
        for (const float x : list) must(finite_f32(x) && x >= 0, "importances are finite and not negative");
    }
    must(values <= input.size(), "no more values than the file has");
    encode_by(m.entries.begin()->second);
}

// .dat: fields that other bytes depend on are mostly kept consistent.
static std::string changed_dat(const std::string &bytes, dice &d) {
    std::string out = bytes;
    size_t at = 4;
    std::vector<size_t> numbers = {0};
    int32_t n = 0;
    if (out.size() >= 4) memcpy(&n, out.data(), 4);
    for (int32_t i = 0; i < n && at + 4 <= out.size(); ++i) {
        int32_t length, values;
        numbers.push_back(at);
        memcpy(&length, &out[at], 4);
        if (length < 0 || out.size() - at < 12 + static_cast<size_t>(length)) break;
        at += 4 + static_cast<size_t>(length);
        numbers.push_back(at), numbers.push_back(at + 4);
        memcpy(&values, &out[at + 4], 4);
        at += 8;
        if (values < 0 || out.size() - at < static_cast<size_t>(values) * 4) break;
        if (values > 0) numbers.push_back(at + d.below(static_cast<uint64_t>(values)) * 4);
        at += static_cast<size_t>(values) * 4;
    }
    if (at + 4 <= out.size()) numbers.push_back(at);
    if (at + 8 <= out.size()) numbers.push_back(at + 4);
    const size_t where = d.of(numbers);
    if (d.one_in(3) || where + 4 > out.size()) return changed_bytes(bytes, d);
    const auto number = static_cast<uint32_t>(interesting(d));
    const auto real = static_cast<float>(interesting_float(d));
    if (d.one_in(2)) memcpy(&out[where], &number, 4);
    else memcpy(&out[where], &real, 4);
    return out;
}

std::string mutated(std::string input, dice &d) {
    return input.starts_with("GGUF") ? changed_gguf(input, gguf_words, d) : changed_dat(input, d);
}

}  // namespace ds::fuzz
