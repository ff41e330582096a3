// The list of architectures, expanded from arch.def.
#include "arch.h"

namespace ds {

#define DS_ARCH(name) extern const arch arch_##name;
#include "arch.def"
#undef DS_ARCH

std::span<const arch *const> architectures() {
    static constexpr const arch *list[] = {
#define DS_ARCH(name) &arch_##name,
#include "arch.def"
#undef DS_ARCH
    };
    return list;
}

const arch *arch_by_name(std::string_view name) {
    for (const arch *a : architectures())
        if (name == a->name) return a;
    return nullptr;
}

// Of r1's q each row multiplies only the heads that are active in it.
bool tensor_row::adapts(const hparams &h) const {
    const bool product = what == role::query || what == role::key || what == role::value ||
                         what == role::attention_output || what == role::gate || what == role::up ||
                         what == role::down;
    const bool routed = h.heads_used > 0 && (slot == &layer_weights::q || slot == &layer_weights::q_b);
    return product && !routed && ne.size() == 2 && layer >= 0 && layer < h.blocks();
}

static bool has_word(std::string_view words, std::string_view word) {
    for (size_t end; !words.empty(); words.remove_prefix(std::min(words.size(), end + 1))) {
        end = std::min(words.find(' '), words.size());
        if (words.substr(0, end) == word) return true;
    }
    return false;
}

const arch *arch_by_checkpoint_class(std::string_view name) {
    for (const arch *a : architectures())
        if (has_word(a->checkpoint_class, name)) return a;
    return nullptr;
}

std::string architectures_known() {
    std::string s;
    for (const arch *a : architectures()) s += (s.empty() ? "" : ", ") + std::string(a->name);
    return s;
}

}  // namespace ds
