// Problems with worked answers, as rows for training. One in ten is held out, by a hash of the problem alone:
// rows of one kind never have a problem of the other, whatever their seeds.
#pragma once

#include "rows.h"

namespace problems {

struct problem {
    std::string key;  // the same for problems that are the same
    std::string prompt, thought, answer;

    bool held_out() const {
        rows::fnv h;
        h.add(key);
        return rows::splitmix64::mix(h.hash) % 10 == 0;
    }
    jsonl::json row() const {
        return {{"prompt", prompt}, {"response", "<think>\n" + thought + "\n</think>\n\n" + answer}};
    }
};

// ---- Sums, column by column from the last

inline std::string number_of_digits(rows::splitmix64 &random, uint32_t digits) {
    std::string out;
    for (uint32_t i = 0; i < digits; ++i) {
        const bool first = i == 0 && digits > 1;  // not a zero
        out += static_cast<char>('0' + (first ? 1 + random.below(9) : random.below(10)));
    }
    return out;
}

inline problem sum(rows::splitmix64 &random, uint32_t digits) {
    const std::string a = number_of_digits(random, digits), b = number_of_digits(random, digits);
    problem p;
    p.key = "sum " + std::min(a, b) + " " + std::max(a, b);
    p.prompt = "What is " + a + " + " + b + "?";
    std::string total;
    int carry = 0;
    for (size_t i = a.size(); i-- > 0;) {
        const int x = a[i] - '0', y = b[i] - '0', z = x + y + carry;
        p.thought += std::to_string(x) + " + " + std::to_string(y) + " + " + std::to_string(carry) + " = " +
                     std::to_string(z) + ", write " + std::to_string(z % 10) + ", carry " +
                     std::to_string(z / 10) + "\n";
        total.insert(total.begin(), static_cast<char>('0' + z % 10));
        carry = z / 10;
    }
    if (carry) p.thought += "write 1\n", total.insert(total.begin(), '1');
    p.answer = a + " + " + b + " = " + total;
    p.thought += p.answer;
    return p;
}

// ---- Countdown: a target from some numbers, each used once

struct term {
    int64_t value;
    std::string text;
};

inline std::string listed(const std::vector<term> &terms) {
    std::string out;
    for (const term &t : terms) out += (out.empty() ? "" : " ") + std::to_string(t.value);
    return out;
}

// The numbers combined at random: steps, an expression and its value.
struct leaf {
    std::string steps;
    term whole;
};
inline leaf combine(rows::splitmix64 &random, std::vector<term> terms) {
    constexpr int64_t most_value = 999;
    leaf out;
    const auto take = [&] {
        std::swap(terms[random.below(terms.size())], terms.back());
        const term t = terms.back();
        terms.pop_back();
        return t;
    };
    while (terms.size() > 1) {
        term a = take(), b = take();
        if (a.value < b.value) std::swap(a, b);
        char op = "+-*"[random.below(3)];
        if (op == '*' && a.value * b.value > most_value) op = '+';
        const int64_t v = op == '+' ? a.value + b.value : op == '-' ? a.value - b.value : a.value * b.value;
        const bool whole = terms.empty();
        const std::string text = a.text + " " + op + " " + b.text;
        terms.push_back({v, whole ? text : "(" + text + ")"});
        out.steps += (out.steps.empty() ? "" : "\n") + std::to_string(a.value) + " " + op + " " +
                     std::to_string(b.value) + " = " + std::to_string(v);
        if (!whole) out.steps += ", left " + listed(terms);
    }
    out.whole = terms[0];
    return out;
}

// The target is written beside the value: what is compared lies side by side, and need not be remembered.
inline std::string compared(int64_t value, int64_t target) {
    return ", target " + std::to_string(target) +
           (value < target   ? ", too low\n"
            : value > target ? ", too high\n"
                             : ", found\n");
}

// Two numbers: all there is to try, so that what a try gives is learned whatever the target is. (Where a
// thought ends at the first success, models learn to write the target instead of the value.)
inline std::string all_tries(const std::vector<term> &terms, int64_t target) {
    const int64_t a = std::max(terms[0].value, terms[1].value), b = std::min(terms[0].value, terms[1].value);
    std::string out;
    for (const auto &[op, v] : {std::pair('+', a + b), std::pair('-', a - b), std::pair('*', a * b)})
        out += std::to_string(a) + " " + op + " " + std::to_string(b) + " = " + std::to_string(v) +
               compared(v, target);
    out.pop_back();
    return out;
}

// More: at most three random tries that fail, and the one that does not.
inline std::string some_tries(rows::splitmix64 &random, const std::vector<term> &terms, leaf &last) {
    const int64_t target = last.whole.value;
    std::string out;
    std::vector<std::string> tried;
    for (int draws = 0; draws < 8 && tried.size() < 3; ++draws) {
        const leaf l = combine(random, terms);
        if (l.whole.value == target) {
            last = l;
            break;
        }
        if (std::find(tried.begin(), tried.end(), l.whole.text) != tried.end()) continue;
        tried.push_back(l.whole.text);
        out += l.steps + compared(l.whole.value, target);
    }
    out += last.steps + compared(target, target);
    out.pop_back();
    return out;
}

// What a random combination gives is the target.
inline problem countdown(rows::splitmix64 &random, uint32_t count) {
    std::vector<term> terms;
    for (uint32_t i = 0; i < count; ++i) {
        const auto v = static_cast<int64_t>(1 + random.below(20));
        terms.push_back({v, std::to_string(v)});
    }
    leaf last = combine(random, terms);
    problem p;
    p.thought = count == 2 ? all_tries(terms, last.whole.value) : some_tries(random, terms, last);
    const std::string target = std::to_string(last.whole.value);
    std::vector<term> sorted = terms;
    std::sort(sorted.begin(), sorted.end(), [](const term &a, const term &b) { return a.value < b.value; });
    p.key = "countdown " + target + " from " + listed(sorted);
    p.prompt = "Make " + target + " from " + listed(terms) + " with + - *.";
    p.answer = last.whole.text + " = " + target;
    return p;
}

// ---- Whether an answer is right

struct asked {
    std::string kind;  // empty: none of these problems
    size_t size = 0;   // digits, or how many numbers
    std::vector<std::string> numbers;
    std::string target;
};

inline std::string unsigned_at(const std::string &s, size_t &at) {
    const size_t begin = at;
    while (at < s.size() && s[at] >= '0' && s[at] <= '9') ++at;
    return s.substr(begin, at - begin);
}
inline bool literal_at(const std::string &s, size_t &at, const std::string &word) {
    if (s.compare(at, word.size(), word) != 0) return false;
    at += word.size();
    return true;
}

inline asked asked_in(const std::string &prompt) {
    asked q;
    size_t at = 0;
    if (literal_at(prompt, at, "What is ")) {
        const std::string a = unsigned_at(prompt, at);
        if (!literal_at(prompt, at, " + ")) return {};
        const std::string b = unsigned_at(prompt, at);
        if (a.empty() || b.empty() || prompt.substr(at) != "?") return {};
        return {"arithmetic", std::max(a.size(), b.size()), {a, b}, ""};
    }
    if (!literal_at(prompt, at, "Make ")) return {};
    q.kind = "countdown";
    q.target = unsigned_at(prompt, at);
    if (q.target.empty() || !literal_at(prompt, at, " from")) return {};
    while (literal_at(prompt, at, " ")) {
        q.numbers.push_back(unsigned_at(prompt, at));
        if (q.numbers.back().empty()) break;
    }
    if (q.numbers.empty() || !q.numbers.back().empty() || prompt.substr(at) != "with + - *.") return {};
    q.numbers.pop_back();
    q.size = q.numbers.size();
    return q.size && q.size <= 8 ? q : asked{};
}

inline std::string sum_of(std::string a, std::string b) {
    a.insert(0, b.size() > a.size() ? b.size() - a.size() : 0, '0');
    b.insert(0, a.size() - b.size(), '0');
    int carry = 0;
    for (size_t i = a.size(); i-- > 0; carry /= 10) {
        carry += (a[i] - '0') + (b[i] - '0');
        a[i] = static_cast<char>('0' + carry % 10);
    }
    a.insert(0, static_cast<size_t>(carry), '1');
    a.erase(0, std::min(a.find_first_not_of('0'), a.size() - 1));
    return a;
}

// An expression of + - * and parentheses. Wrong ones have no value; the numbers used are collected.
class expression {
public:
    explicit expression(const std::string &text) : s_(text) {
        value = sum();
        spaces();
        ok = ok && at_ == s_.size();
    }
    bool ok = true;
    int64_t value = 0;
    std::vector<std::string> numbers;

private:
    static constexpr int64_t most = 1000000000;
    void spaces() {
        while (at_ < s_.size() && s_[at_] == ' ') ++at_;
    }
    bool take(char c) {
        spaces();
        if (at_ == s_.size() || s_[at_] != c) return false;
        return ++at_, true;
    }
    int64_t checked(int64_t v) {
        ok = ok && v >= -most && v <= most;
        return ok ? v : 0;
    }
    int64_t factor() {
        if (depth_ == 16) return ok = false, 0;
        if (take('(')) {
            ++depth_;
            const int64_t v = sum();
            --depth_;
            ok = take(')') && ok;
            return v;
        }
        const std::string n = unsigned_at(s_, at_);
        numbers.push_back(n);
        ok = ok && !n.empty() && n.size() < 10 && numbers.size() <= 64;
        return ok ? std::stoll(n) : 0;
    }
    int64_t product() {
        int64_t v = factor();
        while (ok && take('*')) v = checked(v * factor());
        return v;
    }
    int64_t sum() {
        int64_t v = product();
        while (ok) {
            if (take('+')) v = checked(v + product());
            else if (take('-')) v = checked(v - product());
            else break;
        }
        return v;
    }
    const std::string &s_;
    size_t at_ = 0;
    int depth_ = 0;
};

// The answer without its thought. A sum: the number, or an equation with it at the end. Countdown: an
// expression, or an equation of it and the target.
inline bool solves(const asked &q, std::string answer) {
    const auto trimmed = [](const std::string &s) {
        const size_t begin = s.find_first_not_of(" \t\r\n");
        return begin == std::string::npos ? "" : s.substr(begin, s.find_last_not_of(" \t\r\n") + 1 - begin);
    };
    const size_t equals = answer.rfind('=');
    const std::string left = trimmed(answer.substr(0, equals)),
                      right = equals == std::string::npos ? "" : trimmed(answer.substr(equals + 1));
    if (q.kind == "arithmetic") {
        const bool equation = equals != std::string::npos;
        return (equation ? right : left) == sum_of(q.numbers[0], q.numbers[1]) &&
               (!equation || left == q.numbers[0] + " + " + q.numbers[1]);
    }
    if (equals != std::string::npos && right != q.target) return false;
    expression e(left);
    std::vector<std::string> used = e.numbers, given = q.numbers;
    std::sort(used.begin(), used.end()), std::sort(given.begin(), given.end());
    return e.ok && used == given && std::to_string(e.value) == q.target;
}

// ---- Rows

// `count` rows, handed to `write`.
template <class Make, class Write>
void generate(Make &&make, uint64_t count, uint64_t seed, bool held_out, Write &&write) {
    rows::splitmix64 random{rows::splitmix64::mix(seed + 1)};
    constexpr uint64_t most_tries = 100000;  // there may be no such problem
    for (uint64_t i = 0, tries = 0; i < count;) {
        const problem p = make(random);
        if (p.held_out() != held_out) {
            if (++tries == most_tries) throw cli::failure("there are no such problems: ask for larger ones");
            continue;
        }
        write(p.row());
        tries = 0, ++i;
    }
}

}  // namespace problems
