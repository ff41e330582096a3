// The scheduler without a model: how a step is divided; random events, after which every guarantee is checked
// against pages that record what was written to them; a seeded load; fairness.
#include "../../llm/engine/scheduler.h"
#include "../support/sanitizers.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>

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

void check_share(const step_demand &w, const step_share &s) {
    CHECK(s.rows >= 0);
    CHECK(s.rows <= w.rows);
    if (w.all_logits) CHECK(s.logits == s.rows);
    // only the last row of a prompt has logits
    else CHECK(s.logits == (s.rows > 0 && s.rows == w.rows ? 1 : 0));
}

}  // namespace

TEST_CASE("scheduler: random wishes stay within the budgets, and some request makes progress") {
    std::mt19937 random(1);
    std::vector<step_share> shares(3);  // its old content is ignored
    for (int round = 0; round < 20000; ++round) {
        std::vector<step_demand> wishes(random() % 12);
        for (step_demand &w : wishes)
            w = {static_cast<int64_t>(random() % 3 == 0   ? 1
                                      : random() % 3 == 0 ? 0
                                                          : random() % 300),
                 random() % 4 == 0};
        const int64_t rows = 1 + static_cast<int64_t>(random() % 100),
                      logits = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(rows));
        divide_step(wishes, rows, logits, shares);
        REQUIRE(shares.size() == wishes.size());
        CHECK(rows_of(shares) <= rows);
        CHECK(logits_of(shares) <= logits);
        for (size_t i = 0; i < wishes.size(); ++i) check_share(wishes[i], shares[i]);
        const bool wished =
            std::any_of(wishes.begin(), wishes.end(), [](const step_demand &w) { return w.rows > 0; });
        CHECK((rows_of(shares) > 0) == wished);
    }
}

TEST_CASE("scheduler: answers first, then prompts in order of submission") {
    std::mt19937 random(2);
    std::vector<step_share> shares;
    for (int round = 0; round < 5000; ++round) {
        std::vector<step_demand> wishes(1 + random() % 10);
        for (step_demand &w : wishes) w = {static_cast<int64_t>(random() % 2 ? 1 : 2 + random() % 50), false};
        const int64_t answers =
            std::count_if(wishes.begin(), wishes.end(), [](const step_demand &w) { return w.rows == 1; });
        const int64_t rows = static_cast<int64_t>(wishes.size()) + static_cast<int64_t>(random() % 60),
                      logits = static_cast<int64_t>(wishes.size());
        divide_step(wishes, rows, logits, shares);
        int64_t left = rows - answers;
        for (size_t i = 0; i < wishes.size(); ++i) {
            if (wishes[i].rows == 1) {
                CHECK(shares[i].rows == 1);
                continue;
            }
            // a later prompt gets rows only when the earlier ones want no more
            CHECK(shares[i].rows == std::min(left, wishes[i].rows));
            left -= shares[i].rows;
        }
    }
}

