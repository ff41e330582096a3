// Recognition of Git LFS pointers by their first line.
#include "lfs.h"

#include <algorithm>
#include <iterator>

namespace ds {

void refuse_lfs_pointer(std::string_view bytes, const std::string &name) {
    constexpr size_t most = 1024;  // a pointer is smaller, says the specification
    constexpr std::string_view first_lines[] = {"version https://git-lfs.github.com/spec/",
                                                "version https://hawser.github.com/spec/"};
    if (bytes.size() > most || std::none_of(std::begin(first_lines), std::end(first_lines),
                                            [&](std::string_view l) { return bytes.starts_with(l); }))
        return;
    std::string size;
    if (const size_t at = bytes.find("\nsize "); at != std::string_view::npos)
        for (const char c : bytes.substr(at + 6)) {
            if (c < '0' || c > '9') break;
            size += c;
        }
    throw error(status::format, name + ": is not the file itself but a pointer of Git LFS to it" +
                                    (size.empty() ? "" : ", a file of " + size + " bytes") +
                                    "; 'git lfs pull' fetches it");
}

}  // namespace ds
