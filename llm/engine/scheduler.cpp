// Progress is guaranteed: the oldest running task is never preempted, and every task fits the pool alone, so
// the oldest ends and another becomes the oldest. A task starts only if there are pages for all its tokens,
// one page more, and a reserve for the running tasks. A prompt's pages are taken at the start, an answer's as
// it grows.
#include "scheduler.h"

#include <algorithm>
#include <cassert>
#include <tuple>

namespace ds {

// ---- Dividing a step: two passes over the demands, first single rows (answers), then more (prompts)

void divide_step(std::span<const step_demand> demands, int64_t rows, int64_t logits,
                 std::vector<step_share> &shares) {
    shares.assign(demands.size(), {});
    for (const bool single : {true, false})
        for (size_t i = 0; i < demands.size(); ++i) {
            const step_demand &w = demands[i];
            if (w.rows == 0 || (w.rows == 1) != single) continue;
            int64_t n = std::min(w.rows, rows);
            if (w.all_logits) n = std::min(n, logits);
            // The last row needs logits. If none are left, that row waits and the others go ahead.
            if (!w.all_logits && n == w.rows && logits == 0) --n;
            shares[i] = {n, w.all_logits ? n : n == w.rows && n > 0 ? 1 : 0};
            rows -= n;
            logits -= shares[i].logits;
        }
}

// ---- Order

bool task_order::operator()(const task *a, const task *b) const {
    return std::tuple(-int64_t{a->priority}, !a->was_preempted, a->deadline, a->age) <
           std::tuple(-int64_t{b->priority}, !b->was_preempted, b->deadline, b->age);
}

bool deadline_order::operator()(const task *a, const task *b) const {
    return std::tie(a->deadline, a->age) < std::tie(b->deadline, b->age);
}

static bool runs_before(const task *a, const task *b) {
    return std::tuple(-int64_t{a->priority}, a->deadline, a->age) <
           std::tuple(-int64_t{b->priority}, b->deadline, b->age);
}

scheduler::scheduler(const scheduler_sizes &s, page_source source)
    : sizes_(s), book_(s.pages, source, s.hash_mask) {
    const auto most = static_cast<size_t>(s.running);
    running_.reserve(most);
    for (int64_t i = s.running; i-- > 0;) slots_.push_back(static_cast<int32_t>(i));
    plan_.copies.reserve(most);
    plan_.parts.reserve(most);
    plan_.started.reserve(most);
    plan_.preempted.reserve(most);
    demands_.reserve(most);
    shares_.reserve(most);
}

// ---- Waiting

void scheduler::prepare(task &j) {
    std::set<task *, task_order> waiting{&j};
    j.waiting_node = waiting.extract(waiting.begin());
    if (j.deadline != std::numeric_limits<int64_t>::max()) {
        std::set<task *, deadline_order> deadlines{&j};
        j.deadline_node = deadlines.extract(deadlines.begin());
    }
    std::map<uint64_t, account> accounts;
    accounts.try_emplace(j.client);
    j.account_node = accounts.extract(accounts.begin());
    j.pages.reserve(static_cast<size_t>(pages_for(j.max_length)));
}

void scheduler::submit(task &j, task *parent) {
    assert(j.state == task_state::outside && pages_for(j.max_length) <= book_.pages() &&
           j.length <= j.max_length);
    j.age = next_age_++;
    // An account that exists already leaves the node with the task.
    if (j.account_node) j.account_node = std::move(accounts_.insert(std::move(j.account_node)).node);
    j.payer = &accounts_.find(j.client)->second;
    if (j.payer->jobs++ == 0) lift(*j.payer);
    if (j.deadline_node) deadlines_.insert(std::move(j.deadline_node));
    if (parent && parent->state != task_state::outside) {
        assert(parent->owner_of_pages() == j.owner_of_pages() && parent->length >= j.length);
        j.parent = parent;
        ++parent->forks;
    }
    wait(j);
}

void scheduler::wait(task &j) {
    j.state = task_state::waiting;
    j.payer->waiting.insert(std::move(j.waiting_node));
    ++waiting_;
}

void scheduler::unwait(task &j) {
    j.waiting_node = j.payer->waiting.extract(&j);
    j.state = task_state::outside;
    --waiting_;
}

// Virtual token counters (arXiv 2401.00588): a client that returns after a pause has no claim on what the
// others used meanwhile.
void scheduler::lift(account &a) {
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const auto &[client, other] : accounts_)
        if (&other != &a && other.jobs > 0) least = std::min(least, other.service);
    if (least != std::numeric_limits<int64_t>::max()) a.service = std::max(a.service, least);
}

