// Speed of an engine: prompts read and answers written, in tokens a second, through the public API.
#pragma once

#include "../../deepseek.h"

#include <functional>
#include <string>
#include <vector>

namespace bench {

struct speed_options {
    std::vector<unsigned> prompts, answers, depths, requests, threads;  // sizes to go through
    unsigned repetitions = 3;
    ds_kv_type kv = DS_KV_DEFAULT;
    std::string isa;           // empty: the best
    uint32_t step_tokens = 0;  // 0: the engine's default
    ds_mla_form mla = DS_MLA_AUTO;
    bool reads = true;  // decode once more beside reads of memory
};

struct speed {
    bool decode;
    // tokens: of the prompt, or new ones, of each request; depth: positions before them
    unsigned threads, requests, depth, tokens;
    std::string isa;
    std::vector<double> rates;  // tokens a second over all requests, one a repetition
    // tokens a second from the first prompt to the last answer, prompts' and new ones; decode only
    double all_best;
    double token_ops;  // two for each weight that a token is multiplied with
    // most of them are of a format that is multiplied in integers
    bool integers;

    double median() const;
    double best() const;
    // Of a decode once more, with a read of memory after every step, since what a machine's memory gives may
    // change from second to second: the usual (median) step's bytes a second, and the usual read's; 0 where
    // that was left out.
    double bytes_per_second, read_per_second;
};

// What the largest engine was planned to take, weights included, and what this process had resident at most
// while the engines ran (0: not known).
struct memory {
    uint64_t planned = 0, weights = 0, resident = 0;
};

// Runs every combination, cut to the model's context; `each` gets a result as soon as it is there. Throws
// std::runtime_error.
memory measure(const std::string &path, const speed_options &o,
               const std::function<void(const speed &)> &each);

}  // namespace bench
