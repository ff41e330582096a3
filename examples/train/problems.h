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

// Combines the numbers at random; what comes out is the target, and how is its solution.
inline problem countdown(rows::splitmix64 &random, uint32_t count) {
    constexpr int64_t most_value = 999;
    std::vector<term> terms;
    for (uint32_t i = 0; i < count; ++i) {
        const auto v = static_cast<int64_t>(1 + random.below(20));
        terms.push_back({v, std::to_string(v)});
    }
    const std::string numbers = listed(terms);
    std::vector<term> sorted = terms;
    std::sort(sorted.begin(), sorted.end(), [](const term &a, const term &b) { return a.value < b.value; });
    problem p;
    while (terms.size() > 1) {
        std::swap(terms[random.below(terms.size())], terms.back());
        const term a = terms.back();
        terms.pop_back();
        std::swap(terms[random.below(terms.size())], terms.back());
        const term b = terms.back();
        terms.pop_back();
        char op = "+-*"[random.below(3)];
        if ((op == '*' && a.value * b.value > most_value) || (op == '-' && a.value < b.value)) op = '+';
        const int64_t v = op == '+' ? a.value + b.value : op == '-' ? a.value - b.value : a.value * b.value;
        const bool whole = terms.empty();
        const std::string text = a.text + " " + op + " " + b.text;
        terms.push_back({v, whole ? text : "(" + text + ")"});
        p.thought += (p.thought.empty() ? "" : "\n") + std::to_string(a.value) + " " + op + " " +
                     std::to_string(b.value) + " = " + std::to_string(v);
        if (!whole) p.thought += ", left " + listed(terms);
    }
    const std::string target = std::to_string(terms[0].value);
    p.key = "countdown " + target + " from " + listed(sorted);
    p.prompt = "Make " + target + " from " + numbers + " with + - *.";
    p.answer = terms[0].text + " = " + target;
    return p;
}

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
