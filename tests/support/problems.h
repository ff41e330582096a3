// The 200 questions, with their answers, that the bundled model is asked.
#pragma once

#include <string>
#include <vector>

namespace golden {

struct problem {
    std::string question, answer;
};

std::vector<problem> problems(size_t most);  // the first of them

}  // namespace golden
