// train data: rows to begin with.
#include "problems.h"
#include "train.h"

namespace train {

int run_data(const command &c, int argc, char **argv) {
    uint64_t count = 0, seed = 1;
    uint32_t digits = 3, numbers = 3;
    bool held_out = false;
    const auto rest = parse(
        c, argc, argv,
        {
            {"-n, --count", "N", "rows", cli::number(count, uint64_t{1})},
            {"--seed", "N", "the same seed gives the same rows; default 1", cli::number(seed, uint64_t{0})},
            {"--held-out", "", "the one problem in ten that is never among the other rows",
             cli::on(held_out)},
            {"--digits", "D", "arithmetic: of the numbers that are added; default 3",
             cli::number(digits, 1u, 100u)},
            {"--numbers", "K", "countdown: how many there are; default 3", cli::number(numbers, 2u, 8u)},
        });
    if (!rest) return 0;
    if (rest->size() != 1 || (rest->front() != "arithmetic" && rest->front() != "countdown"))
        throw cli::usage_error("data: needs a kind of problem, arithmetic or countdown");
    if (!count) throw cli::usage_error("data: needs --count N");
    const bool sums = rest->front() == "arithmetic";
    const auto make = [&](rows::splitmix64 &random) {
        return sums ? problems::sum(random, digits) : problems::countdown(random, numbers);
    };
    problems::generate(make, count, seed, held_out, [](const json &row) {
        const std::string line = jsonl::text_line(row);
        if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size()) throw cli::output_failure();
    });
    return 0;
}

}  // namespace train
