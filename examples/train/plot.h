// A training log as an SVG picture: panels with one scale of steps, and the reader's own fonts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace plot {

using points = std::vector<std::pair<double, double>>;

struct line {
    const char *name, *colour;
    points at;  // finite, by rising x
};
struct panel {
    const char *title;
    std::vector<line> lines;
};

inline std::string text(double v, const char *format = "%.2f") {
    char out[40];
    std::snprintf(out, sizeof out, format, v);
    return out;
}

// Long runs have more points than a picture has columns: their means over equal numbers of points.
inline points thinned(const points &p, size_t most = 800) {
    const size_t each = (p.size() + most - 1) / most;
    if (each < 2) return p;
    points out;
    for (size_t i = 0; i < p.size(); i += each) {
        const size_t end = std::min(i + each, p.size());
        double y = 0;
        for (size_t j = i; j < end; ++j) y += p[j].second / static_cast<double>(end - i);
        out.emplace_back(p[end - 1].first, y);
    }
    return out;
}

// From `low` to `high`, in steps of 1, 2 or 5 times a power of ten.
struct scale {
    double low, high, step;

    scale(double least, double most, double parts) {
        // equal values, or so nearly that no marks fit between
        const double size = std::max(std::fabs(least), std::fabs(most));
        if (!(most - least > size * 1e-6)) {
            const double room = std::max(size * 0.1, 1e-9);
            least -= room, most += room;
        }
        const double rough = (most - least) / parts, power = std::pow(10.0, std::floor(std::log10(rough)));
        step = power * (rough / power <= 1 ? 1 : rough / power <= 2 ? 2 : rough / power <= 5 ? 5 : 10);
        low = std::floor(least / step) * step;
        high = std::ceil(most / step) * step;
    }
    // Places in [0, 1], with the numbers to write there.
    std::vector<std::pair<double, double>> marks() const {
        std::vector<std::pair<double, double>> out;
        const auto n = static_cast<int>(std::lround((high - low) / step));
        for (int i = 0; i <= n; ++i) {
            const double v = low + i * step;
            out.emplace_back(static_cast<double>(i) / n, std::fabs(v) < step * 1e-6 ? 0 : v);
        }
        return out;
    }
    double place(double v) const { return (v - low) / (high - low); }
};

inline std::string svg(const std::vector<panel> &panels) {
    constexpr double left = 76, width = 760, top = 34, height = 170, below = 56;
    double first = 0, last = 0;
    bool any = false;
    for (const panel &p : panels)
        for (const line &l : p.lines)
            for (const auto &[x, y] : l.at) {
                first = any ? std::min(first, x) : x;
                last = any ? std::max(last, x) : x;
                any = true;
            }
    const scale steps(first, last, 8);
    const double whole_width = left + width + 24,
                 whole_height = static_cast<double>(panels.size()) * (top + height + below);
    const std::string w = text(whole_width, "%.0f"), h = text(whole_height, "%.0f");
    std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w + "\" height=\"" + h +
                      "\" viewBox=\"0 0 " + w + " " + h +
                      "\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333\">\n"
                      "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
    const auto write = [&](double x, double y, const char *how, const std::string &what) {
        out += "<text x=\"" + text(x) + "\" y=\"" + text(y) + "\" " + how + ">" + what + "</text>\n";
    };
    const auto rule = [&](double x1, double y1, double x2, double y2, const char *colour) {
        out += "<path d=\"M" + text(x1) + " " + text(y1) + "L" + text(x2) + " " + text(y2) + "\" stroke=\"" +
               colour + "\"/>\n";
    };
    double y0 = 0;
    for (const panel &p : panels) {
        const double head = y0 + top, foot = head + height;
        double least = 0, most = 0;
        bool some = false;
        for (const line &l : p.lines)
            for (const auto &[x, y] : l.at) {
                least = some ? std::min(least, y) : y;
                most = some ? std::max(most, y) : y;
                some = true;
            }
        const scale values(least, most, 5);
        write(left, head - 12, "font-size=\"14\" font-weight=\"bold\"", p.title);
        for (const auto &[at, v] : values.marks()) {
            const double y = foot - at * height;
            rule(left, y, left + width, y, "#e4e4e4");
            write(left - 8, y + 4, "text-anchor=\"end\"", text(v, "%.6g"));
        }
        for (const auto &[at, v] : steps.marks()) {
            const double x = left + at * width;
            rule(x, foot, x, foot + 5, "#333");
            write(x, foot + 19, "text-anchor=\"middle\"", text(v, "%.10g"));
        }
        rule(left, head, left, foot, "#333");
        rule(left, foot, left + width, foot, "#333");
        write(left + width / 2, foot + 36, "text-anchor=\"middle\"", "step");
        double x0 = left + width;
        for (const line &l : p.lines) {
            if (l.at.empty()) continue;
            std::string path;
            for (const auto &[x, y] : thinned(l.at))
                path += (path.empty() ? "M" : "L") + text(left + steps.place(x) * width) + " " +
                        text(foot - values.place(y) * height);
            // a single point would be a line without length
            const std::string mark = l.at.size() == 1 ? path.substr(1) : "";
            if (!mark.empty()) path += "L" + mark;
            out += "<path d=\"" + path + "\" fill=\"none\" stroke=\"" + l.colour + "\" stroke-width=\"" +
                   (mark.empty() ? "1.5" : "6") + "\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/>\n";
            if (p.lines.size() < 2) continue;
            write(x0, head - 12, ("text-anchor=\"end\" style=\"fill:" + std::string(l.colour) + "\"").c_str(),
                  l.name);
            x0 -= 100;
        }
        y0 = foot + below;
    }
    return out + "</svg>\n";
}

}  // namespace plot
