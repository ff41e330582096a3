// train: changes a model's weights by rows of text, measures it, draws a run, and makes rows to begin with.
// This file has the command line.
#include "train.h"

#include <string_view>

namespace train {

// ---- Flags

void add_row_flags(std::vector<cli::flag> &f, rows::rules &r) {
    f.push_back(
        {"--all-tokens", "", "learn the prompts too; default: the answers alone", cli::on(r.all_tokens)});
    f.push_back({"--plain", "",
                 "prompt and response are plain text; default: a question and an answer of the model's chat "
                 "template, if it has one",
                 cli::on(r.plain)});
}

cli::flag quiet_flag(bool &to) {
    return {"-q, --quiet", "", "no progress (it shows on a terminal only) and no summary", cli::on(to)};
}

constexpr const char *about_rows =
    "A row is a line of JSON: {\"prompt\", \"response\"}; {\"messages\": [{\"role\", \"content\"}, …]}, of "
    "which\n"
    "the last is the assistant's; or {\"text\"}. Other fields are ignored. Messages, and a prompt and its\n"
    "response, are written with the model's chat template. The answers are learned, each with the token "
    "that\n"
    "ends it; of a text, all tokens are. Thoughts in answers before the last are dropped where the template\n"
    "does so.\n";
constexpr const char *exit_statuses =
    "\nExit status: 0 done; 1 something failed, and a line on standard error says what; 2 wrong usage; 130 "
    "stopped by Ctrl-C, and saved.\n";

std::optional<std::vector<std::string>> parse(const command &c, int argc, char **argv,
                                              std::vector<cli::flag> flags) {
    bool help = false;
    flags.push_back({"-h, --help", "", "this text", cli::on(help)});
    std::vector<std::string> rest = cli::parse(argc, argv, flags);
    if (!help) return rest;
    std::printf("%s\nusage: train %s\n", c.does, c.usage);
    if (c.reads_rows) std::printf("\n%s", about_rows);
    cli::print_help(flags);
    std::fputs(exit_statuses, stdout);
    return {};
}

// ---- Commands

constexpr command commands[] = {
    {"init", "init [flags] --bpe ROWS.jsonl -o OUT.gguf",
     "Makes a model of random weights, with a vocabulary of its own or another model's.", false, run_init},
    {"sft", "sft [flags] MODEL.gguf ROWS.jsonl[=WEIGHT]... -o OUT.gguf",
     "Trains a model on rows; of several files in proportion to their weights.", true, run_sft},
    {"eval", "eval [flags] MODEL.gguf ROWS.jsonl",
     "Measures how well a model predicts the answers: the mean negative log-likelihood of a token; or, with\n"
     "  --solve, how many problems it solves.",
     true, run_eval},
    {"plot", "plot RUN.jsonl -o RUN.svg", "Draws a run from the log that train sft --log wrote.", false,
     run_plot},
    {"data", "data [flags] arithmetic|countdown -n N",
     "Prints rows to learn from: sums worked column by column; or a target made from numbers with + - *.",
     false, run_data},
};

static void print_usage() {
    std::printf("Trains models of the DeepSeek-R1 family.\n");
    for (const command &c : commands) std::printf("\ntrain %s\n  %s\n", c.usage, c.does);
    std::printf(
        "\n%s"
        "\nExample:\n"
        "  train data arithmetic -n 20000 >rows.jsonl\n"
        "  train data arithmetic -n 200 --held-out >held.jsonl\n"
        "  train sft --lr 1e-3 --eval held.jsonl --log run.jsonl models/tiny-r1.gguf rows.jsonl -o out.gguf\n"
        "  train plot run.jsonl -o run.svg\n%s",
        about_rows, exit_statuses);
}

static int run(int argc, char **argv) {
    std::string known;
    for (const command &c : commands) known += (known.empty() ? "" : ", ") + std::string(c.name);
    if (argc < 2) throw cli::usage_error("needs a command; commands: " + known);
    const std::string name = argv[1];
    if (name == "--help" || name == "-h") return print_usage(), 0;
    for (const command &c : commands)
        if (name == c.name) return c.run(c, argc - 1, argv + 1);
    throw cli::usage_error(name + ": no such command; commands: " + known);
}

}  // namespace train

// nlohmann-json allocates in destructors, where a failure cannot be reported. What was saved is whole.
static void out_of_memory() {
    const std::string_view text = "train: out of memory\n";
    if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(1);  // nowhere left to report it
    _exit(1);
}

int main(int argc, char **argv) {
    std::set_new_handler(out_of_memory);
    return cli::run("train", [&] { return train::run(argc, argv); });
}
