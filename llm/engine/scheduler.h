// Who runs, who waits, who makes room, who gets how much of a step, and which pages each has: logic on
// integers. It knows no model, no memory and no clock; whoever runs the steps tells it the time, and what was
// computed.
#pragma once

#include "pages.h"

#include <limits>
#include <map>
#include <set>

namespace ds {

// ---- How a step is divided: answers first, one row each, so that a long prompt never stalls them; what is
// left goes to prompts in order

struct step_wish {
    int64_t rows;     // known and not yet computed; 0: it wants nothing
    bool all_logits;  // every row's logits are needed (scoring), not only the last one's
};
struct step_share {
    int64_t rows = 0;    // to compute now
    int64_t logits = 0;  // of these, the last ones, whose logits are needed
};

// `shares` gets one share a wish. At most `rows` rows and `logits` rows with logits are given out; somebody
// gets something whenever somebody wishes something.
void divide_step(std::span<const step_wish> wishes, int64_t rows, int64_t logits,
                 std::vector<step_share> &shares);

// ---- Tasks: what the scheduler knows of a request

struct task;
// among those of one client: by priority, then those that made room before, then by deadline, then by age
struct task_order {
    bool operator()(const task *a, const task *b) const;
};
struct deadline_order {
    bool operator()(const task *a, const task *b) const;
};
constexpr int64_t most_idle_accounts = 1024;  // remembered of clients that have no task
struct account {                              // of one client
    // rows computed and tokens made for it, less what it may not claim (see `lift`)
    int64_t service = 0;
    int64_t jobs = 0;
    std::set<task *, task_order> waiting;
};

struct task {
    enum class place : uint8_t { outside, waiting, running };

    // Set by its owner before it is prepared, and left alone after.
    uint64_t client = 0;
    int32_t priority = 0;                                    // higher first
    int64_t deadline = std::numeric_limits<int64_t>::max();  // in the clock of `expired`
    // the owner's, who appends to them; they stay where they are
    const int32_t *tokens = nullptr;
    int64_t max_length = 0;
    bool all_logits = false;  // of every row; it finds nothing in the prefix cache then
    bool uses_cache = true;   // its pages are found by others, and theirs by it
    int64_t length = 0;       // of `tokens`; the owner counts it up when it appends
    void *owner = nullptr;

    // The scheduler's; to be read.
    place at = place::outside;
    uint64_t age = 0;      // order of submission
    int64_t computed = 0;  // positions whose keys and values are in its pages
    int64_t found = 0;     // of these, what the first start found in pages
    std::vector<int32_t> pages;
    int32_t slot = -1;  // row of the page tables, while it runs
    uint32_t preemptions = 0, starts = 0;

private:
    friend class scheduler;
    friend struct task_order;
    bool made_room = false;
    int64_t charged = 0;  // positions its account has paid for
    // a running or waiting task whose pages it may share, until it starts
    task *parent = nullptr;
    int64_t forks = 0;  // that have this parent
    std::set<task *, task_order>::node_type waiting_node;
    std::set<task *, deadline_order>::node_type deadline_node;
    std::map<uint64_t, account>::node_type account_node;
    account *payer = nullptr;  // of its client, from submit to end
};

struct page_copy {
    int32_t from, to;
};
struct step_part {
    task *who;
    // positions; of the rows, the last ones, whose logits are needed
    int64_t first, rows, logits;
};
struct step_plan {
    std::vector<page_copy> copies;  // to be made in this order, before anything is computed
    std::vector<step_part> parts;   // in order of priority and age, each with a row at least
    std::vector<task *> started, preempted;
    int64_t rows = 0, logits = 0;
    int64_t found = 0;     // positions, by those that started for the first time
    bool starved = false;  // somebody lacks pages because memory could not be had
};

struct scheduler_sizes {
    int64_t running = 1, waiting = 1;  // tasks at most
    int64_t rows = 1, logits = 1;      // of a step
    int64_t pages = 1;
    uint64_t hash_mask = ~uint64_t{0};  // see page_book
};

class scheduler {
public:
    scheduler(const scheduler_sizes &s, page_source source);

    // Takes what the task will need besides pages, so that nothing else here allocates. From any thread.
    static void prepare(task &j);

    // The task waits. It must be prepared, and max_length positions must fit the pool. A parent has the same
    // client, and its first tokens are all of j's: j shares its pages as far as these are computed when j
    // starts, and waits for them while the parent runs and computes them.
    void submit(task &j, task *parent = nullptr);
    void end(task &j);                 // in any place; idempotent. Its pages are dropped
    task *expired(int64_t now) const;  // one whose deadline has passed; null when there is none

    // Decides on a step. What it says must be done, or not be done at all, before the next call but submit()
    // and end(): copies always are made.
    const step_plan &plan();
    void computed(const step_part &p);     // its rows are
    void charge(task &j, int64_t tokens);  // made for it

    const page_book &pages() const { return book_; }
    page_book &pages() { return book_; }
    std::span<task *const> running() const { return running_; }
    int64_t waiting() const { return waiting_; }
    int64_t service(uint64_t client) const;  // 0 for one unknown
    size_t accounts() const { return accounts_.size(); }

    // positions of prompts; positions; jobs
    struct counts {
        uint64_t looked_up = 0, found = 0, preemptions = 0;
    };
    const counts &totals() const { return totals_; }

private:
    void wait(task &j);
    void unwait(task &j);
    void lift(account &a);
    void sweep_accounts();
    task *best() const;
    bool held(const task &j) const;
    void find_pages(task &j, page_copy &part, int64_t &positions);
    int64_t reserve() const;
    bool start(task &j);
    bool grow(task &j);
    task *victim() const;
    void preempt(task &j);
    void leave_pages(task &j);
    void stop_running(task &j);
    void forget_parent(task &j);
    void divide();

    scheduler_sizes sizes_;
    page_book book_;
    std::vector<task *> running_;  // in order of priority, deadline and age
    std::vector<int32_t> slots_;
    std::map<uint64_t, account> accounts_;
    std::set<task *, deadline_order> deadlines_;  // of those that have one
    int64_t waiting_ = 0;
    uint64_t next_age_ = 1;
    step_plan plan_;
    std::vector<step_wish> wishes_;
    std::vector<step_share> shares_;
    counts totals_;
};

}  // namespace ds
