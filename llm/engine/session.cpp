// A file is not trusted: its header is compared with the file's size and with the engine before anything is
// allocated, every byte is covered by a checksum, and no page is entered in the book before the whole file
// has been checked. The checksum does not protect against intent: a forged file can hold other values, but no
// other sizes, and no scales that a page cannot have.
#include "session.h"

#include "../../tensor/lfs.h"
#include "../../tensor/numerics.h"

#include <algorithm>

namespace ds {

static constexpr char session_magic[8] = {'D', 'S', 's', 'e', 's', 's', 'n', '\n'};
static constexpr uint32_t session_version = 1, session_byte_order = 0x01020304;
static constexpr uint64_t most_tokens = uint64_t{1} << 30;  // the largest context length of a model

// ---- The header

static uint64_t header_sum(const session_header &h) {
    return checksum(&h, offsetof(session_header, header_sum), 0);
}
// Chained, so that pages in another order are detected.
static uint64_t page_sum(const void *page, size_t bytes, uint64_t before) {
    return checksum(page, bytes, before);
}

static session_header header_for(const session_pages &p, const session_key &key, uint64_t tokens,
                                 uint64_t pages) {
    const kv_layout l = make_page_layout(*p.m.architecture, p.m.h, p.kv_type).layer.front();
    session_header h{};
    std::copy(std::begin(session_magic), std::end(session_magic), h.magic);
    h.version = session_version;
    h.byte_order = session_byte_order;
    h.tokens = tokens;
    h.pages = pages;
    h.page_bytes = p.pool.page_bytes();
    h.file_bytes = sizeof h + tokens * sizeof(token_id) + pages * (h.page_bytes + sizeof(uint64_t));
    h.model = p.m.fingerprint;
    if (key.adapter) {
        const uint64_t both[] = {h.model, key.adapter->fingerprint(key.adapter_scale)};
        h.model = checksum(both, sizeof both, 1);
        h.adapted = 1;
    }
    h.page_positions = static_cast<uint32_t>(page_positions);
    h.kv_type = info(p.kv_type).gguf_id;
    h.vocabulary = static_cast<uint32_t>(p.m.h.vocab);
    h.layers = static_cast<uint32_t>(p.m.h.layers);
    h.kv_heads = static_cast<uint32_t>(l.kv_heads);
    h.head_size = static_cast<uint32_t>(l.head_size);
    h.rope_size = static_cast<uint32_t>(l.rope_size);
    return h;
}

// ---- Saving

int64_t save_session(const session_pages &p, const session_key &key, std::span<const token_id> tokens,
                     const std::string &path) {
    const std::vector<int32_t> pages = p.book.find_all(key.owner(), tokens);
    session_header h = header_for(p, key, tokens.size(), pages.size());
    h.token_sum = checksum(tokens.data(), tokens.size_bytes(), 0);
    h.header_sum = header_sum(h);
    os::output_file out(path);
    out.write(&h, sizeof h);
    out.write(tokens.data(), tokens.size_bytes());
    uint64_t sum = h.header_sum;
    const block scratch(p.host, p.pool.on_device() ? p.pool.page_bytes() : 0);
    for (const int32_t page : pages) {
        const void *const bytes = p.pool.read(page, scratch.data());
        sum = page_sum(bytes, p.pool.page_bytes(), sum);
        out.write(bytes, p.pool.page_bytes());
        out.write(&sum, sizeof sum);
    }
    out.commit();
    return static_cast<int64_t>(pages.size()) * page_positions;
}

// ---- Restoring

namespace {

// A session file whose header matches the file and these pages.
struct session_file {
    const session_pages &p;
    const session_key &key;
    const std::string &path;
    const os::input_file in;
    const std::vector<kv_layout> layout;
    session_header h;

    session_file(const session_pages &of, const session_key &whose, const std::string &name)
        : p(of), key(whose), path(name), in(name),
          layout(make_page_layout(*of.m.architecture, of.m.h, of.kv_type).layer) {
        if (in.size() < sizeof h) damaged("header", in.size(), format_text("%zu bytes or more", sizeof h));
        in.read(0, &h, sizeof h);
        check_itself();
        check_engine();
    }

