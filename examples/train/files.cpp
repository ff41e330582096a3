// The files that commands write, and the log of a run.
#include "train.h"

namespace train {

part_file::part_file(const std::string &path) : name(path + ".part-XXXXXX") {
    struct stat s;
    if (stat(path.c_str(), &s) == 0 && !S_ISREG(s.st_mode))
        throw cli::failure(path + ": is not a regular file");
    const int fd = mkostemp(name.data(), O_CLOEXEC);
    if (fd < 0) throw cli::failure(path + ": could not be written: " + std::strerror(errno));
    close(fd);
}

void must_differ(const std::string &out, const std::vector<std::string> &others) {
    struct stat a, b;
    for (const std::string &other : others)
        if (other == out || (stat(out.c_str(), &a) == 0 && stat(other.c_str(), &b) == 0 &&
                             a.st_dev == b.st_dev && a.st_ino == b.st_ino))
            throw cli::failure(out + ": is the same file as another that this run reads or writes");
}

uint64_t logged_step(const std::string &path, const jsonl::answers::record &r) {
    try {
        const json v = jsonl::parse_line(r.text);
        for (const char *name : {"step", "loss", "norm", "lr", "tokens", "targets", "seconds"})
            if (!v.is_object() || !v.contains(name)) throw cli::failure("");
        return jsonl::number_of<uint64_t>(v["step"]);
    } catch (const cli::failure &) {
        throw cli::failure(jsonl::location(path, r.line) +
                           ": is not a line of a training log; the file is unchanged");
    }
}

}  // namespace train
