// The page book: pages are conserved; contents are found only by equal tokens, predecessor and client; and
// the least recently used page is evicted first, but never before pages that follow it.
#include "../../llm/engine/pages.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

using namespace ds;

namespace {

std::vector<int32_t> tokens(int32_t first, int64_t n = page_positions) {
    std::vector<int32_t> t(static_cast<size_t>(n));
    std::iota(t.begin(), t.end(), first);
    return t;
}

// Enters a sequence of full pages in order; pages already known are shared.
std::vector<int32_t> enter_all(page_book &b, uint64_t client,
                               const std::vector<std::vector<int32_t>> &contents) {
    std::vector<int32_t> pages;
    for (const auto &c : contents) {
        const int32_t before = pages.empty() ? -1 : pages.back(), page = b.take();
        REQUIRE(page >= 0);
        const int32_t known = b.enter(page, client, before, c);
        if (known != page) b.hold(known), b.drop({&page, 1});
        pages.push_back(known);
    }
    return pages;
}

}  // namespace

TEST_CASE("page book: the lowest free page is taken; memory is committed when needed, and released after the "
          "last page in use") {
    int64_t memory = 0;
    page_book b(100, {&memory, [](void *user, int64_t pages) {
                          return *static_cast<int64_t *>(user) = (pages + 9) / 10 * 10;
                      }});
    CHECK((b.free() == 100 && b.usable() == 0));
    std::vector<int32_t> mine;
    for (int32_t i = 0; i < 25; ++i) {
        mine.push_back(b.take());
        CHECK(mine.back() == i);
    }
    CHECK((memory == 30 && b.usable() == 30 && b.free() == 75 && b.available() == 75));
    const std::vector<int32_t> some = {3, 17, 9};
    const uint32_t generation = b.generation(9);
    b.drop(some);
    CHECK((b.take() == 3 && b.take() == 9 && b.take() == 17 && b.take() == 25));
    CHECK(b.generation(9) != generation);  // a reference to the old content no longer matches
    b.drop(std::vector<int32_t>{25});
    CHECK(b.shrink() == 25);
    b.drop(std::vector<int32_t>{24, 10});
    CHECK(b.shrink() == 24);
    CHECK((b.take() == 10 && b.take() == 24));
    CHECK((b.usable() == 30 && b.free() == 75));
}

TEST_CASE("page book: without memory it evicts cached pages, and then fails") {
    int64_t most = 2;
    page_book b(10, {&most, [](void *user, int64_t) { return *static_cast<int64_t *>(user); }});
    const std::vector<int32_t> a = enter_all(b, 0, {tokens(0)});
    const int32_t second = b.take();
    CHECK(second == 1);
    CHECK(b.take() == -1);
    b.drop(a);
    CHECK((b.cached() == 1 && b.available() == 9));
    CHECK(b.take() == 0);
    CHECK((b.find(0, -1, tokens(0).data()) == -1 && b.take() == -1));
    most = 10;
    CHECK(b.take() == 2);
}

TEST_CASE("page book: contents are found under their client, after their predecessor, to the token") {
    page_book b(20, {});
    const std::vector<int32_t> one = enter_all(b, 7, {tokens(0), tokens(100), tokens(200)});
    CHECK(enter_all(b, 7, {tokens(0), tokens(100), tokens(300)})[1] == one[1]);
    CHECK(b.holders(one[1]) == 2);
    CHECK(b.find(7, -1, tokens(0).data()) == one[0]);
    CHECK(b.find(7, one[0], tokens(100).data()) == one[1]);
    CHECK(b.find(8, -1, tokens(0).data()) == -1);
    CHECK(b.find(7, -1, tokens(100).data()) == -1);
    CHECK(b.find(7, one[1], tokens(100).data()) == -1);
    std::vector<int32_t> nearly = tokens(0);
    nearly.back() ^= 1;
    CHECK(b.find(7, -1, nearly.data()) == -1);
    CHECK(b.match(7, -1, nearly).page == one[0]);
    CHECK(b.match(7, -1, nearly).count == 63);
    CHECK(b.match(8, -1, nearly).count == 0);
    CHECK(b.match(7, one[1], tokens(200, 10)).count == 10);
    CHECK(b.match(7, one[1], tokens(201, 10)).count == 0);

    const int32_t part = b.take();
    CHECK(b.enter(part, 7, one[2], tokens(400, 5)) == part);
    CHECK(b.match(7, one[2], tokens(400)).page == part);
    CHECK(b.match(7, one[2], tokens(400)).count == 5);
    const int32_t less = b.take();
    CHECK(b.enter(less, 7, one[2], tokens(400, 3)) == part);  // already known
    CHECK(!b.entered(less));
}

