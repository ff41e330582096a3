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

static const arch *find(std::string_view text, const char *arch::*field) {
    for (const arch *a : architectures())
        if (text == a->*field) return a;
    return nullptr;
}

const arch *arch_by_name(std::string_view name) { return find(name, &arch::name); }
const arch *arch_by_checkpoint_class(std::string_view name) { return find(name, &arch::checkpoint_class); }

std::string architectures_known() {
    std::string s;
    for (const arch *a : architectures()) s += (s.empty() ? "" : ", ") + std::string(a->name);
    return s;
}

} // namespace ds