    [[noreturn]] void damaged(const char *field, uint64_t is, const std::string &needed) const {
        throw error(status::format,
                    path + ": " + field + ": is " + std::to_string(is) + ", must be " + needed);
    }
    [[noreturn]] void wrong_sum(const std::string &what, uint64_t is, uint64_t stored) const {
        throw error(status::format,
                    path + ": " + what + ": its checksum is " +
                        format_text("%016llx, and the file says %016llx", static_cast<unsigned long long>(is),
                                    static_cast<unsigned long long>(stored)));
    }

    void check_itself() const {
        if (std::memcmp(h.magic, session_magic, sizeof h.magic) != 0) {
            std::string whole(in.size() <= 1024 ? in.size() : 0, '\0');
            in.read(0, whole.data(), whole.size());
            refuse_lfs_pointer(whole, path);
            throw error(status::format,
                        path + ": magic: is " + quoted(h.magic, sizeof h.magic) + ": not a session file");
        }
        if (h.byte_order != session_byte_order)
            throw error(status::unsupported, path + format_text(": byte_order: is 0x%08x, must be 0x%08x",
                                                                h.byte_order, session_byte_order));
        if (h.version != session_version)
            throw error(status::unsupported,
                        path + format_text(": version: is %u, known is %u", h.version, session_version));
        if (const uint64_t sum = header_sum(h); sum != h.header_sum) wrong_sum("header", sum, h.header_sum);
        if (h.tokens < 1 || h.tokens > most_tokens)
            damaged("tokens", h.tokens, "from 1 to " + std::to_string(most_tokens));
        if (h.pages > h.tokens / page_positions)
            damaged("pages", h.pages,
                    "at most " + std::to_string(h.tokens / page_positions) + ", those that the tokens fill");
        if (h.adapted > 1) damaged("adapted", h.adapted, "0 or 1");
    }

    // Sizes first, because their messages are more specific; then the model's fingerprint.
    void check_engine() const {
        const session_header ours = header_for(p, key, h.tokens, h.pages);
        if (h.adapted != ours.adapted)
            throw error(status::unsupported, path + ": adapted: is " + std::to_string(h.adapted) +
                                                 ", asked for is " + std::to_string(ours.adapted) +
                                                 (h.adapted ? ": the session was made with an adapter"
                                                            : ": the session was made without an adapter"));
        const struct {
            const char *field;
            uint64_t is, needed;
        } fields[] = {{"page_positions", h.page_positions, ours.page_positions},
                      {"vocabulary", h.vocabulary, ours.vocabulary},
                      {"layers", h.layers, ours.layers},
                      {"kv_heads", h.kv_heads, ours.kv_heads},
                      {"head_size", h.head_size, ours.head_size},
                      {"rope_size", h.rope_size, ours.rope_size},
                      {"kv_type", h.kv_type, ours.kv_type},
                      {"page_bytes", h.page_bytes, ours.page_bytes},
                      {"model", h.model, ours.model}};
        for (const auto &f : fields)
            if (f.is != f.needed)
                throw error(status::unsupported,
                            path + ": " + f.field + ": is " + std::to_string(f.is) + ", this engine's is " +
                                std::to_string(f.needed) + ": the session is of another model" +
                                (h.adapted ? ", adapter, adapter_scale" : "") + " or kv_type");
        if (h.file_bytes != ours.file_bytes)
            damaged("file_bytes", h.file_bytes,
                    std::to_string(ours.file_bytes) + ", as the tokens and pages need");
        if (h.file_bytes != in.size())
            throw error(status::format, path + ": has " + std::to_string(in.size()) + " bytes, must have " +
                                            std::to_string(h.file_bytes));
    }

    std::vector<token_id> read_tokens() const {
        std::vector<token_id> tokens(h.tokens);
        in.read(sizeof h, tokens.data(), tokens.size() * sizeof(token_id));
        if (const uint64_t sum = checksum(tokens.data(), tokens.size() * sizeof(token_id), 0);
            sum != h.token_sum)
            wrong_sum("tokens", sum, h.token_sum);
        for (size_t i = 0; i < tokens.size(); ++i)
            if (tokens[i] < 0 || tokens[i] >= p.m.h.vocab)
                throw error(status::format,
                            path + format_text(": tokens[%zu]: is %d, must be from 0 to %lld", i, tokens[i],
                                               static_cast<long long>(p.m.h.vocab - 1)));
        return tokens;
    }

