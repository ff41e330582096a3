// A reader of Jinja's syntax, which hashes a template's text and tags. Unknown syntax is hashed as '!', so
// that it never equals a known template.
#include "template_text.h"

#include <algorithm>
#include <string>

namespace ds {

namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_word(char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
           static_cast<signed char>(c) < 0;
}

// Jinja reads every kind of line end as \n and drops one at the very end.
std::string with_plain_line_ends(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
        out += text[i] == '\r' ? '\n' : text[i];
    }
    if (out.ends_with('\n')) out.pop_back();
    return out;
}

class reader {
public:
    explicit reader(std::string_view text) : rest_(text) {}

    uint64_t read() {
        while (!rest_.empty()) {
            const size_t at = next_tag();
            std::string_view text = rest_.substr(0, at);
            rest_.remove_prefix(at);
            const char kind = rest_.empty() ? 0 : rest_[1];
            if (kind) rest_.remove_prefix(2);
            const bool stripped = kind && rest_.starts_with('-');
            if (stripped) rest_.remove_prefix(1);
            put_text(stripped                     ? without_space_at_end(text)
                     : kind == '%' || kind == '#' ? without_indent(text)
                                                  : text);
            if (kind == '#') skip_comment();
            else if (kind) read_tag(kind);
        }
        flush();
        return hash_;
    }

private:
    size_t next_tag() const {
        for (size_t i = 0; i + 1 < rest_.size(); ++i)
            if (rest_[i] == '{' && (rest_[i + 1] == '{' || rest_[i + 1] == '%' || rest_[i + 1] == '#'))
                return i;
        return rest_.size();
    }

    static std::string_view without_space_at_end(std::string_view text) {
        while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
        return text;
    }

    // lstrip_blocks: white space before a block is dropped if nothing else precedes it on its line.
    std::string_view without_indent(std::string_view text) const {
        const size_t line = text.rfind('\n') + 1;  // 0 if there is none
        if (line == 0 && !line_starts_) return text;
        const bool blank = std::all_of(text.begin() + std::ptrdiff_t(line), text.end(), is_space);
        return blank ? text.substr(0, line) : text;
    }

    // Text before and after a comment is hashed as one.
    void put_text(std::string_view text) { text_ += text; }
    void flush() {
        if (text_.empty()) return;
        put('T');
        put_string(text_);
        text_.clear();
    }

    // After the end of a tag.
    void end_tag(char kind, bool stripped) {
        const std::string_view before = rest_;
        if (stripped)
            while (!rest_.empty() && is_space(rest_.front())) rest_.remove_prefix(1);
        else if (kind != '{' && rest_.starts_with('\n')) rest_.remove_prefix(1);
        const size_t n = before.size() - rest_.size();
        line_starts_ = n > 0 && before[n - 1] == '\n';
    }

    void skip_comment() {
        const size_t end = rest_.find("#}");
        if (end == std::string_view::npos) {
            put('!');  // not a template
            rest_ = {};
            return;
        }
        const bool stripped = end > 0 && rest_[end - 1] == '-';
        rest_.remove_prefix(end + 2);
        end_tag('#', stripped);
    }

    // Words and strings apart, everything else character by character.
    void read_tag(char kind) {
        flush();
        put(kind);
        const std::string_view end = kind == '{' ? "}}" : "%}";
        int open = 0;  // open braces of dictionaries, whose end is not the tag's
        while (!rest_.empty()) {
            const char c = rest_.front();
            if (open == 0 && (rest_.starts_with(end) || (c == '-' && rest_.substr(1).starts_with(end)))) {
                rest_.remove_prefix(c == '-' ? 3 : 2);
                return end_tag(kind, c == '-');
            }
            if (c == '{') ++open;
            if (c == '}') --open;
            if (is_space(c)) rest_.remove_prefix(1);
            else if (c == '\'' || c == '"') read_string();
            else if (is_word(c)) read_word();
            else put_token(rest_.substr(0, 1));
        }
        put('!');
    }

    void put_token(std::string_view token) {
        put('W');
        put_string(token);
        rest_.remove_prefix(token.size());
    }
    void read_word() {
        size_t n = 1;
        while (n < rest_.size() && is_word(rest_[n])) ++n;
        put_token(rest_.substr(0, n));
    }

    void read_string() {
        const char quote = rest_.front();
        std::string value;
        size_t i = 1;
        for (; i < rest_.size() && rest_[i] != quote; ++i) {
            if (rest_[i] != '\\' || i + 1 == rest_.size()) {
                value += rest_[i];
                continue;
            }
            const char c = rest_[++i];
            if (c == 'n') value += '\n';
            else if (c == 't') value += '\t';
            else if (c == '\\' || c == '\'' || c == '"') value += c;
            else put('!');  // no known template has this escape
        }
        put('S');
        put_string(value);
        rest_.remove_prefix(std::min(i + 1, rest_.size()));
    }

    void put(char c) { hash_ = (hash_ ^ static_cast<unsigned char>(c)) * 0x100000001b3u; }
    void put_string(std::string_view s) {  // length first, so that lists of strings hash unambiguously
        for (size_t n = s.size(), i = 0; i < 8; ++i) put(static_cast<char>(n >> (8 * i) & 0xff));
        for (const char c : s) put(c);
    }

    std::string_view rest_;
    std::string text_;
    bool line_starts_ = true;
    uint64_t hash_ = 0xcbf29ce484222325u;
};

}  // namespace

uint64_t template_fingerprint(std::string_view jinja) {
    const std::string text = with_plain_line_ends(jinja);
    return reader(text).read();
}

}  // namespace ds
