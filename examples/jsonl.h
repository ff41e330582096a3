// Prompts and answers as lines of JSON: what may stand in a line of prompts, and a file of answers that is never left with half a line.
#pragma once

#include "cli.h"

#include <nlohmann/json.hpp>

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <map>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace jsonl {

using json = nlohmann::ordered_json;

struct prompt {
    size_t line = 0;
    json id;                                                      // a string or an integer; the line's number where it has none
    std::vector<std::pair<std::string, std::string>> messages;    // role, content
    ds_request how{};                                             // its pointers are made when it is submitted
    std::vector<std::string> stop;
    std::string think_end, error;                                 // error: why the line is none
};

// ---- A line of prompts

// One row a field: what the help says of it is what is read.
struct field {
    const char *name, *help;
    std::function<void(prompt &, const json &)> set;    // throws the rest of a sentence that begins with the field's name
};

inline const std::string &text_of(const json &v) {
    if (!v.is_string()) throw cli::failure("must be a string");
    const auto &s = v.get_ref<const std::string &>();
    if (s.find('\0') != std::string::npos) throw cli::failure("has a character U+0000");
    return s;
}

template <class T> T number_of(const json &v) {
    if constexpr (std::is_floating_point_v<T>) {
        if (!v.is_number()) throw cli::failure("must be a number");
        return v.get<T>();
    } else if constexpr (std::is_signed_v<T>) {
        using range = std::numeric_limits<T>;
        if (!v.is_number_integer() || (v.is_number_unsigned() && v.get<uint64_t>() > uint64_t{range::max()}) || v.get<int64_t>() < range::min())
            throw cli::failure("must be an integer from " + std::to_string(range::min()) + " to " + std::to_string(range::max()));
        return v.get<T>();
    } else {
        if (!v.is_number_unsigned() || v.get<uint64_t>() > std::numeric_limits<T>::max())
            throw cli::failure("must be an integer from 0 to " + std::to_string(std::numeric_limits<T>::max()));
        return v.get<T>();
    }
}
template <class T> std::function<void(prompt &, const json &)> number(T ds_request::*at) {
    return [at](prompt &p, const json &v) { p.how.*at = number_of<T>(v); };
}

inline void set_id(prompt &p, const json &v) {
    if (!v.is_string() && !v.is_number_integer()) throw cli::failure("must be a string or an integer");
    p.id = v;
}

inline void set_messages(prompt &p, const json &v) {
    if (!v.is_array() || v.empty()) throw cli::failure("must be an array of at least one message");
    for (const json &m : v) {
        if (!m.is_object() || m.size() != 2 || !m.contains("role") || !m.contains("content")) throw cli::failure("a message must be an object of role and content");
        p.messages.emplace_back(text_of(m["role"]), text_of(m["content"]));
    }
}

inline void set_think_budget(prompt &p, const json &v) {
    cli::set_think_budget(p.how, v.is_null() ? "off" : std::to_string(number_of<uint32_t>(v)));
}

inline void set_thinking(prompt &p, const json &v) {
    if (!v.is_boolean()) throw cli::failure("must be true or false");
    p.how.thinking = v.get<bool>() ? DS_THINKING_ON : DS_THINKING_OFF;
}

inline void set_stop(prompt &p, const json &v) {
    p.stop.clear();
    if (!v.is_array()) p.stop.push_back(text_of(v));
    else for (const json &s : v) p.stop.push_back(text_of(s));
}

inline const std::vector<field> &fields() {
    static const std::vector<field> list = {
        {"id", "a string or an integer, no two the same; default: the number of the line", set_id},
        {"prompt", "the question; this or messages", [](prompt &p, const json &v) { p.messages.emplace_back("user", text_of(v)); }},
        {"messages", "[{\"role\": \"user\", \"content\": \"…\"}, …]", set_messages},
        {"max_tokens", "as --max-new", number(&ds_request::max_new_tokens)},
        {"temperature", "as --temp", number(&ds_request::temperature)},
        {"top_p", "as --top-p", number(&ds_request::top_p)},
        {"top_k", "as --top-k", number(&ds_request::top_k)},
        {"min_p", "as --min-p", number(&ds_request::min_p)},
        {"seed", "as --seed", number(&ds_request::seed)},
        {"repetition_penalty", "from 0 to 1000", number(&ds_request::repetition_penalty)},
        {"presence_penalty", "from -1000 to 1000", number(&ds_request::presence_penalty)},
        {"frequency_penalty", "from -1000 to 1000", number(&ds_request::frequency_penalty)},
        {"thinking", "true or false, as --think", set_thinking},
        {"think_budget", "as --think-budget; null: no limit", set_think_budget},
        {"think_end", "as --think-end", [](prompt &p, const json &v) { p.think_end = text_of(v); }},
        {"priority", "an integer: of the prompts that wait, higher ones go first; default 0", number(&ds_request::priority)},
        {"stop", "a text that ends the answer, or an array of them", set_stop},
    };
    return list;
}

// `p` has the defaults. Throws a sentence about what is wrong.
inline void read_prompt(const std::string &text, prompt &p) {
    json object;
    try {
        object = json::parse(text);
    } catch (const json::parse_error &e) {
        throw cli::failure("is no JSON, at byte " + std::to_string(e.byte));
    }
    if (!object.is_object()) throw cli::failure("is no JSON object");
    if (object.contains("prompt") == object.contains("messages")) throw cli::failure("needs prompt or messages, and not both");
    for (const auto &[name, value] : object.items()) {
        const field *found = nullptr;
        for (const field &f : fields())
            if (name == f.name) found = &f;
        if (!found) throw cli::failure(name + ": there is no such field; --help lists them");
        try {
            found->set(p, value);
        } catch (const cli::failure &e) {
            throw cli::failure(name + ": " + e.what());
        }
    }
}

inline std::string place(const std::string &path, size_t line) { return (path == "-" ? "standard input" : path) + ":" + std::to_string(line); }

// Calls each(line number, text, offset) for the lines of a file; text after the last line feed is a line, too.
template <class F> void each_line(FILE *in, const std::string &path, F &&each) {
    char *buffer = nullptr;
    size_t capacity = 0, number = 0;
    uint64_t offset = 0;
    std::string text;
    for (ssize_t n; (n = getline(&buffer, &capacity, in)) >= 0; offset += text.size()) {
        text.assign(buffer, static_cast<size_t>(n));
        std::free(std::exchange(buffer, nullptr));    // `each` may throw
        each(++number, text, offset);
    }
    std::free(buffer);
    if (std::ferror(in)) throw cli::failure(path + ": could not be read: " + std::strerror(errno));
}

// All prompts, each beginning with the values of `defaults`. A line that is none throws or, where errors are kept, becomes a prompt that has an error,
// with the line's number for its id. The same id twice throws in any case.
inline std::vector<prompt> read_prompts(const std::string &path, const prompt &defaults, bool keep_errors) {
    const std::unique_ptr<FILE, int (*)(FILE *)> in(path == "-" ? stdin : std::fopen(path.c_str(), "rb"), [](FILE *f) { return f == stdin ? 0 : std::fclose(f); });
    if (!in) throw cli::failure(path + ": " + std::strerror(errno));
    std::vector<prompt> out;
    std::map<std::string, size_t> seen;
    each_line(in.get(), path, [&](size_t line, const std::string &text, uint64_t) {
        const size_t last = text.find_last_not_of(" \t\r\n");
        if (last == std::string::npos) return;
        prompt p = defaults;
        p.line = line;
        p.id = line;
        try {
            read_prompt(text.substr(0, last + 1), p);
        } catch (const cli::failure &e) {
            if (!keep_errors) throw cli::failure(place(path, line) + ": " + e.what());
            p.error = e.what();
            p.id = line;
        }
        const auto [other, added] = seen.emplace(p.id.dump(), line);
        if (!added) throw cli::failure(place(path, line) + ": id: " + p.id.dump() + " is the id of line " + std::to_string(other->second));
        out.push_back(std::move(p));
    });
    return out;
}

// ---- The file of answers

// Lines are appended whole or not at all. Opened again, it knows what it has; half a line at its end, of a machine that stopped, is dropped.
class answers {
public:
    explicit answers(const std::string &path) : path_(path), fd_(path == "-" ? STDOUT_FILENO : ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
        if (fd_ < 0) fail("could not be opened");
        struct stat s;
        regular_ = path != "-" && fstat(fd_, &s) == 0 && S_ISREG(s.st_mode);
        try {
            if (regular_) resume();
        } catch (...) {
            ::close(fd_);
            throw;
        }
    }
    answers(const answers &) = delete;
    ~answers() { if (path_ != "-") ::close(fd_); }

    const std::map<std::string, size_t> &finished() const { return finished_; }    // ids, and their lines

    void append(const json &record) {
        const std::string line = record.dump() + "\n";
        for (size_t done = 0; done < line.size();) {
            const ssize_t n = ::write(fd_, line.data() + done, line.size() - done);
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) {
                const int why = errno;
                if (regular_ && ftruncate(fd_, static_cast<off_t>(size_)) != 0) fail("could not be written, and ends in half a line");
                errno = why;
                fail("could not be written");
            }
            done += static_cast<size_t>(n);
        }
        size_ += line.size();
    }

    // Some systems say only now that the disk is full.
    void sync() {
        if (regular_ && fsync(fd_) != 0) fail("could not be written");
    }

private:
    [[noreturn]] void fail(const char *what) const { throw cli::failure(path_ + ": " + what + ": " + std::strerror(errno)); }

    void resume() {
        if (flock(fd_, LOCK_EX | LOCK_NB) != 0) fail("is in use");
        FILE *const in = fdopen(dup(fd_), "rb");
        if (!in) fail("could not be read");
        const std::unique_ptr<FILE, int (*)(FILE *)> owner(in, std::fclose);
        each_line(in, path_, [&](size_t line, const std::string &text, uint64_t offset) {
            if (text.back() != '\n') {
                const std::string begin = "{\"id\":";
                if (text.compare(0, begin.size(), begin, 0, text.size()) != 0) throw cli::failure(place(path_, line) + ": is no line of answers; this file is left as it is");
                if (ftruncate(fd_, static_cast<off_t>(offset)) != 0) fail("could not be shortened to its last whole line");
                return;
            }
            const json object = json::parse(text, nullptr, false);
            const auto id = object.is_object() ? object.find("id") : object.end();
            if (id == object.end()) throw cli::failure(place(path_, line) + ": is no line of answers, which has an id; this file is left as it is");
            if (!finished_.emplace(id->dump(), line).second) throw cli::failure(place(path_, line) + ": id " + id->dump() + " was answered before");
            size_ = offset + text.size();
        });
    }

    std::string path_;
    int fd_;
    bool regular_ = false;
    uint64_t size_ = 0;
    std::map<std::string, size_t> finished_;
};

} // namespace jsonl
