// Texts of 1 MiB: three that resemble written text, and runs of one character class, for which a careless
// pre-tokenizer or merge loop takes quadratic time.
#include "text.h"

#include "../../llm/text/tokenizer.h"

#include <algorithm>

namespace bench {

namespace {

constexpr size_t text_bytes = size_t{1} << 20;

template <class F> double best_seconds(int times, F &&f) {
    double best = 1e300;
    for (int i = 0; i < times; ++i) {
        const double begin = ds::os::seconds();
        f();
        best = std::min(best, ds::os::seconds() - begin);
    }
    return best;
}

std::string repeated(std::string_view piece) {
    std::string out;
    while (out.size() < text_bytes) out += piece;
    return out;
}

// Words drawn with a bias to the front of the list, as frequencies in language are; `gap` between them, and
// sometimes a line end.
std::string words(const std::vector<std::string_view> &list, std::string_view gap,
                  std::string_view line_end) {
    std::string out;
    uint32_t random = 1;
    const auto draw = [&] { return (random = random * 1664525u + 1013904223u) >> 8; };
    while (out.size() < text_bytes) {
        const size_t n = list.size(), a = draw() % n, b = draw() % n;
        out += list[std::min(a, b)];
        out += draw() % 12 == 0 ? line_end : gap;
    }
    return out;
}

std::vector<std::pair<std::string, std::string>> texts() {
    const std::vector<std::string_view> english = {"the",
                                                   "of",
                                                   "and",
                                                   "to",
                                                   "a",
                                                   "in",
                                                   "that",
                                                   "it",
                                                   "was",
                                                   "we",
                                                   "is",
                                                   "for",
                                                   "on",
                                                   "with",
                                                   "as",
                                                   "at",
                                                   "by",
                                                   "which",
                                                   "from",
                                                   "not",
                                                   "water",
                                                   "people",
                                                   "between",
                                                   "number",
                                                   "because",
                                                   "another",
                                                   "thought",
                                                   "answer",
                                                   "question",
                                                   "government",
                                                   "mathematics",
                                                   "remainder",
                                                   "understanding",
                                                   "Paris",
                                                   "1984",
                                                   "it's",
                                                   "don't",
                                                   "twenty-one",
                                                   "3.14",
                                                   "(perhaps)",
                                                   "nevertheless",
                                                   "photosynthesis"};
    const std::vector<std::string_view> chinese = {
        "的",   "一",   "是",     "不",   "我们",     "在",   "有",   "人",   "这个",
        "中国", "大",   "来",     "上",   "问题",     "时间", "计算", "如果", "因此",
        "等于", "答案", "2024年", "函数", "深度学习", "：",   "、"};
    const std::vector<std::string_view> code = {"int",
                                                "i",
                                                "=",
                                                "0;",
                                                "return",
                                                "(",
                                                ")",
                                                "{",
                                                "}",
                                                "if",
                                                "for",
                                                "const",
                                                "x[i]",
                                                "+=",
                                                "->next",
                                                "//",
                                                "size_t",
                                                "nullptr",
                                                "std::vector<int>",
                                                "0x7f",
                                                "\"%d\\n\"",
                                                "    ",
                                                "template"};
    return {{"English", words(english, " ", ".\n")}, {"Chinese", words(chinese, "", "。\n")},
            {"code", words(code, " ", "\n    ")},    {"run of letters", repeated("a")},
            {"run of digits", repeated("7")},        {"run of spaces", repeated(" ")},
            {"run of line feeds", repeated("\n")},   {"run of punctuation", repeated("!")},
            {"run of ideographs", repeated("中")},   {"run of emoji", repeated("😀")},
            {"run of bad bytes", repeated("\xff")}};
}

// False if the vocabulary has no token for some byte of the text.
bool can_spell(const ds::tokenizer &t, const std::string &text) {
    try {
        std::vector<ds::token_id> ids;
        t.encode(text, {}, ids);
        return true;
    } catch (const ds::error &e) {
        if (e.code != ds::status::argument) throw;
        return false;
    }
}

}  // namespace

vocabulary_speed measure_vocabulary(const std::string &path) {
    vocabulary_speed out;
    out.load_seconds = best_seconds(5, [&] {
        const ds::gguf_file file = ds::gguf_file::open(path);
        out.tokens = ds::tokenizer(file).size();
    });
    const ds::gguf_file file = ds::gguf_file::open(path);
    const ds::tokenizer t(file);
    for (const auto &[name, text] : texts()) {
        if (!can_spell(t, text)) continue;
        std::vector<ds::token_id> ids;
        const double encode = best_seconds(3, [&, &text = text] {
            ids.clear();
            t.encode(text, {}, ids);
        });
        out.encode.push_back({name, text.size(), ids.size(), encode});
        if (out.decode.size() == 3) continue;
        std::string back;
        const double decode = best_seconds(3, [&] {
            back.clear();
            for (const ds::token_id id : ids) back += t.bytes(id, false);
        });
        out.decode.push_back({name, text.size(), ids.size(), decode});
    }
    return out;
}

}  // namespace bench