TEST_CASE("page book: the least recently used page is evicted first, and never one that others follow") {
    page_book b(6, {});
    const std::vector<int32_t> one = enter_all(b, 0, {tokens(0), tokens(100), tokens(200)}),
                               two = enter_all(b, 0, {tokens(0), tokens(500)});
    b.drop(one);
    b.drop(two);
    CHECK((b.cached() == 4 && b.free() == 2));
    CHECK(two[0] == one[0]);
    b.take(), b.take();         // the free pages
    CHECK(b.take() == one[2]);  // then the ends of sequences
    CHECK(b.find(0, one[0], tokens(100).data()) == one[1]);
    CHECK(b.take() == one[1]);
    CHECK(b.find(0, one[0], tokens(500).data()) == two[1]);
    b.hold(two[0]);
    b.hold(two[1]);
    CHECK((b.cached() == 0 && b.take() == -1));
    b.drop(two);
    CHECK(b.forget(1) == 1);
    CHECK((b.find(0, -1, tokens(0).data()) == one[0] && b.find(0, one[0], tokens(500).data()) == -1));
    CHECK(b.take() == two[1]);
    CHECK(b.take() == one[0]);
    CHECK(b.find(0, -1, tokens(0).data()) == -1);
}

TEST_CASE("page book: a sequence is forgotten except for pages in use and pages that another continues") {
    page_book b(10, {});
    std::vector<int32_t> all;
    for (const int32_t start : {0, 100, 200}) {
        const std::vector<int32_t> t = tokens(start);
        all.insert(all.end(), t.begin(), t.end());
    }
    const std::vector<int32_t> one = enter_all(b, 7, {tokens(0), tokens(100), tokens(200)}),
                               two = enter_all(b, 7, {tokens(0), tokens(500)});
    const int32_t part = b.take();
    b.enter(part, 7, one[2], tokens(400, 5));
    CHECK(b.find_all(7, all) == one);
    CHECK(b.find_all(7, std::span(all).first(191)).size() == 2);
    CHECK(b.find_all(8, all).empty());
    CHECK(b.forget(7, all) == 0);  // all pages are in use
    b.drop({&part, 1}), b.drop(one), b.drop(two);
    CHECK(b.cached() == 5);
    CHECK(b.forget(8, all) == 0);
    CHECK(b.forget(7, all) == 0);  // another entry continues it
    for (const int32_t t : tokens(400, 5)) all.push_back(t);
    CHECK(b.forget(7, std::span(all).first(196)) == 0);
    CHECK(b.forget(7, all) == 3);  // the first page belongs to the other too
    CHECK((b.find_all(7, all).size() == 1 && b.find(7, two[0], tokens(500).data()) == two[1]));
    all.resize(64);
    for (const int32_t t : tokens(500)) all.push_back(t);
    CHECK(b.forget(7, all) == 2);
    CHECK((b.cached() == 0 && b.free() == 10));
}

// Compared with a map from whole contents to pages: found pages are right, and nothing is evicted while pages
// are free.
TEST_CASE("page book: random sequences against a map of their contents") {
    std::mt19937 random(1);
    int64_t forgotten = 0;
    for (int round = 0; round < 20; ++round) {
        const int64_t pages = 8 + static_cast<int64_t>(random() % 60);
        page_book b(pages, {});
        struct held {
            uint64_t client;
            std::vector<int32_t> starts, pages;
        };
        std::vector<held> live;
        // of each page: the client and the contents up to it
        std::map<int32_t, std::pair<uint64_t, std::vector<int32_t>>> holds;
        for (int step = 0; step < 3000; ++step) {
            if (random() % 2 && !live.empty()) {
                const size_t i = random() % live.size();
                b.drop(live[i].pages);
                live.erase(live.begin() + static_cast<ptrdiff_t>(i));
            } else {
                held h{random() % 2, {}, {}};
                const size_t length = 1 + random() % 5;
                bool known = true;
                for (size_t i = 0; i < length; ++i) {
                    h.starts.push_back(static_cast<int32_t>(random() % 3) * 1000);
                    const std::vector<int32_t> content = tokens(h.starts.back());
                    const int32_t before = h.pages.empty() ? -1 : h.pages.back();
                    int32_t page = known ? b.find(h.client, before, content.data()) : -1;
                    if (page >= 0) {
                        CHECK(holds[page] == std::pair(h.client, h.starts));
                        b.hold(page);
                    } else {
                        known = false;
                        page = b.take();
                        if (page < 0) break;
                        for (const held &other : live)
                            CHECK(std::count(other.pages.begin(), other.pages.end(), page) == 0);
                        CHECK(b.enter(page, h.client, before, content) == page);
                        holds[page] = {h.client, h.starts};
                    }
                    h.pages.push_back(page);
                }
                if (!h.pages.empty()) live.push_back(h);
            }
            if (random() % 16 == 0) {  // pages in use are never evicted
                std::vector<int32_t> sequence;
                for (int i = 0; i < 3; ++i)
                    for (const int32_t t : tokens(static_cast<int32_t>(random() % 3) * 1000))
                        sequence.push_back(t);
                const int64_t before = b.cached(), freed = b.forget(random() % 2, sequence);
                CHECK(b.cached() + freed == before);
                forgotten += freed;
            }
            int64_t used = 0;
            std::map<int32_t, int32_t> owners;
            for (const held &h : live)
                for (const int32_t p : h.pages) used += owners[p]++ == 0;
            for (const auto &[page, n] : owners) CHECK(b.holders(page) == n);
            CHECK(used + b.available() == pages);
        }
        for (const held &h : live) b.drop(h.pages);
        CHECK(b.available() == pages);
        CHECK(b.forget(0) + b.free() >= pages);
        CHECK(b.free() == pages);
    }
    CHECK(forgotten > 100);
}
