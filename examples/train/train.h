// What the commands of train share: how one is described and its flags are read, the files they write, and
// the log of a run.
#pragma once

#include "rows.h"

#include <new>
#include <optional>

#include <sys/stat.h>
#include <unistd.h>

namespace train {

using jsonl::json;

// ---- Commands

struct command {
    const char *name, *usage, *does;
    bool reads_rows;  // and so its help tells what they are
    int (*run)(const command &c, int argc, char **argv);
};

int run_init(const command &c, int argc, char **argv);
int run_sft(const command &c, int argc, char **argv);
int run_eval(const command &c, int argc, char **argv);
int run_plot(const command &c, int argc, char **argv);
int run_data(const command &c, int argc, char **argv);

// Reads a command's flags, and --help. Returns the other words; none, if it was help that was asked for.
std::optional<std::vector<std::string>> parse(const command &c, int argc, char **argv,
                                              std::vector<cli::flag> flags);
void add_row_flags(std::vector<cli::flag> &f, rows::rules &r);
cli::flag quiet_flag(bool &to);

// ---- Files

// While half-written files must be removed, a lack of memory is an exception (see out_of_memory).
struct memory_throws {
    std::new_handler before = std::set_new_handler(nullptr);
    memory_throws() = default;
    memory_throws(const memory_throws &) = delete;
    ~memory_throws() { std::set_new_handler(before); }
};

// A file beside `path`, which is removed again unless it replaces that one. That it can be made says that
// `path` can be written, before hours of work are to be.
class part_file {
public:
    explicit part_file(const std::string &path);
    part_file(const part_file &) = delete;
    ~part_file() { unlink(name.c_str()); }

    memory_throws scope;
    std::string name;
};

void must_differ(const std::string &out, const std::vector<std::string> &others);

// Whether it is a line of this program's log, and of which step.
uint64_t logged_step(const std::string &path, const jsonl::answers::record &r);

}  // namespace train
