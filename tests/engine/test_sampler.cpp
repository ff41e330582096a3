// The sampler against double arithmetic that shares no code with it: the tokens left after each filter, how
// often each is drawn, penalties and biases, and refused settings.
#include "../../llm/engine/sampler.h"
#include "../../tensor/numerics.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <set>

using namespace ds;

namespace {

constexpr float inf = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(size_t n, unsigned seed, float spread = 2) {
    std::mt19937 random(seed);
    std::normal_distribution<float> any(0, 1);
    std::vector<float> out(n);
    for (float &x : out) x = spread * any(random);
    return out;
}

// The distribution that a draw follows: softmax in double, and the filters as deepseek.h defines them.
std::vector<double> expected(const std::vector<float> &logits, const sampling &s) {
    std::vector<size_t> order(logits.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    std::vector<double> p(logits.size());
    for (size_t i = 0; i < p.size(); ++i)
        p[i] = std::exp((static_cast<double>(logits[i]) - logits[order[0]]) / s.temperature);
    size_t keep = order.size();
    if (s.top_k) keep = std::min<size_t>(keep, s.top_k);
    double left = 0, reached = 0;
    for (size_t i = 0; i < keep; ++i) left += p[order[i]];
    if (s.top_p > 0) {
        size_t n = 0;
        while (n < keep && reached < s.top_p * left) reached += p[order[n++]];
        keep = n;
    }
    while (keep > 1 && p[order[keep - 1]] < s.min_p) --keep;
    std::vector<double> out(p.size(), 0.0);
    double sum = 0;
    for (size_t i = 0; i < keep; ++i) sum += p[order[i]];
    for (size_t i = 0; i < keep; ++i) out[order[i]] = p[order[i]] / sum;
    return out;
}

// Pearson's chi-squared statistic over `draws` positions, with rare tokens pooled. More than six standard
// deviations is an error rather than chance.
void check_frequencies(const std::vector<float> &logits, const sampling &s, int draws) {
    sampler one(logits.size());
    const std::vector<double> p = expected(logits, s);
    std::vector<int> seen(logits.size(), 0);
    for (int i = 0; i < draws; ++i)
        ++seen[static_cast<size_t>(one.choose(logits.data(), s, nullptr, static_cast<uint64_t>(i)))];
    double statistic = 0, rare = 0;
    int rare_seen = 0, groups = 0;
    const auto add = [&](double wanted, int got) {
        statistic += (got - wanted) * (got - wanted) / wanted;
        ++groups;
    };
    for (size_t t = 0; t < p.size(); ++t) {
        CAPTURE(t);
        if (p[t] == 0) CHECK(seen[t] == 0);
        else if (p[t] * draws < 10) rare += p[t] * draws, rare_seen += seen[t];
        else add(p[t] * draws, seen[t]);
    }
    if (rare > 5) add(rare, rare_seen);
    const int freedom = groups - 1;
    INFO("chi-square " << statistic << " with " << freedom << " degrees of freedom");
    CHECK(statistic <= freedom + 6 * std::sqrt(2.0 * std::max(freedom, 1)));
    // too good a fit means that the draws are not random
    if (freedom > 4) CHECK(statistic >= freedom - 6 * std::sqrt(2.0 * freedom));
}

sampling with(std::function<void(sampling &)> set) {
    sampling s;
    s.temperature = 1;
    set(s);
    return s;
}

token_id choose(const std::vector<float> &logits, const sampling &s, const std::vector<int32_t> &counts = {},
                uint64_t position = 0) {
    sampler one(logits.size());
    return one.choose(logits.data(), s, counts.empty() ? nullptr : counts.data(), position);
}

status refusal(const std::function<void()> &f) {
    try {
        f();
    } catch (const error &e) {
        return e.code;
    }
    return status::ok;
}

}  // namespace

TEST_CASE("sampler: draws follow softmax at any temperature") {
    const std::vector<float> logits = random_logits(40, 1);
    for (const float t : {0.3f, 1.0f, 4.0f})
        check_frequencies(logits, with([&](sampling &s) { s.temperature = t; }), 40000);
    check_frequencies(std::vector<float>(16, 2.5f), with([](sampling &) {}), 20000);
}

TEST_CASE("sampler: draws after top_k, top_p, min_p, and all of them") {
    const std::vector<float> logits = random_logits(60, 2);
    for (const uint32_t k : {1u, 2u, 7u, 59u, 60u, 1000u})
        check_frequencies(logits, with([&](sampling &s) { s.top_k = k; }), 8000);
    for (const float p : {0.01f, 0.5f, 0.9f, 0.999f, 1.0f})
        check_frequencies(logits, with([&](sampling &s) { s.top_p = p; }), 8000);
    for (const float p : {0.001f, 0.05f, 0.5f, 1.0f})
        check_frequencies(logits, with([&](sampling &s) { s.min_p = p; }), 8000);
    check_frequencies(logits, with([](sampling &s) { s.top_k = 20, s.top_p = 0.9f; }), 8000);
    check_frequencies(
        logits,
        with([](sampling &s) { s.top_k = 20, s.top_p = 0.95f, s.min_p = 0.1f, s.temperature = 1.7f; }), 8000);
    check_frequencies(logits, with([](sampling &s) { s.top_p = 0.8f, s.min_p = 0.02f, s.temperature = 3; }),
                      8000);
}

TEST_CASE("sampler: a filter keeps exactly the tokens that its definition keeps") {
    for (unsigned seed = 10; seed < 30; ++seed) {
        const std::vector<float> logits = random_logits(25, seed, 1);
        const sampling s = with([&](sampling &x) {
            x.top_k = seed % 3 ? 12 : 0, x.top_p = 0.7f, x.min_p = seed % 2 ? 0.15f : 0, x.temperature = 1.5f;
        });
        const std::vector<double> p = expected(logits, s);
        std::set<token_id> possible, seen;
        for (size_t t = 0; t < p.size(); ++t)
            if (p[t] > 0) possible.insert(static_cast<token_id>(t));
        sampler one(logits.size());
        for (uint64_t i = 0; i < 2000; ++i) seen.insert(one.choose(logits.data(), s, nullptr, i));
        CHECK(seen == possible);
    }
}

TEST_CASE("sampler: ties go to the lowest id") {
    const std::vector<float> logits = {1, 5, 3, 5, 5, 0};
    CHECK(choose(logits, {}) == 1);
    CHECK(choose(logits, with([](sampling &s) { s.top_k = 1; }), {}, 77) == 1);
    std::set<token_id> seen;
    for (uint64_t i = 0; i < 200; ++i)
        seen.insert(choose(logits, with([](sampling &s) { s.top_k = 2; }), {}, i));
    CHECK(seen == std::set<token_id>{1, 3});
    sampler one(logits.size());
    std::vector<token_logprob> top;
    one.top(logits.data(), one.log_sum(logits.data()), 4, top);
    REQUIRE(top.size() == 4);
    CHECK((top[0].token == 1 && top[1].token == 3 && top[2].token == 4 && top[3].token == 2));
}

TEST_CASE("sampler: penalties and biases against double arithmetic") {
    const std::vector<float> logits = random_logits(200, 3);
    std::mt19937 random(4);
    for (int round = 0; round < 100; ++round) {
        sampling s;
        s.repetition_penalty = round % 3 == 0 ? 0.0f : 1.0f + static_cast<float>(random() % 100) / 50;
        s.presence_penalty = round % 4 == 0 ? 0.0f : static_cast<float>(random() % 200) / 50 - 1;
        s.frequency_penalty = round % 5 == 0 ? 0.0f : static_cast<float>(random() % 200) / 100 - 0.5f;
        std::vector<int32_t> counts(logits.size(), 0);
        for (int i = 0; i < 150; ++i) ++counts[random() % counts.size()];
        for (int i = 0; i < 5; ++i)
            s.bias.emplace_back(static_cast<token_id>(random() % logits.size()),
                                static_cast<float>(random() % 100) / 20 - 2);
        std::vector<double> adjusted(logits.begin(), logits.end());
        for (const auto &[t, b] : s.bias) adjusted[static_cast<size_t>(t)] += b;
        for (size_t t = 0; t < adjusted.size(); ++t) {
            if (counts[t] == 0) continue;
            double &l = adjusted[t];
            if (s.repetition_penalty != 0) l = l > 0 ? l / s.repetition_penalty : l * s.repetition_penalty;
            l -= s.presence_penalty + static_cast<double>(s.frequency_penalty) * counts[t];
        }
        const size_t got = static_cast<size_t>(choose(logits, s, counts));
        CHECK(adjusted[got] >= *std::max_element(adjusted.begin(), adjusted.end()) - 1e-5);
    }
    CHECK(choose({1, 9}, with([](sampling &s) { s.temperature = 0, s.bias = {{1, -inf}}; })) == 0);
    for (uint64_t i = 0; i < 100; ++i)
        CHECK(choose({1, 9, 1}, with([](sampling &s) {
                         s.temperature = 50, s.bias = {{1, -inf}};
                     }),
                     {}, i) != 1);
}

TEST_CASE("sampler: NaN and infinity are refused, minus infinity is not") {
    for (const float bad :
         {inf, std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN()})
        for (const size_t index : {size_t{0}, size_t{3}, size_t{9}}) {
            std::vector<float> logits(10, 1.0f);
            logits[index] = bad;
            sampler one(logits.size());
            for (const float t : {0.0f, 1.0f})
                CHECK(refusal([&] {
                          one.choose(logits.data(), with([&](sampling &s) { s.temperature = t; }), nullptr,
                                     0);
                      }) == status::numeric);
            CHECK(refusal([&] { one.log_sum(logits.data()); }) == status::numeric);
            // a ban does not hide a broken model
            CHECK(refusal([&] {
                      one.choose(logits.data(), with([&](sampling &s) {
                                     s.bias = {{static_cast<token_id>(index), -inf}};
                                 }),
                                 nullptr, 0);
                  }) == status::numeric);
        }
    const std::vector<float> one_left = {-inf, -inf, -4, -inf};
    CHECK(choose(one_left, {}) == 2);
    for (uint64_t i = 0; i < 50; ++i) CHECK(choose(one_left, with([](sampling &) {}), {}, i) == 2);
    CHECK(refusal([&] { choose(std::vector<float>(4, -inf), {}); }) == status::numeric);
    CHECK(refusal([&] {
              choose({1, 2}, with([](sampling &s) { s.bias = {{0, -inf}, {1, -inf}}; }));
          }) == status::numeric);
    CHECK(refusal([&] {
              choose({3e38f, 2}, with([](sampling &s) { s.bias = {{0, 3e38f}}; }));
          }) == status::numeric);
}

TEST_CASE("sampler: the smallest temperatures act as 0, the largest give a nearly even distribution") {
    const std::vector<float> logits = random_logits(30, 6);
    const token_id best = choose(logits, {});
    for (const float t : {1e-45f, 1e-39f, 1e-38f, 1e-20f, 1e-4f})
        for (uint64_t i = 0; i < 20; ++i)
            CHECK(choose(logits, with([&](sampling &s) { s.temperature = t; }), {}, i) == best);
    check_frequencies(logits, with([](sampling &s) { s.temperature = 100; }), 20000);
    CHECK(choose({3.4e38f, -3.4e38f}, with([](sampling &s) { s.temperature = 100; })) == 0);
}

TEST_CASE("sampler: log-probabilities against double") {
    for (const float spread : {0.0f, 1.0f, 5.0f, 20.0f}) {
        std::vector<float> logits = random_logits(3000, 7, spread);
        logits[5] = -inf;
        double max = -INFINITY, sum = 0;
        for (const float l : logits) max = std::max<double>(max, l);
        for (const float l : logits) sum += std::exp(l - max);
        sampler one(logits.size());
        const double log_sum = one.log_sum(logits.data());
        CHECK(log_sum == doctest::Approx(max + std::log(sum)).epsilon(1e-7));
        std::vector<float> sorted = logits;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        std::vector<token_logprob> top = {{-1, 0.0f}};
        one.top(logits.data(), log_sum, 64, top);
        REQUIRE(top.size() == 65);  // appended
        for (size_t i = 0; i < 64; ++i) {
            CHECK(logits[static_cast<size_t>(top[i + 1].token)] == sorted[i]);
            CHECK(top[i + 1].logprob == doctest::Approx(sorted[i] - log_sum).epsilon(1e-6));
        }
    }
    std::vector<token_logprob> all;
    sampler two(2);
    const float few[] = {1, 2};
    two.top(few, two.log_sum(few), 64, all);
    CHECK(all.size() == 2);
}

// A draw is a function of logits, parameters, seed and position: no state carries over from one choice to the
// next.
TEST_CASE("sampler: the same draws in any order and by another sampler") {
    const std::vector<float> logits = random_logits(500, 8), other = random_logits(500, 9);
    const sampling s = with([](sampling &x) { x.seed = 42, x.top_p = 0.98f; });
    sampler a(500), b(500);
    std::vector<token_id> forward, backward(300);
    for (uint64_t i = 0; i < 300; ++i) forward.push_back(a.choose(logits.data(), s, nullptr, i));
    for (uint64_t i = 300; i-- > 0;) {
        b.choose(other.data(), with([](sampling &x) { x.top_k = 3; }), nullptr, i);
        backward[i] = b.choose(logits.data(), s, nullptr, i);
    }
    CHECK(forward == backward);
    int same = 0;
    for (uint64_t i = 0; i < 300; ++i)
        same += forward[i] ==
                a.choose(logits.data(), with([](sampling &x) { x.seed = 43, x.top_p = 0.98f; }), nullptr, i);
    CHECK(same < 60);  // another seed gives other draws
}

// ---- Choices from the leading logits alone

namespace {

// A device's candidates of a row, sorted by another method than the sampler's.
struct leading_row {
    std::vector<float> logits;
    std::vector<token_id> tokens;
    leading_logits view;
    leading_row(const std::vector<float> &row, size_t count, const sampling &s) {
        std::vector<std::pair<double, token_id>> order;
        for (size_t i = 0; i < row.size(); ++i) order.emplace_back(-row[i], static_cast<token_id>(i));
        std::sort(order.begin(), order.end());
        order.resize(std::min(count, row.size()));
        for (const auto &[l, t] : order) logits.push_back(static_cast<float>(-l)), tokens.push_back(t);
        int64_t total = 0;
        for (const float l : row) total += s.factor() == 0 ? 0 : sampling_weight(l, logits[0], s.factor());
        view = {true, logits, tokens, row.size(), total};
    }
};

}  // namespace

TEST_CASE("sampler: the leading logits choose what all logits choose, or report that they are not enough") {
    std::mt19937 random(5);
    const auto pick = [&](auto list) { return *(list.begin() + random() % list.size()); };
    size_t known = 0, unknown = 0;
    for (unsigned round = 0; round < 4000; ++round) {
        const size_t vocab = pick(std::initializer_list<size_t>{30, 200, 900}),
                     count = pick(std::initializer_list<size_t>{1, 5, 32, 64});
        std::vector<float> logits =
            random_logits(vocab, round, pick(std::initializer_list<float>{0.3f, 2, 8}));
        if (round % 5 == 0)  // many ties
            for (float &l : logits) l = std::round(l);
        if (round % 7 == 0) logits[random() % vocab] = -inf;
        sampling s;
        s.temperature = pick(std::initializer_list<float>{0, 1e-3f, 0.1f, 0.6f, 1, 3});
        s.top_k = pick(std::initializer_list<uint32_t>{0, 0, 1, 5, 20, 500});
        s.top_p = pick(std::initializer_list<float>{0, 0, 0.3f, 0.95f, 1});
        s.min_p = pick(std::initializer_list<float>{0, 0, 0.01f, 0.2f});
        s.repetition_penalty = pick(std::initializer_list<float>{0, 0, 1, 1.3f, 0.8f});
        s.presence_penalty = pick(std::initializer_list<float>{0, 0, 0.5f, -0.5f});
        s.frequency_penalty = pick(std::initializer_list<float>{0, 0, 0.2f});
        s.seed = random();
        for (unsigned i = random() % 4; i > 1; --i)
            s.bias.emplace_back(static_cast<token_id>(random() % vocab),
                                pick(std::initializer_list<float>{-1, -inf, 0, 2}));
        std::vector<int32_t> counts(vocab);
        for (unsigned i = 0; i < 10; ++i) ++counts[random() % vocab];
        std::vector<token_id> not_these;
        if (round % 3 == 0)
            not_these.push_back(
                static_cast<token_id>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
        sampler one(vocab);
        const token_id wanted = one.choose(logits.data(), s, counts.data(), round, not_these);
        const leading_row row(logits, count, s);
        const std::optional<token_id> got = one.choose(row.view, s, counts.data(), round, not_these);
        ++(got ? known : unknown);
        if (!got) continue;
        CAPTURE(round);
        CHECK(*got == wanted);
    }
    CHECK(known > 1000);
    CHECK(unknown > 500);
}

TEST_CASE("sampler: settings for which the leading logits are enough") {
    const std::vector<float> logits = random_logits(20000, 3, 3);
    sampler one(logits.size());
    const auto known = [&](std::function<void(sampling &)> set, std::span<const token_id> not_these = {}) {
        const sampling s = with(std::move(set));
        const leading_row row(logits, 128, s);
        const std::vector<int32_t> counts(logits.size(), 1);
        int n = 0;
        for (uint64_t i = 0; i < 100; ++i)
            n += one.choose(row.view, s, counts.data(), i, not_these).has_value();
        return n;
    };
    CHECK(known([](sampling &s) { s.temperature = 0; }) == 100);
    CHECK(known([](sampling &s) { s.temperature = 0, s.repetition_penalty = 1.1f; }) == 100);
    CHECK(known([](sampling &s) { s.top_k = 40; }) == 100);
    CHECK(known([](sampling &s) { s.top_k = 40, s.top_p = 0.9f, s.min_p = 0.01f; }) == 100);
    CHECK(known([](sampling &s) { s.temperature = 0.5f, s.top_p = 0.7f; }) == 100);
    CHECK(known([](sampling &s) { s.min_p = 0.1f; }) == 100);
    CHECK(known([](sampling &s) { s.min_p = 0.1f, s.presence_penalty = 0.1f; }) == 100);
    // as often as the draw falls on one of them
    CHECK(known([](sampling &s) { s.temperature = 0.3f; }) > 90);
    // logits that are not known have no weight
    CHECK(known([](sampling &s) { s.temperature = 0.02f, s.frequency_penalty = 0.1f; }) == 100);
    // The whole row is needed for settings that may raise a logit, for more tokens than there are candidates,
    // and for a share of an unknown sum.
    CHECK(known([](sampling &s) { s.temperature = 0, s.bias = {{7, 0.5f}}; }) == 0);
    CHECK(known([](sampling &s) { s.temperature = 0, s.repetition_penalty = 0.9f; }) == 0);
    CHECK(known([](sampling &s) { s.temperature = 0, s.presence_penalty = -0.1f; }) == 0);
    CHECK(known([](sampling &s) { s.top_k = 129; }) == 0);
    CHECK(known([](sampling &s) { s.temperature = 3, s.top_p = 0.99f; }) == 0);
    CHECK(known([](sampling &s) { s.top_p = 0.9f, s.presence_penalty = 0.1f; }) == 0);
    const leading_row row(logits, 128, {});
    CHECK(known([](sampling &s) { s.top_p = 0.9f; }, {&row.tokens[0], 1}) == 0);
    CHECK(known([](sampling &s) { s.temperature = 0; }, row.tokens) == 0);
    leading_logits none = row.view;
    none.finite = false;
    CHECK(refusal([&] { one.choose(none, {}, nullptr, 0); }) == status::numeric);
}

TEST_CASE("sampler: below a logit of weight zero all have weight zero") {
    // Weights become zero at exp(x) = 2^-41. Tries every float around that, from where all weights are
    // positive to where all are zero.
    int64_t before = 1;
    for (uint32_t u = bits_of(-28.3f); u <= bits_of(-28.6f); ++u) {
        const int64_t w = sampling_weight(float_of(u), 0.0f, 1.0f);
        REQUIRE(w <= before);
        before = w;
    }
    CHECK(before == 0);
    for (uint32_t u = bits_of(-28.6f); u < bits_of(-std::numeric_limits<float>::infinity()); u += 9973)
        REQUIRE(sampling_weight(float_of(u), 0.0f, 1.0f) == 0);
}
