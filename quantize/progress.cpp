// The progress bar; see progress.h. It writes to stderr only: another program may read stdout.

#include "progress.h"

#include "../tensor/os.h"

#include <cstdio>

namespace ds {

std::string bytes_text(double bytes) {
    constexpr const char *units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t u = 0;
    while (bytes >= 999.5 && u + 1 < std::size(units)) {
        bytes /= 1000;
        ++u;
    }
    return format_text(u == 0 || bytes >= 99.95 ? "%.0f %s"
                       : bytes >= 9.995         ? "%.1f %s"
                                                : "%.2f %s",
                       bytes, units[u]);
}

std::string progress_line(uint64_t done, uint64_t total, double seconds) {
    constexpr int width = 30;
    const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
    const int filled = static_cast<int>(share * width);
    std::string line = "[" + std::string(static_cast<size_t>(filled), '#') +
                       std::string(static_cast<size_t>(width - filled), '-') + "]";
    line += format_text(" %3d%%  %s of %s", static_cast<int>(share * 100),
                        bytes_text(static_cast<double>(done)).c_str(),
                        bytes_text(static_cast<double>(total)).c_str());
    if (seconds <= 0 || done == 0) return line;
    const auto left = static_cast<unsigned long long>(seconds / share - seconds + 0.5);
    line += "  " + bytes_text(static_cast<double>(done) / seconds) + "/s";
    return line + (left >= 3600
                       ? format_text("  %llu:%02llu:%02llu left", left / 3600, left / 60 % 60, left % 60)
                       : format_text("  %llu:%02llu left", left / 60, left % 60));
}

progress_bar::progress_bar(bool shown) : shown_(shown), start_(os::seconds()) {}

progress_bar::~progress_bar() {
    if (drawn_) fputs("\r\033[K", stderr);
}

void progress_bar::update(uint64_t done, uint64_t total) {
    const double now = os::seconds();
    if (!shown_ || total == 0 || (drawn_ && now - last_ < 0.1)) return;
    drawn_ = true;
    last_ = now;
    fprintf(stderr, "\r\033[K%s", progress_line(done, total, now - start_).c_str());
    fflush(stderr);
}

}  // namespace ds