// Forgets idle accounts with no more service than every active one, because `lift` would raise them to that;
// and of the others the least served, if there are too many.
void scheduler::sweep_accounts() {
    int64_t least = std::numeric_limits<int64_t>::max();
    for (const auto &[client, a] : accounts_)
        if (a.jobs > 0) least = std::min(least, a.service);
    std::erase_if(accounts_, [least](const auto &entry) {
        return entry.second.jobs == 0 && entry.second.service <= least;
    });
    for (;;) {
        int64_t idle = 0;
        auto first = accounts_.end();  // the least served
        for (auto a = accounts_.begin(); a != accounts_.end(); ++a) {
            if (a->second.jobs > 0) continue;
            ++idle;
            if (first == accounts_.end() || a->second.service < first->second.service) first = a;
        }
        if (idle <= most_idle_accounts) return;
        accounts_.erase(first);
    }
}

int64_t scheduler::service(uint64_t client) const {
    const auto found = accounts_.find(client);
    return found == accounts_.end() ? 0 : found->second.service;
}

task *scheduler::expired(int64_t now) const {
    return deadlines_.empty() || (*deadlines_.begin())->deadline > now ? nullptr : *deadlines_.begin();
}

void scheduler::end(task &j) {
    if (j.state == task_state::outside) return;
    if (j.state == task_state::waiting) unwait(j);
    else stop_running(j);
    forget_parent(j);
    if (j.forks > 0)
        for (task *child : j.payer->waiting)
            if (child->parent == &j) forget_parent(*child);
    if (j.deadline_node.empty() && j.deadline != std::numeric_limits<int64_t>::max())
        j.deadline_node = deadlines_.extract(&j);
    if (--j.payer->jobs == 0) sweep_accounts();
}

void scheduler::forget_parent(task &j) {
    if (j.parent) --j.parent->forks;
    j.parent = nullptr;
}

// ---- Starting

// The parent is still computing what this task would share.
bool scheduler::waits_for_parent(const task &j) const {
    return j.parent && j.parent->state == task_state::running && j.parent->computed < j.length - 1;
}

// The next task to start: by priority, then preempted ones first, then by deadline, by its client's service
// so far, and by age. Each account's set is in this order, so its first candidate is its best.
task *scheduler::best() const {
    task *best = nullptr;
    const auto key = [](const task *j) {
        return std::tuple(-int64_t{j->priority}, !j->was_preempted, j->deadline, j->payer->service, j->age);
    };
    for (const auto &[client, a] : accounts_)
        for (task *j : a.waiting) {
            if (waits_for_parent(*j)) continue;
            if (!best || key(j) < key(best)) best = j;
            break;
        }
    return best;
}

// Holds the full pages that j can share and appends them to its own. `part.from` receives the page that
// contains some of the positions after those (-1: none), `positions` the number of all these positions. At
// least one row is left to compute, because its logits are needed.
void scheduler::find_pages(task &j, page_copy &part, int64_t &positions) {
    const int64_t most = j.length - 1;
    const auto share = [&](int32_t page) {
        book_.hold(page);
        j.pages.push_back(page);
    };
    part.from = -1;
    positions = 0;
    if (j.parent && j.parent->state == task_state::running) {
        positions = std::min(j.parent->computed, most);
        for (int64_t i = 0; i < positions / page_positions; ++i)
            share(j.parent->pages[static_cast<size_t>(i)]);
        if (positions % page_positions)
            part.from = j.parent->pages[static_cast<size_t>(positions / page_positions)];
    } else if (j.uses_cache && !j.all_logits) {
        int32_t last = -1;
        for (; positions + page_positions <= most; positions += page_positions) {
            const int32_t next = book_.find(j.owner_of_pages(), last, j.tokens + positions);
            if (next < 0) break;
            share(last = next);
        }
        const page_book::part next = book_.match(
            j.owner_of_pages(), last,
            {j.tokens + positions, static_cast<size_t>(std::min(page_positions, most - positions))});
        part.from = next.page;
        positions += next.count;
    }
}

// Pages kept free for the running tasks: one for every four. Under a load that fills the pool, this was
// enough that only one task in a hundred was preempted. The reserve is never more than the tasks can still
// use, so a pool that is large enough for all starts all.
int64_t scheduler::reserve() const {
    int64_t wanted = 0;
    for (const task *j : running_) wanted += pages_for(j->max_length) - static_cast<int64_t>(j->pages.size());
    return std::min(wanted, static_cast<int64_t>((running_.size() + 3) / 4));
}

bool scheduler::start(task &j) {
    page_copy part;
    int64_t positions;
    find_pages(j, part, positions);
    const auto shared = static_cast<int64_t>(j.pages.size());
    const int64_t missing = pages_for(j.length) - shared,
                  growth = pages_for(std::min(j.length + page_positions, j.max_length)) - pages_for(j.length);
    bool ok = book_.available() >= missing + growth + reserve();
    for (int64_t i = 0; i < missing && ok; ++i) {
        const int32_t page = book_.take();
        ok = page >= 0;
        if (ok) j.pages.push_back(page);
        else plan_.starved = true;
    }
    if (!ok) {
        book_.drop(j.pages);
        j.pages.clear();
        return false;
    }
    // The page to copy from may just have been taken, even by this task; copies are made before any write.
    part.to = part.from < 0 ? -1 : j.pages[static_cast<size_t>(shared)];
    if (part.from != part.to) plan_.copies.push_back(part);
    unwait(j);
    forget_parent(j);
    j.state = task_state::running;
    j.computed = positions;
    j.slot = slots_.back();
    slots_.pop_back();
    running_.insert(std::upper_bound(running_.begin(), running_.end(), &j, runs_before), &j);
    if (j.starts++ == 0) {
        j.cached = j.charged = positions;
        plan_.cached += positions;
        totals_.cached += static_cast<uint64_t>(positions);
        totals_.lookup += static_cast<uint64_t>(j.length);
    }
    plan_.started.push_back(&j);
    return true;
}

