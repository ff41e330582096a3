// How a step is divided: what must hold for any wishes and budgets, and a simulation that ends.
#include "../llm/scheduler.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

using namespace ds;

namespace {

int64_t rows_of(const std::vector<step_share> &shares) {
    int64_t n = 0;
    for (const step_share &s : shares) n += s.rows;
    return n;
}
int64_t logits_of(const std::vector<step_share> &shares) {
    int64_t n = 0;
    for (const step_share &s : shares) n += s.logits;
    return n;
}

void check_share(const step_wish &w, const step_share &s) {
    CHECK(s.rows >= 0);
    CHECK(s.rows <= w.rows);
    if (w.all_logits) CHECK(s.logits == s.rows);
    else CHECK(s.logits == (s.rows > 0 && s.rows == w.rows ? 1 : 0));    // only the last row of all is followed by a choice
}

} // namespace

TEST_CASE("scheduler: random wishes keep within the budgets, and somebody gets on") {
    std::mt19937 random(1);
    std::vector<step_share> shares(3);    // what it held before does not matter
    for (int round = 0; round < 20000; ++round) {
        std::vector<step_wish> wishes(random() % 12);
        for (step_wish &w : wishes) w = {static_cast<int64_t>(random() % 3 == 0 ? 1 : random() % 3 == 0 ? 0 : random() % 300), random() % 4 == 0};
        const int64_t rows = 1 + static_cast<int64_t>(random() % 100), logits = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(rows));
        divide_step(wishes, rows, logits, shares);
        REQUIRE(shares.size() == wishes.size());
        CHECK(rows_of(shares) <= rows);
        CHECK(logits_of(shares) <= logits);
        for (size_t i = 0; i < wishes.size(); ++i) check_share(wishes[i], shares[i]);
        const bool wished = std::any_of(wishes.begin(), wishes.end(), [](const step_wish &w) { return w.rows > 0; });
        CHECK((rows_of(shares) > 0) == wished);
    }
}

TEST_CASE("scheduler: answers first, then prompts in order of submission") {
    std::mt19937 random(2);
    std::vector<step_share> shares;
    for (int round = 0; round < 5000; ++round) {
        std::vector<step_wish> wishes(1 + random() % 10);
        for (step_wish &w : wishes) w = {static_cast<int64_t>(random() % 2 ? 1 : 2 + random() % 50), false};
        const int64_t answers = std::count_if(wishes.begin(), wishes.end(), [](const step_wish &w) { return w.rows == 1; });
        const int64_t rows = static_cast<int64_t>(wishes.size()) + static_cast<int64_t>(random() % 60), logits = static_cast<int64_t>(wishes.size());
        divide_step(wishes, rows, logits, shares);
        int64_t left = rows - answers;
        for (size_t i = 0; i < wishes.size(); ++i) {
            if (wishes[i].rows == 1) {
                CHECK(shares[i].rows == 1);
                continue;
            }
            CHECK(shares[i].rows == std::min(left, wishes[i].rows));    // an earlier prompt never leaves room for a later one while it wants more
            left -= shares[i].rows;
        }
    }
}

TEST_CASE("scheduler: with few rows of logits prompts go ahead up to their last row, and wait there") {
    std::vector<step_share> shares;
    const step_wish wishes[] = {{10, false}, {1, false}, {5, false}, {7, true}};
    divide_step(wishes, 100, 1, shares);
    CHECK((shares[1].rows == 1 && shares[1].logits == 1));
    CHECK((shares[0].rows == 9 && shares[0].logits == 0));
    CHECK((shares[2].rows == 4 && shares[2].logits == 0));
    CHECK((shares[3].rows == 0 && shares[3].logits == 0));
    divide_step(wishes, 100, 4, shares);
    CHECK((shares[0].rows == 10 && shares[2].rows == 5 && shares[3].rows == 1 && shares[3].logits == 1));
    divide_step({}, 5, 5, shares);
    CHECK(shares.empty());
}

// Requests come with prompts and answers of any length; each must be done after as many steps as there are rows in all, whatever the budgets.
TEST_CASE("scheduler: every request ends") {
    struct simulated { int64_t left, answer; bool score; };
    std::mt19937 random(3);
    std::vector<step_share> shares;
    for (int round = 0; round < 200; ++round) {
        const int64_t rows = 1 + static_cast<int64_t>(random() % 20), logits = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(rows));
        std::vector<simulated> requests(1 + random() % 8);
        int64_t bound = 0;
        for (simulated &r : requests) {
            r = {1 + static_cast<int64_t>(random() % 60), 1 + static_cast<int64_t>(random() % 20), random() % 4 == 0};
            bound += r.left + r.answer;
        }
        int64_t steps = 0;
        std::vector<step_wish> wishes(requests.size());
        const auto wish = [&] {
            for (size_t i = 0; i < requests.size(); ++i) wishes[i] = {requests[i].left, requests[i].score};
            return std::any_of(wishes.begin(), wishes.end(), [](const step_wish &w) { return w.rows > 0; });
        };
        for (; wish() && steps <= bound; ++steps) {
            divide_step(wishes, rows, logits, shares);
            for (size_t i = 0; i < requests.size(); ++i) {
                requests[i].left -= shares[i].rows;
                if (!requests[i].score && shares[i].logits && --requests[i].answer > 0) requests[i].left = 1;
            }
        }
        CHECK(steps <= bound);
        for (const simulated &r : requests) CHECK((r.left == 0 && (r.score || r.answer == 0)));
    }
}
