// The 200 questions of tests/data/tiny-r1/problems.jsonl, with their answers.
#pragma once

#include <string>
#include <vector>

namespace golden {

struct problem {
    std::string question, answer;
};

// The first `most` of them.
std::vector<problem> problems(size_t most);

}  // namespace golden
