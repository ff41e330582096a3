// The choice of formats by tensor; see policy.h.

#include "policy.h"

#include <algorithm>

namespace ds {

static format smaller_blocks(format f) {
    switch (f) {
    case format::q2_k:
    case format::q3_k: return format::iq4_nl;
    case format::q4_k: return format::q5_0;
    case format::q5_k: return format::q5_1;
    case format::q6_k: return format::q8_0;
    default: return format::f16;
    }
}

format target_format(const tensor_row &row, format wanted) {
    if (row.stays_f32()) return format::f32;
    while (row.ne.back() % info(wanted).block != 0) wanted = smaller_blocks(wanted);
    return wanted;
}

bool is_weighted(format f) { return info(f).block > 1 && f != format::q8_0; }

static hparams read_hparams(const gguf_file &f) {
    const arch *const a = arch_by_name(std::string(f.get_string("general.architecture")));
    return a ? a->read(f) : hparams{};
}
format_policy::format_policy(format wanted, const gguf_file &f)
    : format_policy(wanted, read_hparams(f), !f.find_tensor("output.weight")) {}

// The first and last eighth of the layers, and every third between.
static bool more_bits(int64_t layer, int64_t layers) {
    return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

format format_policy::choose(const tensor_row &row) const {
    if (!info(wanted_).writes || info(wanted_).block == 1 || wanted_ == format::q8_0) return wanted_;
    if (row.what == role::output || (tied_ && row.what == role::embedding)) return format::q6_k;
    const bool value = row.what == role::value, down = row.what == role::down,
               attended = row.what == role::attention_output;
    switch (wanted_) {
    case format::q2_k:
        return value && group_ >= 4 ? format::q4_k : value || down || attended ? format::q3_k : wanted_;
    case format::q3_k:
        if (value) return row.layer < 2 ? format::q5_k : format::q4_k;
        if (down) return row.layer < layers_ / 16 ? format::q5_k : format::q4_k;
        return attended ? format::q4_k : wanted_;
    case format::q4_k:
    case format::q5_k: return (value || down) && more_bits(row.layer, layers_) ? format::q6_k : wanted_;
    default: return wanted_;
    }
}

format format_policy::operator()(const tensor_row &row) {
    if (row.stays_f32()) return format::f32;
    const format chosen = choose(row), out = target_format(row, chosen);
    if (out != chosen && fallbacks_++ == 0)
        first_ = row.name + " has rows of " + std::to_string(row.ne.back()) +
                 ", which are not whole blocks of " + std::to_string(info(chosen).block) + " (" +
                 info(chosen).text + "): " + info(out).text + " instead";
    return out;
}

void format_policy::remark(const job &j) const {
    if (fallbacks_ > 0)
        j.remark(first_ +
                 (fallbacks_ > 1 ? "; and so with " + std::to_string(fallbacks_ - 1) + " more" : ""));
}

}  // namespace ds