    // Reads page `i` into `to` and returns its checksum; `before` is the previous page's.
    uint64_t read_page(uint64_t i, uint64_t before, void *to) const {
        const uint64_t offset =
            sizeof h + h.tokens * sizeof(token_id) + i * (h.page_bytes + sizeof(uint64_t));
        uint64_t stored;
        in.read(offset, to, h.page_bytes);
        in.read(offset + h.page_bytes, &stored, sizeof stored);
        const uint64_t sum = page_sum(to, h.page_bytes, before);
        if (sum != stored) wrong_sum("pages[" + std::to_string(i) + "]", sum, stored);
        if (p.kv_type == format::i8) check_scales(i, static_cast<const char *>(to));
        return sum;
    }

    // Any integers are valid, but not any scales: kernels derive shifts and exponents from them.
    void check_scales(uint64_t i, const char *page) const {
        for (size_t layer = 0; layer < layout.size(); ++layer) {
            const kv_layout &l = layout[layer];
            const size_t count = static_cast<size_t>(l.kv_heads) * page_positions;
            const struct {
                const char *name, *end;
            } parts[] = {{l.rope_size ? "latents" : "keys", page + l.k_offset + l.k_bytes()},
                         {l.rope_size ? "rotated keys" : "values", page + l.v_offset + l.v_bytes()}};
            for (const auto &part : parts)
                for (size_t k = 0; k < count; ++k) {
                    float scale;
                    std::memcpy(&scale, part.end - (count - k) * sizeof scale, sizeof scale);
                    if (!is_row_scale(scale))
                        throw error(status::format,
                                    path +
                                        format_text(": pages[%llu]: layer %zu: scales of the ",
                                                    static_cast<unsigned long long>(i), layer) +
                                        part.name + "[" + std::to_string(k) + "]: is " + shortest(scale) +
                                        ", must be 0 or from " + shortest(i8_smallest_scale) + " to " +
                                        shortest(i8_largest_scale));
                }
        }
    }
};

struct held_pages {
    page_book &book;
    std::vector<int32_t> list{};
    ~held_pages() { book.drop(list); }
};

}  // namespace

int64_t restore_session(const session_pages &p, const session_key &key, const std::string &path,
                        std::span<token_id> out, size_t &count) {
    const session_file file(p, key, path);
    if (file.h.tokens > out.size()) {
        count = file.h.tokens;
        throw error(status::buffer, path + ": tokens: needs room for " + std::to_string(file.h.tokens) +
                                        ", has " + std::to_string(out.size()));
    }
    const std::vector<token_id> tokens = file.read_tokens();
    const std::vector<int32_t> known =
        p.book.find_all(key.owner(), std::span(tokens).first(file.h.pages * page_positions));
    held_pages held{p.book};
    held.list.reserve(file.h.pages);
    for (const int32_t page : known) {
        p.book.hold(page);
        held.list.push_back(page);
    }
    // Pages that are cached already, or that the pool has no room for, are still read and checked.
    const block scratch(p.host, file.h.pages ? p.pool.page_bytes() : 0);
    uint64_t sum = file.h.header_sum;
    for (uint64_t i = 0; i < file.h.pages; ++i) {
        const int32_t page = i < known.size() || held.list.size() < i ? -1 : p.book.take();
        if (page >= 0) held.list.push_back(page);
        void *const to = page < 0 || p.pool.on_device() ? scratch.data() : p.pool.page(page);
        sum = file.read_page(i, sum, to);
        if (page >= 0) p.pool.write(page, to);
    }
    for (size_t i = known.size(); i < held.list.size(); ++i)
        p.book.enter(held.list[i], key.owner(), i ? held.list[i - 1] : -1,
                     std::span(tokens).subspan(i * page_positions, page_positions));
    std::copy(tokens.begin(), tokens.end(), out.begin());
    count = tokens.size();
    return static_cast<int64_t>(held.list.size()) * page_positions;
}

}  // namespace ds