// ---- Running

// Takes pages for all the task's tokens; false if none are left.
bool scheduler::grow(task &j) {
    while (static_cast<int64_t>(j.pages.size()) < pages_for(j.length)) {
        const int32_t page = book_.take();
        if (page < 0) return false;
        j.pages.push_back(page);
    }
    return true;
}

// The task to preempt: of the lowest priority, then the one preempted least often, then the one that loses
// least, then the youngest. Never the oldest; null if that one is alone.
task *scheduler::victim() const {
    const task *oldest = running_[0];
    for (const task *j : running_)
        if (j->age < oldest->age) oldest = j;
    task *best = nullptr;
    const auto key = [](const task *j) {
        return std::tuple(j->priority, j->preemptions, j->computed, -static_cast<int64_t>(j->age));
    };
    for (task *j : running_)
        if (j != oldest && (!best || key(j) < key(best))) best = j;
    return best;
}

void scheduler::preempt(task &j) {
    stop_running(j);
    j.was_preempted = true;
    ++j.preemptions;
    plan_.preempted.push_back(&j);
    ++totals_.preemptions;
    wait(j);
}

void scheduler::stop_running(task &j) {
    leave_pages(j);
    slots_.push_back(j.slot);
    j.slot = -1;
    j.computed = 0;
    j.state = task_state::outside;
    std::erase(running_, &j);
}

// What was computed stays cached, including the last, partial page.
void scheduler::leave_pages(task &j) {
    const int64_t full = j.computed / page_positions, rest = j.computed % page_positions;
    if (j.uses_cache && rest)
        book_.enter(j.pages[static_cast<size_t>(full)], j.owner_of_pages(),
                    full ? j.pages[static_cast<size_t>(full - 1)] : -1,
                    {j.tokens + full * page_positions, static_cast<size_t>(rest)});
    book_.drop(j.pages);
    j.pages.clear();
}

void scheduler::computed(const step_part &p) {
    task &j = *p.who;
    assert(j.state == task_state::running && j.computed == p.first);
    j.computed += p.rows;
    charge(j, std::max<int64_t>(0, j.computed - std::max(j.charged, p.first)));
    j.charged = std::max(j.charged, j.computed);
    if (!j.uses_cache) return;
    for (int64_t i = p.first / page_positions; i < j.computed / page_positions; ++i) {
        int32_t &page = j.pages[static_cast<size_t>(i)];
        const int32_t known =
            book_.enter(page, j.owner_of_pages(), i ? j.pages[static_cast<size_t>(i - 1)] : -1,
                        {j.tokens + i * page_positions, page_positions});
        if (known == page) continue;
        book_.hold(known);  // another task computed the same page: keep only that one
        book_.drop({&page, 1});
        page = known;
    }
}

void scheduler::charge(task &j, int64_t tokens) { j.payer->service += tokens; }

void scheduler::divide() {
    demands_.clear();
    for (const task *j : running_) {
        // False only if memory could not be allocated.
        const bool has_room = static_cast<int64_t>(j->pages.size()) >= pages_for(j->length);
        demands_.push_back({has_room ? j->length - j->computed : 0, j->all_logits});
    }
    divide_step(demands_, sizes_.rows, sizes_.logits, shares_);
    for (size_t i = 0; i < running_.size(); ++i)
        if (const step_share &s = shares_[i]; s.rows > 0) {
            plan_.parts.push_back({running_[i], running_[i]->computed, s.rows, s.logits});
            plan_.rows += s.rows;
            plan_.logits += s.logits;
        }
}

const step_plan &scheduler::plan() {
    plan_.copies.clear();
    plan_.parts.clear();
    plan_.started.clear();
    plan_.preempted.clear();
    plan_.rows = plan_.logits = plan_.cached = 0;
    plan_.starved = false;
    for (size_t i = 0; i < running_.size();) {
        if (grow(*running_[i])) {
            ++i;
        } else if (task *v = victim()) {
            i -=
                std::find(running_.begin(), running_.end(), v) < running_.begin() + static_cast<ptrdiff_t>(i);
            preempt(*v);
        } else {
            plan_.starved = true;
            ++i;
        }
    }
    if (plan_.preempted.empty())
        while (!slots_.empty() && waiting_ > 0) {
            task *j = best();
            if (!j || !start(*j)) break;
        }
    divide();
    return plan_;
}

}  // namespace ds
