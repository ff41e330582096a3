// Cuts texts into windows of tokens. Each window starts without what came before it. A last window of one
// token is dropped, since it predicts nothing.

#include "text.h"

#include "../tensor/utf8.h"

#include <algorithm>

namespace ds {

namespace {

void remark_oddities(const std::string &path, std::string_view text, const job &j) {
    if (text.empty()) j.remark(path + ": is empty");
    const char *const begin = text.data(), *const end = begin + text.size();
    for (const char *p = begin; p < end;) {
        const uint32_t n = utf8_sequence(p, end);
        if (n == 0)
            return j.remark(path +
                            format_text(": is not UTF-8 from byte %zu on; such bytes are taken one by one",
                                        static_cast<size_t>(p - begin)));
        p += n;
    }
}

void cut(const model &m, const std::vector<token_id> &ids, size_t window, text_windows &out) {
    const bool bos = m.vocabulary.adds_bos() && m.vocabulary.bos() >= 0;
    const size_t step = window - bos;
    for (size_t begin = 0; begin < ids.size(); begin += step) {
        std::vector<token_id> w(bos, m.vocabulary.bos());
        w.insert(w.end(), ids.begin() + static_cast<std::ptrdiff_t>(begin),
                 ids.begin() + static_cast<std::ptrdiff_t>(std::min(begin + step, ids.size())));
        if (w.size() < 2) continue;
        out.tokens += w.size();
        out.list.push_back(std::move(w));
    }
}

}  // namespace

void text_windows::keep(uint64_t most) {
    if (tokens <= most) return;
    const size_t n =
        std::clamp<size_t>(static_cast<size_t>(static_cast<double>(list.size()) * static_cast<double>(most) /
                                               static_cast<double>(tokens)),
                           1, list.size());
    std::vector<std::vector<token_id>> kept;
    tokens = 0;
    for (size_t i = 0; i < n; ++i) {
        kept.push_back(std::move(list[i * list.size() / n]));
        tokens += kept.back().size();
    }
    list = std::move(kept);
}

text_windows read_windows(const model &m, const std::vector<std::string> &paths, int64_t window,
                          const job &j) {
    if (window < 2 || window > m.h.context)
        throw error(status::argument, "context: is " + std::to_string(window) +
                                          ", must be from 2 to the model's " + std::to_string(m.h.context));
    text_windows out;
    for (const std::string &path : paths) {
        const os::mapping file = os::mapping::map_file(path);
        const std::string_view text(reinterpret_cast<const char *>(file.data()), file.size());
        remark_oddities(path, text, j);
        std::vector<token_id> ids;
        try {
            m.vocabulary.encode(text, {.add_bos = false, .parse_special = true}, ids);
        } catch (const error &e) {
            throw error(e.code, path + ": " + e.text);
        }
        cut(m, ids, static_cast<size_t>(window), out);
    }
    if (out.list.empty())
        throw error(status::argument, (paths.empty() ? std::string("the text") : paths[0]) +
                                          ": has too few tokens to measure anything");
    return out;
}

}  // namespace ds
