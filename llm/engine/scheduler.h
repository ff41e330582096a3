// Which tasks run, wait or are preempted, how a step is divided among them, and which pages each one holds.
// This is logic on integers: it knows no model, no memory and no clock. The caller passes in the time and
// reports what was computed.
#pragma once

#include "pages.h"

#include <limits>
#include <map>
#include <set>

namespace ds {

// ---- Dividing a step: answers come first, one row each, so that a long prompt never stalls them; prompts
// get the rest in order

struct step_demand {
    int64_t rows;     // known but not yet computed; may be 0
    bool all_logits;  // the logits of every row are needed (scoring), not only of the last
};
struct step_share {
    int64_t rows = 0;    // to compute now
    int64_t logits = 0;  // how many of these, counted from the last, need logits
};

// Fills `shares` with one share per demand, at most `rows` rows and `logits` rows with logits in total. If
// any demand is not 0, some share is not 0.
void divide_step(std::span<const step_demand> demands, int64_t rows, int64_t logits,
                 std::vector<step_share> &shares);

// ---- Tasks: what the scheduler knows of a request

struct task;
// Among the tasks of one client: by priority, then preempted ones first, then by deadline, then by age.
struct task_order {
    bool operator()(const task *a, const task *b) const;
};
struct deadline_order {
    bool operator()(const task *a, const task *b) const;
};
constexpr int64_t most_idle_accounts = 1024;  // accounts remembered of clients without tasks
struct account {                              // of one client
    // Rows computed and tokens generated for it, raised by `lift` after a pause.
    int64_t service = 0;
    int64_t jobs = 0;
    std::set<task *, task_order> waiting;
};

enum class task_state : uint8_t { outside, waiting, running };

struct task {
    // Set by the owner before `prepare` and constant afterwards.
    uint64_t client = 0;
    uint64_t adapter = 0;                                    // of its pages: page_owner
    int32_t priority = 0;                                    // higher first
    int64_t deadline = std::numeric_limits<int64_t>::max();  // in the clock of `expired`
    // Belong to the owner, who may append but never move them.
    const int32_t *tokens = nullptr;
    int64_t max_length = 0;
    bool all_logits = false;  // every row needs logits, so no cached page is used
    bool uses_cache = true;   // uses and feeds the prefix cache
    int64_t length = 0;       // of `tokens`; the owner increments it when it appends
    void *owner = nullptr;

    page_owner owner_of_pages() const { return {client, adapter}; }

    // Written by the scheduler, read by anyone.
    task_state state = task_state::outside;
    uint64_t age = 0;      // submission number: a smaller one is older
    int64_t computed = 0;  // positions whose keys and values are in its pages
    int64_t cached = 0;    // of these, those that were cached or shared at the first start
    std::vector<int32_t> pages;
    int32_t slot = -1;  // row of the page tables while running, else -1
    uint32_t preemptions = 0, starts = 0;

private:
    friend class scheduler;
    friend struct task_order;
    bool was_preempted = false;
    int64_t charged = 0;  // positions that its account has been charged for
    // A running or waiting task whose pages it may share. Null once this one starts.
    task *parent = nullptr;
    int64_t forks = 0;  // tasks that have this parent
    std::set<task *, task_order>::node_type waiting_node;
    std::set<task *, deadline_order>::node_type deadline_node;
    std::map<uint64_t, account>::node_type account_node;
    account *payer = nullptr;  // its client's account, from submit to end
};

struct page_copy {
    int32_t from, to;
};
struct step_part {
    task *who;
    // First position, number of positions, and how many of them, counted from the last, need logits.
    int64_t first, rows, logits;
};
struct step_plan {
    std::vector<page_copy> copies;  // to be made in this order, before anything is computed
    std::vector<step_part> parts;   // in order of priority, deadline and age, each with at least one row
    std::vector<task *> started, preempted;
    int64_t rows = 0, logits = 0;
    int64_t cached = 0;    // positions cached or shared, over the tasks that started for the first time
    bool starved = false;  // a task lacks pages because memory could not be allocated
};

struct scheduler_sizes {
    int64_t running = 1, waiting = 1;  // most tasks
    int64_t rows = 1, logits = 1;      // most in a step
    int64_t pages = 1;
    uint64_t hash_mask = ~uint64_t{0};  // see page_book
};

class scheduler {
public:
    scheduler(const scheduler_sizes &s, page_source source);

    // Allocates what the task will need besides pages, so that nothing else here allocates. May be called
    // from any thread.
    static void prepare(task &j);

    // Queues a prepared task, whose max_length positions must fit the pool. A parent has the same client and
    // adapter, and its tokens begin with all of j's. While the parent runs, j waits until the parent has
    // computed these positions, and then starts by sharing its pages.
    void submit(task &j, task *parent = nullptr);
    void end(task &j);                 // drops its pages. In any state; idempotent
    task *expired(int64_t now) const;  // a task whose deadline has passed, or null

    // Plans a step. Before the next call other than submit() and end(), the copies must be made, and the
    // parts computed completely or not at all.
    const step_plan &plan();
    void computed(const step_part &p);     // marks the part's rows as computed
    void charge(task &j, int64_t tokens);  // charges its client for generated tokens

    const page_book &pages() const { return book_; }
    page_book &pages() { return book_; }
    std::span<task *const> running() const { return running_; }
    int64_t waiting() const { return waiting_; }
    int64_t service(uint64_t client) const;  // 0 for an unknown client
    size_t accounts() const { return accounts_.size(); }

    struct counts {
        // Positions of prompts at their first start; of these, those cached or shared.
        uint64_t lookup = 0, cached = 0;
        uint64_t preemptions = 0;
    };
    const counts &totals() const { return totals_; }

private:
    void wait(task &j);
    void unwait(task &j);
    void lift(account &a);
    void sweep_accounts();
    task *best() const;
    bool waits_for_parent(const task &j) const;
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
    std::set<task *, deadline_order> deadlines_;  // tasks that have a deadline
    int64_t waiting_ = 0;
    uint64_t next_age_ = 1;
    step_plan plan_;
    std::vector<step_demand> demands_;
    std::vector<step_share> shares_;
    counts totals_;
};

}  // namespace ds
