// Restores session files with valid checksums and arbitrary content into engines with each type of pages,
// then continues the conversation. Input: a byte that selects model and pages, then the file.
#include "engine.h"
#include "session_seed.h"

#include "../../llm/engine/session.h"

namespace ds::fuzz {

// Recomputes the checksums of tokens, pages and header, as far as they are within the file.
static void repair(std::string &file) {
    session_header h;
    if (file.size() < sizeof h) return;
    memcpy(&h, file.data(), sizeof h);
    const size_t room = file.size() - sizeof h;
    if (h.tokens > room / sizeof(token_id)) return;
    h.token_sum = checksum(&file[sizeof h], h.tokens * sizeof(token_id), 0);
    h.header_sum = checksum(&h, offsetof(session_header, header_sum), 0);
    memcpy(file.data(), &h, sizeof h);
    uint64_t sum = h.header_sum;
    size_t at = sizeof h + h.tokens * sizeof(token_id);
    for (uint64_t i = 0;
         i < h.pages && h.page_bytes <= file.size() - at && file.size() - at - h.page_bytes >= sizeof sum;
         ++i) {
        sum = checksum(&file[at], h.page_bytes, sum);
        memcpy(&file[at + h.page_bytes], &sum, sizeof sum);
        at += h.page_bytes + sizeof sum;
    }
}

void run(std::string_view input) {
    if (input.empty()) return;
    const session_engine &s = session_engines()[static_cast<uint8_t>(input[0]) % session_engines().size()];
    const std::string path = scratch() + "/session";
    write_file(path, input.substr(1));
    ds_token tokens[256];
    size_t count = 0, positions = 0;
    ds_error err{};
    const ds_status restored =
        ds_engine_restore_session(s.engine, path.c_str(), 1, tokens, 256, &count, &positions, &err);
    allowed(restored, err);
    if (restored != DS_OK) return;
    must(positions <= 256 && positions <= count + 64, "no more positions than pages hold");
    std::vector<ds_token> prompt(tokens, tokens + count);
    prompt.push_back(1);
    answer(s.engine, prompt, 2, s.vocabulary);
    allowed(ds_engine_forget_session(s.engine, prompt.data(), prompt.size(), 1, &positions, &err), err);
    allowed(ds_engine_trim(s.engine, 0, &err), err);
}

std::string mutated(std::string input, dice &d) {
    if (input.size() < 1 + sizeof(session_header)) return "";
    if (d.one_in(30)) input[0] = static_cast<char>(d.next());
    std::string file = input.substr(1);
    // Fields that must match the engine, or the code after the check is not reached.
    if (d.one_in(4)) {
        const std::string &own =
            session_engines()[static_cast<uint8_t>(input[0]) % session_engines().size()].saved;
        session_header ours, h;
        memcpy(&ours, own.data(), sizeof ours);
        memcpy(&h, file.data(), sizeof h);
        ours.tokens = h.tokens;
        ours.pages = h.pages;
        memcpy(file.data(), &ours, sizeof ours);
    }
    session_header h;
    memcpy(&h, file.data(), sizeof h);
    const size_t pages_at = std::min<size_t>(file.size(), sizeof h + h.tokens % 4096 * sizeof(token_id));
    switch (d.below(8)) {
    case 0: {  // a field
        const size_t at = d.below(sizeof h / 4) * 4;
        const auto n = static_cast<uint32_t>(interesting(d));
        memcpy(&file[at], &n, sizeof n);
        break;
    }
    case 1: {  // a token
        if (pages_at < sizeof h + 4) break;
        const auto n = static_cast<token_id>(d.one_in(2) ? interesting(d) : d.below(280));
        memcpy(&file[sizeof h + d.below((pages_at - sizeof h) / 4) * 4], &n, sizeof n);
        break;
    }
    case 2:
    case 3: {  // a number in a page
        if (file.size() < pages_at + 4) break;
        const auto f = static_cast<float>(interesting_float(d));
        const uint16_t half = d.one_in(2) ? static_cast<uint16_t>(d.next()) : d.one_in(2) ? 0x7c00 : 0xfe00;
        const size_t at = pages_at + d.below((file.size() - pages_at - 3) / 4) * 4;
        if (d.one_in(2)) memcpy(&file[at], &f, sizeof f);
        else memcpy(&file[at], &half, sizeof half);
        break;
    }
    case 4: {
        const size_t n = std::min<size_t>(64, file.size() - pages_at),
                     at = pages_at + d.below(file.size() - pages_at - n + 1);
        file.replace(at, n, changed_bytes(file.substr(at, n), d));
        break;
    }
    case 5: file.resize(d.below(file.size() + 1)); break;
    case 6: {  // fewer or more tokens and pages, with the file's length adjusted
        h.tokens = d.below(257);
        h.pages = std::min<uint64_t>(d.below(5), d.one_in(4) ? 99 : h.tokens / 64);
        h.file_bytes = sizeof h + h.tokens * sizeof(token_id) + h.pages * (h.page_bytes + 8);
        if (h.file_bytes > 65536) break;
        memcpy(file.data(), &h, sizeof h);
        std::string tokens = file.substr(sizeof h, h.tokens * sizeof(token_id));
        while (tokens.size() < h.tokens * sizeof(token_id)) tokens += std::string("\7\0\0\0", 4);
        file = file.substr(0, sizeof h) + tokens;
        fill(file, h.file_bytes);
        break;
    }
    default: file = changed_bytes(file, d);
    }
    if (!d.one_in(10)) repair(file);
    return input.substr(0, 1) + file;
}

}  // namespace ds::fuzz
