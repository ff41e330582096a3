// train plot: a picture of a run.
#include "plot.h"
#include "train.h"

namespace train {

static int draw(const std::string &rows, const std::string &out) {
    const std::unique_ptr<FILE, int (*)(FILE *)> in(std::fopen(rows.c_str(), "rb"), std::fclose);
    if (!in) throw cli::failure(rows + ": " + std::strerror(errno));
    plot::points loss, eval, rate, norm;
    jsonl::each_line(in.get(), rows, [&](size_t line, const std::string &text, uint64_t) {
        logged_step(rows, {line, text, line == 1, true});
        const json v = jsonl::parse_line(text);
        const std::pair<const char *, plot::points *> all[] = {
            {"loss", &loss}, {"eval", &eval}, {"lr", &rate}, {"norm", &norm}};
        // a step that was skipped has no numbers, and what is beyond all measure is none to draw
        for (const auto &[name, to] : all)
            if (v.contains(name) && v[name].is_number() && std::fabs(v[name].get<double>()) < 1e30)
                to->emplace_back(v["step"].get<double>(), v[name].get<double>());
    });
    if (loss.empty()) throw cli::failure(rows + ": has no steps");
    const std::string svg = plot::svg({{"loss", {{"loss", "#1f5fa8", loss}, {"eval", "#c4501b", eval}}},
                                       {"learning rate", {{"lr", "#2e7d32", rate}}},
                                       {"norm of the gradients", {{"norm", "#6a3d9a", norm}}}});
    if (out == "-") return std::fwrite(svg.data(), 1, svg.size(), stdout), 0;
    must_differ(out, {rows});
    const part_file part(out);
    FILE *const to = std::fopen(part.name.c_str(), "wb");
    const bool written = to && std::fwrite(svg.data(), 1, svg.size(), to) == svg.size();
    const mode_t mask = umask(0);
    umask(mask);
    if ((to && std::fclose(to) != 0) || !written || chmod(part.name.c_str(), 0666 & ~mask) != 0 ||
        rename(part.name.c_str(), out.c_str()) != 0)
        throw cli::failure(out + ": could not be written: " + std::strerror(errno));
    return 0;
}

int run_plot(const command &c, int argc, char **argv) {
    std::string out;
    const auto rest = parse(
        c, argc, argv, {{"-o, --out", "FILE", "the picture, SVG; - for standard output", cli::text(out)}});
    if (!rest) return 0;
    if (rest->size() != 1) throw cli::usage_error("plot: needs a log of train sft; see train plot --help");
    if (out.empty()) throw cli::usage_error("plot: needs --out FILE");
    return draw(rest->front(), out);
}

}  // namespace train
