// Speed of an engine through the public API: prompt and decode, in tokens a second.
#pragma once

#include "quiet.h"

#include "../../deepseek.h"

#include <functional>
#include <string>
#include <vector>

namespace bench {

struct speed_options {
    std::vector<unsigned> prompts, answers, depths, requests, threads;  // sizes to measure
    unsigned repetitions = 3;
    unsigned up_to = 3;  // times as many, while fewer than `repetitions` are quiet
    ds_kv_type kv = DS_KV_DEFAULT;
    std::string isa;           // empty: the best
    uint32_t step_tokens = 0;  // 0: the engine's default
    ds_mla_form mla = DS_MLA_AUTO;
    bool reads = true;  // measure decoding again, alternating with reads of memory
};

struct speed {
    bool decode;
    // tokens: of each request, of the prompt or generated; depth: positions before them
    unsigned threads, requests, depth, tokens;
    std::string isa;
    size_t repetitions, quiet;  // how many there were, and how many of them between quiet probes
    // tokens a second over all requests, one value for each quiet repetition, or for each if none is quiet
    std::vector<double> rates;
    // of decode only: tokens a second from the first prompt to the last answer, prompts included
    double all_best;
    double token_ops;  // operations a token: two for each weight
    // most weights are of a format that is multiplied in integers
    bool integers;

    double median() const;
    double best() const;
    // Of the decode that alternates with reads of memory, since memory bandwidth may change from second to
    // second: bytes a second of the median step and of the median read. 0 if not measured.
    double bytes_per_second, read_per_second;
};

// The memory plan of the largest engine, weights included, and the process's peak resident size while the
// engines ran (0: not known).
struct memory {
    uint64_t planned = 0, weights = 0, resident = 0;
};

// Runs every combination, limited to the model's context. `each` gets a result as soon as it is known. Throws
// std::runtime_error.
memory measure(const std::string &path, const speed_options &o, quiet_probe &probe,
               const std::function<void(const speed &)> &each);

}  // namespace bench
