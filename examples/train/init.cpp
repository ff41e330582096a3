// train init: a model of random weights, with a vocabulary that is taken or made.
#include "train.h"

namespace train {

namespace {

struct preset {
    const char *name;
    uint32_t layers, hidden, heads, ffn, context;
    uint32_t latent_heads, kv_rank, nope, rotated;  // where keys and values are latents
    uint32_t heads_used, heads_shared;              // of r1
};
constexpr preset presets[] = {
    {"tiny", 4, 96, 3, 256, 512, 4, 48, 32, 16, 3, 1},
    {"10m", 8, 320, 5, 864, 2048, 8, 128, 64, 32, 5, 2},
    {"20m", 8, 448, 7, 1152, 2048, 10, 192, 64, 32, 7, 2},
};

struct options {
    std::string out, vocab, architecture = "llama", name;
    std::vector<std::string> bpe, bytes;
    uint32_t vocab_size = 0;
    std::vector<std::pair<uint32_t ds_shape::*, uint32_t>> given;
    ds_shape shape = cli::make<ds_shape>();
    const preset *size = &presets[0];
    bool untied = false;
    cli::rope_flags rope;
};

// The texts of a file: of rows of JSON those that a model reads or writes, else the file.
void read_texts(const std::string &path, std::vector<std::string> &out) {
    const std::unique_ptr<FILE, int (*)(FILE *)> in(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!in) throw cli::failure(path + ": " + std::strerror(errno));
    const bool json_rows = path.size() > 6 && path.compare(path.size() - 6, 6, ".jsonl") == 0;
    if (!json_rows) {
        std::string text;
        char buffer[1 << 16];
        for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, in.get())) > 0;) text.append(buffer, n);
        if (std::ferror(in.get())) throw cli::failure(path + ": could not be read");
        return out.push_back(std::move(text));
    }
    jsonl::each_line(in.get(), path, [&](size_t line, const std::string &text, uint64_t) {
        if (text.find_first_not_of(" \t\r\n") == std::string::npos) return;
        try {
            const json row = jsonl::parse_line(text);
            if (!row.is_object()) throw cli::failure("is not a JSON object");
            for (const char *name : {"prompt", "response", "text"})
                if (row.contains(name)) out.push_back(jsonl::text_of(row[name]));
            if (row.contains("messages")) {
                jsonl::prompt p;
                jsonl::set_messages(p, row["messages"]);
                for (const auto &[role, content] : p.messages) out.push_back(content);
            }
        } catch (const cli::failure &e) {
            throw cli::failure(jsonl::location(path, line) + ": " + e.what());
        }
    });
}

void set_shape(options &o) {
    ds_shape &s = o.shape;
    const preset &p = *o.size;
    const bool latent = o.architecture == "r1" || o.architecture == "deepseek2";
    s.architecture = o.architecture.c_str();
    s.name = o.name.empty() ? nullptr : o.name.c_str();
    s.layers = p.layers, s.hidden_size = p.hidden, s.feed_forward_size = p.ffn;
    s.context_length = p.context;
    s.heads = latent ? p.latent_heads : p.heads;
    if (latent) {
        s.kv_lora_rank = p.kv_rank, s.rotated_size = p.rotated, s.value_size = p.nope;
        s.head_size = p.nope + p.rotated;
    }
    if (o.architecture == "r1") s.heads_used = p.heads_used, s.heads_shared = p.heads_shared;
    if (o.architecture == "deepseek2") {
        s.experts = 8, s.experts_used = 2, s.experts_shared = 1, s.dense_layers = 1;
        s.expert_size = p.ffn / 4;
    }
    s.tied = !o.untied;
    for (const auto &[field, value] : o.given) s.*field = value;
    s.rope_scaling = o.rope.scaling, s.rope_factor = o.rope.factor;
    s.rope_original_context = o.rope.original;
}

int init(options &o) {
    set_shape(o);
    std::vector<std::string> inputs = o.bpe;
    inputs.insert(inputs.end(), o.bytes.begin(), o.bytes.end());
    if (!o.vocab.empty()) inputs.push_back(o.vocab);
    must_differ(o.out, inputs);
    auto vocab_only = cli::make<ds_model_config>();
    vocab_only.flags = DS_LOAD_VOCAB_ONLY;
    cli::model_ptr vocabulary;
    ds_error err;
    if (!o.vocab.empty()) vocabulary = cli::load(o.vocab, vocab_only);
    else {
        std::vector<std::string> texts;
        for (const auto *files : {&o.bpe, &o.bytes})
            for (const std::string &path : *files) read_texts(path, texts);
        if (texts.empty()) throw cli::failure(inputs.front() + ": has no texts");
        std::vector<const char *> data;
        std::vector<size_t> sizes;
        for (const std::string &t : texts) data.push_back(t.data()), sizes.push_back(t.size());
        auto c = cli::make<ds_vocabulary_config>();
        c.kind = o.bytes.empty() ? DS_VOCABULARY_BPE : DS_VOCABULARY_BYTES;
        c.size = o.bytes.empty() ? (o.vocab_size ? o.vocab_size : 1024) : 0;
        const part_file made(o.out);
        cli::check(ds_vocabulary_train(made.name.c_str(), &c, data.data(), sizes.data(), data.size(), &err),
                   err);
        vocab_only.flags |= DS_LOAD_READ;  // the file goes
        vocabulary = cli::load(made.name, vocab_only);
    }
    const memory_throws scope;
    cli::check(ds_model_init(o.out.c_str(), vocabulary.get(), &o.shape, &err), err);
    const ds_model_info info = cli::info(cli::load(o.out, cli::make<ds_model_config>()));
    std::printf("%s: %s, %llu parameters, %u tokens, context %u\n", o.out.c_str(), info.architecture,
                static_cast<unsigned long long>(info.parameters), info.vocabulary, info.context_length);
    return 0;
}

}  // namespace