TEST_CASE("scheduler: with few rows of logits prompts advance up to their last row, and wait there") {
    std::vector<step_share> shares;
    const step_demand wishes[] = {{10, false}, {1, false}, {5, false}, {7, true}};
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

// Requests with prompts and answers of any length. With any budgets, each must end within as many steps as
// there are rows in total.
TEST_CASE("scheduler: every request ends") {
    struct simulated {
        int64_t left, answer;
        bool score;
    };
    std::mt19937 random(3);
    std::vector<step_share> shares;
    for (int round = 0; round < 200; ++round) {
        const int64_t rows = 1 + static_cast<int64_t>(random() % 20),
                      logits = 1 + static_cast<int64_t>(random() % static_cast<uint32_t>(rows));
        std::vector<simulated> requests(1 + random() % 8);
        int64_t bound = 0;
        for (simulated &r : requests) {
            r = {1 + static_cast<int64_t>(random() % 60), 1 + static_cast<int64_t>(random() % 20),
                 random() % 4 == 0};
            bound += r.left + r.answer;
        }
        int64_t steps = 0;
        std::vector<step_demand> wishes(requests.size());
        const auto wish = [&] {
            for (size_t i = 0; i < requests.size(); ++i) wishes[i] = {requests[i].left, requests[i].score};
            return std::any_of(wishes.begin(), wishes.end(), [](const step_demand &w) { return w.rows > 0; });
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

// ---- The whole scheduler, without a model

namespace {

#define HOLDS(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition)) throw std::logic_error(#condition);                                                \
    } while (0)

// A fast generator, so that the checks dominate the time.
struct dice {
    uint64_t s;
    explicit dice(uint64_t seed) : s(seed * 0x9e3779b97f4a7c15ull + 1) {}
    uint64_t next() { return s ^= s << 13, s ^= s >> 7, s ^= s << 17; }
    int64_t below(int64_t n) { return static_cast<int64_t>((next() >> 32) * static_cast<uint64_t>(n) >> 32); }
    bool one_in(int64_t n) { return below(n) == 0; }
};

struct simulated_request {
    task j;
    std::vector<int32_t> tokens;
    std::vector<uint64_t> meaning;  // of each position, a hash of the client and all tokens up to it
    int64_t left = 0;               // tokens of the answer still to come
    uint64_t steps = 0;

    simulated_request() { j.owner = this; }
    void append(int32_t t) {
        const uint64_t before = meaning.empty() ? j.client * 77 + 5 : meaning.back();
        tokens.push_back(t);
        meaning.push_back((before ^ (static_cast<uint64_t>(t) + 0x9e3779b97f4a7c15ull)) *
                              0xff51afd7ed558ccdull +
                          (before >> 29));
        ++j.length;
    }
};

// Requests on a pool whose pages record what was written to each position.
class world {
public:
    uint64_t events = 0, ended = 0, found = 0, preempted = 0, forks = 0, copies = 0, parts = 0;

    explicit world(uint64_t seed) : dice_(seed) {
        sizes_.pages = 3 + dice_.below(dice_.one_in(4) ? 60 : 24);
        sizes_.running = 1 + dice_.below(7);
        sizes_.rows = sizes_.running + dice_.below(dice_.one_in(2) ? 10 : 200);
        sizes_.logits = 1 + dice_.below(sizes_.rows);
        // with so many collisions only the contents distinguish pages
        if (dice_.one_in(4)) sizes_.hash_mask = dice_.one_in(2) ? 0 : 3;
        memory_ = dice_.one_in(2) ? 0 : sizes_.pages;
        page_source source;
        if (memory_ == 0)
            source = {this,
                      [](void *user, int64_t pages) { return static_cast<world *>(user)->more(pages); }};
        scheduler_ = std::make_unique<scheduler>(sizes_, source);
        meaning_.resize(static_cast<size_t>(sizes_.pages * page_positions));
        mark_.resize(static_cast<size_t>(sizes_.pages));
    }

    void random_events(uint64_t n) {
        while (n-- > 0) {
            ++events;
            const int64_t what = dice_.below(64);
            if (what < 8 && live_.size() < 16) submit();
            else if (what == 8 && !live_.empty()) fork();
            else if (what == 9 && !live_.empty()) end(dice_.below(static_cast<int64_t>(live_.size())));
            else if (what == 10 && dice_.one_in(8)) shrink();
            else step();
        }
    }

    // Without new requests all end, within as many steps as they have positions in total.
    void drain() {
        failing_ = false;
        int64_t bound = 2;
        for (const auto &r : live_) bound += 2 * r->j.max_length + 2;
        for (; !live_.empty(); ++events) {
            HOLDS(bound-- > 0);
            step();
        }
        audit();
        HOLDS(scheduler_->pages().available() == sizes_.pages && scheduler_->waiting() == 0 &&
              scheduler_->running().empty());
    }

private:
    int64_t more(int64_t pages) {
        if (failing_ && dice_.one_in(2)) return memory_;
        return memory_ = std::min(sizes_.pages, pages + dice_.below(4));
    }

    // Prompts begin with parts of a few texts. The alphabet is small, so that pages also agree in their first
    // positions by chance.
    void submit() {
        auto r = std::make_unique<simulated_request>();
        const int64_t most = sizes_.pages * page_positions;
        r->j.client = static_cast<uint64_t>(dice_.below(3));
        r->j.priority = dice_.one_in(4) ? static_cast<int32_t>(dice_.below(3)) : 0;
        if (dice_.one_in(6)) r->j.deadline = now_ + 1 + dice_.below(200);
        r->j.all_logits = dice_.one_in(10);
        r->j.uses_cache = !dice_.one_in(10);
        const int64_t text = dice_.below(3), common = dice_.below(std::min<int64_t>(most, 260)),
                      own = dice_.below(30);
        r->left = r->j.all_logits ? 0 : 1 + dice_.below(dice_.one_in(2) ? 600 : 20);
        int64_t length = std::min(most - 1, common + own) + 1;
        if (!r->j.all_logits) length = std::min(length, most - 1);
        r->left = std::min(r->left, most - length);
        r->j.max_length = length + r->left;
        r->tokens.reserve(static_cast<size_t>(r->j.max_length));
        r->meaning.reserve(static_cast<size_t>(r->j.max_length));
        for (int64_t i = 0; i < length; ++i)
            r->append(static_cast<int32_t>(i < common ? (i * (text + 3) + i / 7) % 5 : dice_.below(2)));
        start(std::move(r), nullptr);
    }

    void fork() {
        simulated_request &of = *live_[static_cast<size_t>(dice_.below(static_cast<int64_t>(live_.size())))];
        if (of.j.all_logits || live_.size() >= 20) return;
        auto r = std::make_unique<simulated_request>();
        r->j.client = of.j.client;
        r->j.uses_cache = of.j.uses_cache;
        r->j.priority = static_cast<int32_t>(dice_.below(2));
        r->left = 1 + dice_.below(100);
        r->left = std::min(r->left, sizes_.pages * page_positions - of.j.length);
        if (r->left < 1) return;
        r->j.max_length = of.j.length + r->left;
        r->tokens.reserve(static_cast<size_t>(r->j.max_length));
        for (const int32_t t : of.tokens) r->append(t);
        ++forks;
        start(std::move(r), &of.j);
    }

    void start(std::unique_ptr<simulated_request> r, task *parent) {
        r->j.tokens = r->tokens.data();
        scheduler::prepare(r->j);
        scheduler_->submit(r->j, parent);
        live_.push_back(std::move(r));
    }

    void end(int64_t i) {
        simulated_request &r = *live_[static_cast<size_t>(i)];
        scheduler_->end(r.j);
        if (dice_.one_in(8)) scheduler_->end(r.j);  // idempotent
        HOLDS(r.j.state == task_state::outside && r.j.pages.empty() && r.j.slot == -1);
        HOLDS(r.tokens.data() == r.j.tokens && r.tokens.size() == static_cast<size_t>(r.j.length));
        std::swap(live_[static_cast<size_t>(i)], live_.back());
        live_.pop_back();
        ++ended;
    }
    void end(const task &j) {
        for (size_t i = 0; i < live_.size(); ++i)
            if (&live_[i]->j == &j) return end(static_cast<int64_t>(i));
    }

    void shrink() {
        if (dice_.one_in(2)) scheduler_->pages().forget(dice_.below(3));
        const int64_t left = scheduler_->pages().shrink();
        HOLDS(left <= sizes_.pages);
        memory_ = left;
        audit();
    }

    uint64_t &at(int32_t page, int64_t offset) {
        return meaning_[static_cast<size_t>(page * page_positions + offset)];
    }
    static simulated_request &of(task &j) { return *static_cast<simulated_request *>(j.owner); }

    void step() {
        ++now_;
        while (task *j = scheduler_->expired(now_)) {
            HOLDS(j->deadline <= now_);
            end(*j);
        }
        task *oldest = nullptr;
        for (task *j : scheduler_->running())
            if (!oldest || j->age < oldest->age) oldest = j;
        const step_plan &p = scheduler_->plan();
        HOLDS(!oldest || oldest->state == task_state::running);
        preempted += p.preempted.size();
        found += static_cast<uint64_t>(p.cached);
        copies += p.copies.size();
        parts += p.parts.size();
        for (const page_copy &c : p.copies) {
            HOLDS(scheduler_->pages().holders(c.to) == 1 && !scheduler_->pages().entered(c.to));
            for (int64_t i = 0; i < page_positions; ++i) at(c.to, i) = at(c.from, i);
        }
        HOLDS(p.rows <= sizes_.rows && p.logits <= sizes_.logits);
        HOLDS(p.rows > 0 || p.starved || live_.empty());
        const bool computed = !dice_.one_in(40);  // or stopped halfway, and what was written is void
        for (const step_part &part : p.parts) run(part);
        if (computed)
            for (const step_part &part : p.parts) done(part);
        if (++since_audit_ >= 16 || live_.empty()) audit();
    }

    // Checks that rows read the right contents, and that no other request holds the pages that they write.
    void run(const step_part &part) {
        task &j = *part.who;
        const std::vector<uint64_t> &meaning = of(j).meaning;
        HOLDS(j.state == task_state::running && part.rows > 0 && part.first == j.computed &&
              part.first + part.rows <= j.length);
        HOLDS(static_cast<int64_t>(j.pages.size()) >= pages_for(part.first + part.rows) &&
              static_cast<int64_t>(j.pages.size()) <= pages_for(j.max_length));
        const auto as_meant = [&](int64_t position) {
            return at(j.pages[static_cast<size_t>(position / page_positions)], position % page_positions) ==
                   meaning[static_cast<size_t>(position)];
        };
        for (int64_t i = page_positions; i <= part.first; i += page_positions) HOLDS(as_meant(i - 1));
        if (part.first > 0) HOLDS(as_meant(part.first - 1) && as_meant(dice_.below(part.first)));
        for (int64_t i = part.first / page_positions; i <= (part.first + part.rows - 1) / page_positions;
             ++i) {
            const int32_t page = j.pages[static_cast<size_t>(i)];
            HOLDS(scheduler_->pages().holders(page) == 1 && !scheduler_->pages().entered(page));
        }
        for (int64_t k = part.first; k < part.first + part.rows; ++k)
            at(j.pages[static_cast<size_t>(k / page_positions)], k % page_positions) =
                meaning[static_cast<size_t>(k)];
    }

    void done(const step_part &part) {
        task &j = *part.who;
        simulated_request &r = of(j);
        scheduler_->computed(part);
        HOLDS(j.computed == part.first + part.rows);
        if (j.computed < j.length) return;
        HOLDS(part.logits > 0);
        if (!j.all_logits && --r.left > 0)
            r.append(static_cast<int32_t>(dice_.below(2))), scheduler_->charge(j, 1);
        else end(j);
    }

    void audit() {
        since_audit_ = 0;
        const page_book &book = scheduler_->pages();
        std::fill(mark_.begin(), mark_.end(), 0);
        int64_t waiting = 0, running = 0;
        for (const auto &r : live_) {
            waiting += r->j.state == task_state::waiting;
            running += r->j.state == task_state::running;
            HOLDS((r->j.state == task_state::waiting) == r->j.pages.empty());
            for (const int32_t page : r->j.pages) ++mark_[static_cast<size_t>(page)];
        }
        HOLDS(waiting == scheduler_->waiting() &&
              running == static_cast<int64_t>(scheduler_->running().size()));
        int64_t held = 0;
        for (int64_t p = 0; p < book.usable(); ++p) {
            HOLDS(book.holders(static_cast<int32_t>(p)) == mark_[static_cast<size_t>(p)]);
            held += mark_[static_cast<size_t>(p)] > 0;
        }
        HOLDS(held + book.available() == sizes_.pages && book.cached() >= 0 && book.free() >= 0);
    }

    dice dice_;
    scheduler_sizes sizes_;
    std::unique_ptr<scheduler> scheduler_;
    std::vector<std::unique_ptr<simulated_request>> live_;
    std::vector<uint64_t> meaning_;
    std::vector<int32_t> mark_;
    int64_t now_ = 0, memory_ = 0;
    int since_audit_ = 0;
    bool failing_ = true;
};

}  // namespace

// DS_SCHEDULER_EVENTS sets the number of events.
TEST_CASE("scheduler: random events keep every guarantee") {
    const char *asked = std::getenv("DS_SCHEDULER_EVENTS");
#if defined(DS_ADDRESS_SANITIZER) || defined(DS_THREAD_SANITIZER) || defined(__aarch64__)
    constexpr uint64_t usual = 300000;
#else
    constexpr uint64_t usual = 10000000;
#endif
    const uint64_t total = asked ? std::strtoull(asked, nullptr, 10) : usual;
    uint64_t events = 0, ended = 0, found = 0, preempted = 0, forks = 0, copies = 0, parts = 0;
    for (uint64_t seed = 1; events < total; ++seed) {
        CAPTURE(seed);
        world w(seed);
        for (int i = 0; i < 4; ++i) {
            w.random_events(2000);
            w.drain();
        }
        events += w.events, ended += w.ended, found += w.found, preempted += w.preempted, forks += w.forks,
            copies += w.copies, parts += w.parts;
    }
    MESSAGE(events << " events: " << ended << " requests, " << forks << " of them forks; " << preempted
                   << " preemptions, " << found << " positions found, " << copies << " pages copied, "
                   << parts << " parts of steps");
    CHECK((ended > events / 100 && preempted > events / 3000 && found > events / 2 && copies > events / 200 &&
           forks > events / 200));
}

// ---- A seeded load, fairness, and the order of starts and preemptions

namespace {

// Jobs of given lengths on one scheduler. All tokens differ, so that a job finds only pages that it computed
// itself.
struct bench_of_jobs {
    scheduler s;
    std::vector<std::unique_ptr<simulated_request>> all;
    int64_t ended = 0;
    std::vector<uint64_t> started;  // indices, in order
    std::function<void(size_t)> on_end = [](size_t) {};

    explicit bench_of_jobs(const scheduler_sizes &sizes) : s(sizes, {}) {}

    size_t add(int64_t prompt, int64_t answer, uint64_t client = 0, int32_t priority = 0,
               int64_t deadline = std::numeric_limits<int64_t>::max()) {
        auto r = std::make_unique<simulated_request>();
        r->j.client = client, r->j.priority = priority, r->j.deadline = deadline;
        r->left = answer;
        r->j.max_length = prompt + answer;
        r->tokens.reserve(static_cast<size_t>(prompt + answer));
        const auto n = static_cast<int32_t>(all.size());
        for (int64_t i = 0; i < prompt; ++i) r->append(n * 8192 + static_cast<int32_t>(i));
        r->j.tokens = r->tokens.data();
        scheduler::prepare(r->j);
        s.submit(r->j);
        all.push_back(std::move(r));
        return all.size() - 1;
    }
    task &operator[](size_t i) { return all[i]->j; }

    const step_plan &step() {
        std::vector<bool> was(all.size());
        for (size_t i = 0; i < all.size(); ++i) was[i] = all[i]->j.starts > 0;
        const step_plan &p = s.plan();
        for (size_t i = 0; i < all.size(); ++i)
            if (!was[i] && all[i]->j.starts > 0) started.push_back(i);
        apply(p);
        return p;
    }
    void apply(const step_plan &p) {
        for (const step_part &part : p.parts) {
            auto &r = *static_cast<simulated_request *>(part.who->owner);
            s.computed(part);
            if (r.j.computed < r.j.length) continue;
            if (--r.left > 0) {
                r.append(static_cast<int32_t>(r.j.length));
                s.charge(r.j, 1);
            } else {
                s.end(r.j);
                ++ended;
                on_end(static_cast<size_t>(r.tokens[0] / 8192));
            }
        }
    }
};

struct lengths {
    int64_t prompt, answer;
};

// Log-normal, of standard deviation 1 in the logarithm.
std::vector<lengths> drawn(std::mt19937_64 &random, size_t n) {
    std::lognormal_distribution<double> prompt(std::log(400.0), 1.0), answer(std::log(200.0), 1.0);
    std::vector<lengths> out(n);
    for (lengths &l : out)
        l = {std::clamp<int64_t>(std::llround(prompt(random)), 1, 4000),
             std::clamp<int64_t>(std::llround(answer(random)), 1, 2000)};
    return out;
}

// 30 % of the pages that the 64 largest need.
int64_t pool_for(std::vector<lengths> list) {
    std::sort(list.begin(), list.end(),
              [](const lengths &a, const lengths &b) { return a.prompt + a.answer > b.prompt + b.answer; });
    int64_t pages = 0;
    for (size_t i = 0; i < 64; ++i) pages += pages_for(list[i].prompt + list[i].answer);
    return pages * 3 / 10;
}

constexpr int64_t step_time(int64_t rows) { return 10000 + 5 * rows; }  // microseconds

}  // namespace

TEST_CASE("scheduler: a load of 1.2 times the service rate: no request is lost, and none is preempted more "
          "than four times") {
    for (const auto &[seed, running] : {std::pair(1, 64), {2, 256}, {3, 256}, {4, 512}}) {
        std::mt19937_64 random(static_cast<uint64_t>(seed));
        const std::vector<lengths> sample = drawn(random, 10000);
        // with a higher limit of running requests the pool is the bottleneck
        const scheduler_sizes sizes{running, 1 << 20, 512, running, pool_for(sample)};
        // The service rate: requests that end in a second while the queue never empties.
        bench_of_jobs full(sizes);
        for (size_t i = 0; i < 600; ++i) full.add(sample[i].prompt, sample[i].answer);
        int64_t time = 0;
        while (full.ended < 300) time += step_time(full.step().rows);
        const double rate = 300e6 / static_cast<double>(time);

        bench_of_jobs load(sizes);
        std::exponential_distribution<double> gap(1.2 * rate / 1e6);
        double next = gap(random);
        time = 0;
        int64_t steps = 0, waiting = 0;
        for (size_t n = 0; time < 60000000 || load.ended < static_cast<int64_t>(load.all.size()); ++steps) {
            for (; next <= static_cast<double>(std::min<int64_t>(time, 60000000)) && n < sample.size();
                 next += gap(random), ++n)
                load.add(sample[n].prompt, sample[n].answer);
            const step_plan &p = load.s.plan();
            const int64_t rows = p.rows;
            load.apply(p);
            time += step_time(rows);
            waiting = std::max(waiting, load.s.waiting());
            REQUIRE(time < 600000000);
        }
        uint32_t most = 0;
        int64_t once = 0, times = 0;
        for (const auto &r : load.all) {
            most = std::max(most, r->j.preemptions);
            once += r->j.preemptions > 0;
            times += r->j.preemptions;
        }
        CHECK(load.all.size() > 200);
        CHECK(load.ended == static_cast<int64_t>(load.all.size()));
        CHECK(load.s.pages().available() == sizes.pages);
        CHECK(most <= 4);
        CHECK(waiting > 10);  // a backlog builds up
        MESSAGE(running << " may run: " << load.all.size() << " requests at " << 1.2 * rate << "/s on "
                        << sizes.pages << " pages, " << steps << " steps; " << once << " preempted, " << times
                        << " times in all, " << most << " at most; " << waiting << " waited at most");
    }
}

TEST_CASE("scheduler: by priority, then deadline, then the client's service, then age; no request overtakes "
          "one that waits for pages") {
    bench_of_jobs b({1, 100, 64, 1, 40});
    const size_t first = b.add(10, 5, 1);
    b.step();
    b.add(10, 2, 1);          // 1: its client has been served
    b.add(10, 2, 2);          // 2: of a client that has not
    b.add(10, 2, 1, 3);       // 3: of a higher priority
    b.add(10, 2, 1, 3, 900);  // 4: and with a deadline
    b.add(10, 2, 1, 3, 800);  // 5: an earlier one
    b.add(10, 2, 1, -1, 1);   // 6: of a lower priority, whatever its deadline
    while (b.ended < 7) b.step();
    CHECK(b.started == std::vector<uint64_t>{first, 5, 4, 3, 2, 1, 6});

    bench_of_jobs c({4, 100, 64, 4, 4});
    c.add(100, 20);  // two pages
    c.step();
    c.add(130, 20);  // three pages: must wait
    c.add(5, 2);     // would fit
    c.step();
    CHECK((c[1].state == task_state::waiting && c[2].state == task_state::waiting));
    while (c.ended < 3) c.step();
    CHECK(c.started == std::vector<uint64_t>{0, 1, 2});
}

TEST_CASE("scheduler: a pool that holds all requests to their end runs all of them together") {
    for (const auto &[prompt, answer] : {std::pair(1, 41), {60, 60}, {64, 64}, {200, 2}}) {
        bench_of_jobs b({16, 100, 4096, 16, 16 * pages_for(prompt + answer)});
        for (int i = 0; i < 16; ++i) b.add(prompt, answer);
        b.step();
        CHECK(b.s.running().size() == 16);
        while (b.ended < 16) b.step();
        for (size_t i = 0; i < 16; ++i) CHECK(b[i].preemptions == 0);
    }
}

TEST_CASE("scheduler: passed deadlines are reported, of waiting and of running requests") {
    bench_of_jobs b({1, 100, 64, 1, 40});
    b.add(10, 50, 0, 0, 100);
    b.add(10, 50, 0, 0, 50);
    b.add(10, 50);
    b.step();
    CHECK(b.s.expired(49) == nullptr);
    CHECK(b.s.expired(50) == &b[1]);
    b.s.end(b[1]);
    CHECK(b.s.expired(99) == nullptr);
    CHECK(b.s.expired(1000) == &b[0]);
    b.s.end(b[0]);
    CHECK(b.s.expired(std::numeric_limits<int64_t>::max() - 1) == nullptr);
    b.step();
    CHECK(b[2].state == task_state::running);
}

TEST_CASE("scheduler: preemption takes the lowest priority, never the oldest request; a preempted one "
          "resumes first, with all its pages, and finds most of them cached") {
    bench_of_jobs b({3, 100, 256, 3, 7});
    const size_t oldest = b.add(100, 200, 0, -5), second = b.add(60, 130, 0, 1), third = b.add(60, 130, 0, 0);
    b.step();
    CHECK(b.s.running().size() == 3);  // 2 + 1 + 1 pages at first
    const size_t late = b.add(10, 5, 0, 0);
    while (b[third].preemptions + b[second].preemptions + b[oldest].preemptions == 0) b.step();
    CHECK((b[oldest].preemptions == 0 && b[second].preemptions == 0 && b[third].preemptions == 1));
    CHECK((b[third].state == task_state::waiting && b[third].pages.empty()));
    const int64_t length = b[third].length;
    while (b[third].starts < 2) b.step();
    CHECK(b[third].length >= length);
    CHECK(b[late].starts <= 1);
    while (b.ended < 4) b.step();
    CHECK(b.s.pages().available() == 7);
}

TEST_CASE("scheduler: clients with a backlog get equal service, whatever the size of their requests, and "
          "none waits for a client without one") {
    const scheduler_sizes sizes{4, 1000, 64, 4, 200};
    bench_of_jobs b(sizes);
    const lengths of[] = {{400, 200}, {20, 10}, {5, 300}};
    int64_t mine[3] = {};
    const auto refill = [&](size_t client) {
        for (; mine[client] < 6; ++mine[client]) b.add(of[client].prompt, of[client].answer, client);
    };
    b.on_end = [&](size_t i) { --mine[b[i].client]; };
    int64_t apart = 0;
    for (int step = 0; step < 15000; ++step) {
        for (const size_t client : {0, 1, 2}) refill(client);
        b.step();
        for (const uint64_t client : {1, 2})
            apart = std::max(apart, std::abs(b.s.service(client) - b.s.service(0)));
    }
    CHECK(b.s.service(0) > 40000);
    CHECK(apart <= 2 * 4 * (400 + 2 * 200));  // the paper's bound: twice the service of a full batch

    // A late client has no claim on earlier service. A client that is alone gets everything.
    bench_of_jobs late(sizes);
    for (int i = 0; i < 40; ++i) late.add(100, 50, 1);
    for (int step = 0; step < 300; ++step) {
        const step_plan &p = late.s.plan();
        CHECK(late.s.running().size() == 4);
        late.apply(p);
    }
    const int64_t before = late.s.service(1);
    late.add(100, 50, 2);
    CHECK(late.s.service(2) == before);
}

TEST_CASE("scheduler: of clients without a request those with the most service are remembered, up to the "
          "table's size") {
    bench_of_jobs b(scheduler_sizes{4, 1000, 64, 4, 200});
    b.add(10, 10, 0, -1);  // of the lowest priority: starts only when no other request waits
    b.add(500, 100, 1);
    const size_t clients = most_idle_accounts + 500;
    for (uint64_t client = 2; client < clients; ++client) {
        for (int i = 0; i < 4; ++i) b.add(1 + i % 2, 1, client);
        while (b.s.running().size() + static_cast<size_t>(b.s.waiting()) > 100) b.step();
        REQUIRE(b.s.accounts() <= most_idle_accounts + 104);
    }
    for (const size_t all = b.all.size(); b.ended + 1 < static_cast<int64_t>(all);) b.step();
    CHECK(b.s.accounts() <= most_idle_accounts + 1);
    CHECK(b.s.accounts() >= most_idle_accounts);
    CHECK(b.s.service(1) >= 600);
}

TEST_CASE("scheduler: a fork shares its parent's pages, waits while they are computed, and copies the page "
          "that both write") {
    bench_of_jobs b({4, 100, 64, 4, 40});
    const size_t parent = b.add(200, 40);
    const auto fork = [&](int64_t length) {
        auto r = std::make_unique<simulated_request>();
        r->left = 10;
        r->j.max_length = length + 10;
        r->tokens.reserve(static_cast<size_t>(length + 10));
        for (int64_t i = 0; i < length; ++i) r->append(b.all[parent]->tokens[static_cast<size_t>(i)]);
        r->j.tokens = r->tokens.data();
        scheduler::prepare(r->j);
        b.s.submit(r->j, &b[parent]);
        b.all.push_back(std::move(r));
        return b.all.size() - 1;
    };
    const size_t one = fork(200), two = fork(200);
    const size_t other = b.add(10, 2);
    for (int step = 0; step < 3; ++step) {
        b.step();
        CHECK((b[one].state == task_state::waiting && b[two].state == task_state::waiting));
    }
    CHECK(b[other].starts == 1);  // it does not wait for requests that wait for others
    b.step();                     // the last rows of the parent's prompt
    const step_plan &p = b.s.plan();
    CHECK((b[one].state == task_state::running && b[two].state == task_state::running));
    CHECK((b[one].computed == 199 && b[two].computed == 199));
    REQUIRE(p.copies.size() == 2);
    for (const size_t i : {one, two}) {
        for (size_t k = 0; k < 3; ++k) CHECK(b[i].pages[k] == b[parent].pages[k]);
        CHECK(b[i].pages[3] != b[parent].pages[3]);
    }
    CHECK(b.s.pages().holders(b[parent].pages[0]) == 3);
    CHECK(b[one].pages[3] != b[two].pages[3]);
    CHECK(p.copies[0].from == b[parent].pages[3]);
    b.apply(p);
    const size_t third = fork(b[parent].length);  // of an unfinished answer
    b.step();
    // one was computed meanwhile
    CHECK((b[third].state == task_state::running && b[third].cached == b[parent].length - 2));
    b.s.end(b[parent]);
    b.ended++;
    while (b.ended < 5) b.step();
    CHECK(b.s.pages().available() == 40);
}
