// The lists of variants, expanded from ops.def, and the loop over a graph's nodes. All nodes are queued on
// one stream.
#include "context.h"

#include <cstring>

namespace ds::cuda {

#define DS_VARIANTS_yes(name) extern const variants name##_variants;
#define DS_VARIANTS_no(name)
#define DS_OP(name, sources, params, cpu, cuda, ...) DS_VARIANTS_##cuda(name)
#include "../tensor/ops.def"
#undef DS_OP
#undef DS_VARIANTS_yes
#undef DS_VARIANTS_no

variants variants_of(op k) {
    static constexpr const variants *lists[] = {
#define DS_VARIANTS_yes(name) &name##_variants,
#define DS_VARIANTS_no(name) nullptr,
#define DS_OP(name, sources, params, cpu, cuda, ...) DS_VARIANTS_##cuda(name)
#include "../tensor/ops.def"
#undef DS_OP
    };
    const variants *const list = lists[static_cast<size_t>(k)];
    return list ? *list : variants{};
}

static const variant *first_that_fits(const context &c, const node &n) {
    for (const variant &v : variants_of(n.kind))
        if (v.fits(c, n)) return &v;
    return nullptr;
}

const variant *choose_variant(const context &c, const node &n) {
    const variant *const forced = c.forced[static_cast<size_t>(n.kind)];
    return forced && forced->fits(c, n) ? forced : first_that_fits(c, n);
}

size_t most_work_bytes(const context &c, const node &n) {
    size_t most = 0;
    const auto take = [&](const variant *v) {
        if (v && v->work_bytes && v->fits(c, n)) most = std::max(most, v->work_bytes(c, n));
    };
    take(c.forced[static_cast<size_t>(n.kind)]);
    take(first_that_fits(c, n));
    return most;
}

void force_variant(context &c, const std::string &op_name, const std::string &variant_name) {
    for (size_t k = 0; k < static_cast<size_t>(op::count); ++k) {
        if (op_name != info(static_cast<op>(k)).name) continue;
        std::string known;
        for (const variant &v : variants_of(static_cast<op>(k))) {
            if (variant_name == v.name) {
                c.forced[k] = &v;
                return;
            }
            known += (known.empty() ? "" : ", ") + std::string(v.name);
        }
        throw error(status::argument,
                    op_name + " has no variant " + quoted(variant_name) +
                        " on a CUDA device; there are: " + (known.empty() ? "none" : known));
    }
    throw error(status::argument, "no operation " + quoted(op_name));
}

void check_launch(const context &c, int code, const node &n) {
    if (code == 0) return;
    throw error(status::device,
                format_text("CUDA: %s: %s", info(n.kind).name,
                            c.error_text ? c.error_text(code) : std::to_string(code).c_str()));
}

static void run_node(const context &c, const node &n, void *work) {
    const variant *const v = choose_variant(c, n);
    if (!v) throw error(status::unsupported, std::string("cuda cannot compute ") + info(n.kind).name);
    v->run(c, n, static_cast<char *>(work));
}
void run_nodes(const context &c, const graph &g, void *work) {
    for (const node &n : g.nodes()) run_node(c, n, work);
}

// More rows than decoding has, with a margin: such a step takes longer than one read of all weights.
bool takes_long(const graph &g) { return g.nodes().size() > piece_nodes && g.nodes()[0].out.ne[0] > 128; }

bool run_pieces(const context &c, const graph &g, void *work, const std::function<bool()> &go_on) {
    size_t queued = 0;
    for (const node &n : g.nodes()) {
        run_node(c, n, work);
        if (++queued % piece_nodes == 0 && queued < g.nodes().size() && !go_on()) return false;
    }
    return true;
}

}  // namespace ds::cuda