int run_init(const command &c, int argc, char **argv) {
    options o;
    const auto add = [](std::vector<std::string> &to) {
        return [&to](const std::string &v) { to.push_back(v); };
    };
    const auto field = [&](uint32_t ds_shape::*f, uint32_t least = 1) {
        return [&o, f, least](const std::string &v) {
            uint32_t n = 0;
            cli::number(n, least, 1u << 30)(v);
            o.given.emplace_back(f, n);
        };
    };
    std::vector<cli::flag> f = {
        {"", "", "The result:", {}},
        {"-o, --out", "FILE", "the model, GGUF in F32", cli::text(o.out)},
        {"--name", "TEXT", "its name, for people", cli::text(o.name)},
        {"--seed", "N", "of the random weights; default 1", cli::number(o.shape.seed, uint64_t{0})},
        {"", "", "Its vocabulary, one of:", {}},
        {"--vocab", "FILE", "that of a GGUF file, with its chat template", cli::text(o.vocab)},
        {"--bpe", "FILE", "byte-level BPE trained on a text or on rows (.jsonl); may be repeated",
         add(o.bpe)},
        {"--bytes", "FILE", "the bytes that occur in a text or in rows, and no others; may be repeated",
         add(o.bytes)},
        {"--vocab-size", "N", "most tokens of --bpe; default 1024",
         cli::number(o.vocab_size, 262u, 1u << 22)},
        {"", "", "Its shape:", {}},
        {"--shape", "A", "llama (default), qwen2, qwen3, r1, deepseek2", cli::text(o.architecture)},
        {"--size", "S", "what the following are by default: tiny (default, half a million weights), 10m, 20m",
         [&](const std::string &v) {
             std::vector<std::pair<const char *, const preset *>> list;
             for (const preset &p : presets) list.emplace_back(p.name, &p);
             cli::choice<const preset *>(o.size, list)(v);
         }},
        {"--layers", "N", "", field(&ds_shape::layers)},
        {"--hidden", "N", "width of the residual stream", field(&ds_shape::hidden_size)},
        {"--ffn", "N", "width of the feed-forward part", field(&ds_shape::feed_forward_size)},
        {"--heads", "N", "attention heads", field(&ds_shape::heads)},
        {"--kv-heads", "N", "of keys and values; default: as many; not r1, deepseek2",
         field(&ds_shape::kv_heads)},
        {"--head-size", "N", "of keys; default: hidden / heads", field(&ds_shape::head_size)},
        {"--context", "N", "positions", field(&ds_shape::context_length)},
        {"--untied", "", "an output head of its own; default: the embedding", cli::on(o.untied)},
        {"--kv-lora-rank", "N", "r1, deepseek2: elements of a latent", field(&ds_shape::kv_lora_rank)},
        {"--q-lora-rank", "N", "r1, deepseek2: queries are computed by a latent",
         field(&ds_shape::q_lora_rank)},
        {"--rotated-size", "N", "r1, deepseek2: of a key, the part that RoPE rotates",
         field(&ds_shape::rotated_size)},
        {"--value-size", "N", "r1, deepseek2: of a head's values", field(&ds_shape::value_size)},
        {"--heads-used", "N", "r1: heads that are active in a row", field(&ds_shape::heads_used)},
        {"--heads-shared", "N", "r1: of these, how many always are", field(&ds_shape::heads_shared, 0)},
        {"--blocks", "N", "r1: blocks of weights that the layers share", field(&ds_shape::blocks)},
        {"--experts", "N", "deepseek2: routed experts; 0: none", field(&ds_shape::experts, 0)},
        {"--experts-used", "N", "deepseek2: of a row", field(&ds_shape::experts_used, 0)},
        {"--experts-shared", "N", "deepseek2: always used", field(&ds_shape::experts_shared, 0)},
        {"--expert-size", "N", "deepseek2: width of an expert", field(&ds_shape::expert_size, 0)},
        {"--dense-layers", "N", "deepseek2: first layers without experts", field(&ds_shape::dense_layers, 0)},
        {"--deviation", "X", "of matrices' weights; default 0.02",
         cli::number(o.shape.deviation, 1e-6f, 10.0f)},
    };
    o.shape.seed = 1;
    o.rope.add_to(f);
    const auto rest = parse(c, argc, argv, std::move(f));
    if (!rest) return 0;
    if (!rest->empty()) throw cli::usage_error("init: " + rest->front() + ": no such argument");
    if (o.out.empty()) throw cli::usage_error("init: needs --out FILE");
    if (!o.vocab.empty() + !o.bpe.empty() + !o.bytes.empty() != 1)
        throw cli::usage_error("init: needs one of --vocab, --bpe and --bytes");
    if (o.vocab_size && o.bpe.empty()) throw cli::usage_error("--vocab-size: is for --bpe");
    auto unused = cli::make<ds_model_config>();
    o.rope.set(unused, 0);  // whether the flags fit together
    return init(o);
}

}  // namespace train
