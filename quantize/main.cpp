// The quantize program: its flags. Each subcommand checks its arguments and calls one function of this
// folder. Exit status: 0 done, 1 failed (one line on stderr says why; no new file is left), 2 wrong usage.

#include "calibrate.h"
#include "convert.h"
#include "inspect.h"
#include "mixed.h"
#include "progress.h"
#include "requantize.h"
#include "smooth.h"
#include "synth.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <new>
#include <unistd.h>

namespace {

volatile std::sig_atomic_t stop_requested = 0;
void request_stop(int) { stop_requested = 1; }

// A signal asks the running operation to stop, so that it removes its unfinished file. Exceeding the file
// size limit becomes an error code instead of SIGXFSZ.
void install_signals() {
    struct sigaction stop = {};
    stop.sa_handler = request_stop;
    for (const int s : {SIGINT, SIGTERM, SIGHUP}) sigaction(s, &stop, nullptr);
    std::signal(SIGXFSZ, SIG_IGN);
}

struct flags {
    std::string in, out, type = "q8_0", name, shape, calibration, imatrix, adapter;
    float scale = 1;
    std::vector<std::string> texts;
    ds::mixed_options mixed;
    ds::calibrate_options calibrate;
    ds::gguf_split_limits split;
    uint64_t seed = 1;
    int layers = 0, vocabulary = 0;
    unsigned threads = ds::os::processor_count();
    bool vocab_only = false, quiet = false, json = false, no_tensors = false;
    size_t elements = 8;
};

constexpr const char *mixed_text = "mixed";

// The values of --type. Random weights cannot be measured, so synth has no mixed.
std::vector<std::string> types(bool measured) {
    std::vector<std::string> out;
    for (const ds::format f : ds::target_formats()) out.emplace_back(ds::target_text(f));
    if (measured) out.emplace_back(mixed_text);
    return out;
}

ds::format type_of(const flags &f) {
    ds::format out = ds::format::f32;
    for (const ds::format t : ds::target_formats())
        if (f.type == ds::target_text(t)) out = t;
    return out;
}

void add_running(CLI::App *c, flags &f) {
    c->add_option("-j,--threads", f.threads, "Number of threads; the result does not depend on it")
        ->check(CLI::Range(1u, 256u).description(""))
        ->type_name("N")
        ->capture_default_str();
    c->add_flag("-q,--quiet", f.quiet, "No progress bar and no remarks");
}

constexpr const char *split_bytes = "--split-max", *split_tensors = "--split-max-tensors";

void add_splitting(CLI::App *c, flags &f) {
    c->add_option(split_bytes, f.split.bytes,
                  "Write parts of at most this size: bytes, or with K, M, G, T decimal; a larger tensor gets "
                  "a part of its own")
        ->transform(CLI::AsSizeValue(true).description(""))
        ->check(CLI::Range(uint64_t(1), uint64_t(1) << 62).description(""))
        ->type_name("SIZE");
    c->add_option(split_tensors, f.split.tensors, "Write parts of at most this many tensors")
        ->check(CLI::Range(uint64_t(1), uint64_t(1) << 62).description(""))
        ->type_name("N");
}

// CLI11's App::count is noexcept but copies strings: when memory is short, it ends the process.
bool given(const CLI::App &c, std::string_view option) {
    for (const CLI::Option *const o : c.get_options())
        for (const std::string &name : o->get_lnames())
            if (option.substr(2) == name) return o->count() > 0;
    return false;
}

bool wants_parts(const CLI::App &c) { return given(c, split_bytes) || given(c, split_tensors); }

std::string not_negative(const std::string &text) {
    double value = 0;
    return CLI::detail::lexical_cast(text, value) && value >= 0
               ? ""
               : "is " + text + ", must be a number of at least 0";
}

// CLI11 reads -1 as the largest number, and so any number that is larger than that.
std::string whole_number(const std::string &text) {
    uint64_t value = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool good = code == std::errc() && end == text.data() + text.size();
    return good ? "" : "is " + text + ", must be an integer from 0 to " + std::to_string(UINT64_MAX);
}

void add_writing(CLI::App *c, flags &f, bool type_needed, bool measured) {
    std::string known;
    for (const std::string &t : types(measured)) known += (known.empty() ? "" : ", ") + t;
    CLI::Option *const type =
        c->add_option("-t,--type", f.type, "Number format of the matrices: " + known)->type_name("TYPE");
    type->transform(CLI::IsMember(types(measured), CLI::ignore_case).description(""));
    if (type_needed) type->required();
    else type->capture_default_str();
    add_running(c, f);
    add_splitting(c, f);
    if (!measured) return;
    c->add_option("--calibration", f.calibration,
                  "Statistics of `quantize calibrate`, for int8, mixed and types of less than 8 bits")
        ->type_name("STATS");
    c->add_option("--imatrix", f.imatrix,
                  "Importances from llama.cpp's llama-imatrix, GGUF or .dat, for types of less than 8 bits")
        ->type_name("FILE");
    c->add_option("--text", f.mixed.texts, "mixed: texts to measure on")->type_name("TEXT");
    c->add_option("--max-nll-loss", f.mixed.max_nll_loss,
                  "mixed: the largest relative loss of likelihood: 0.005 is half a percent")
        ->check(not_negative)
        ->type_name("X");
    c->add_option("--max-bytes", f.mixed.max_bytes, "mixed: the largest size of the file, in bytes")
        ->check(whole_number)
        ->type_name("N");
}

// The rules on combinations of options, which CLI11 cannot express.
void check_together(const flags &f, const CLI::App &c) {
    const bool mixed = f.type == mixed_text;
    const bool takes_statistics = mixed || type_of(f) == ds::format::i8 || ds::is_weighted(type_of(f));
    if (!f.calibration.empty() && !takes_statistics)
        throw CLI::ValidationError("--calibration",
                                   "is for --type int8, mixed, and those of less than 8 bits");
    if (!f.imatrix.empty() && (mixed || !ds::is_weighted(type_of(f))))
        throw CLI::ValidationError("--imatrix", "is for --type of less than 8 bits");
    if (!f.imatrix.empty() && !f.calibration.empty())
        throw CLI::ValidationError("--imatrix", "cannot be used with --calibration");
    if (mixed && f.mixed.texts.empty())
        throw CLI::ValidationError("--type", "mixed needs --text, on which the formats are measured");
    if (mixed && !given(c, "--max-nll-loss") && !given(c, "--max-bytes"))
        throw CLI::ValidationError("--type", "mixed needs --max-nll-loss or --max-bytes, or both");
    if (mixed) return;
    for (const char *const option : {"--text", "--max-nll-loss", "--max-bytes"})
        if (given(c, option)) throw CLI::ValidationError(option, "is for --type mixed");
}

const char *const types_help =
    "Number formats:\n"
    "  f32    32 bits a weight; holds every checkpoint without loss\n"
    "  f16    16 bits; at most 65504: a larger weight is an error that names it\n"
    "  bf16   16 bits; the format of most checkpoints, so nothing is lost\n"
    "  q8_0   8.5 bits: blocks of 32 share a scale; rows that 32 does not divide become f16\n"
    "  q6_k, q5_k_m, q4_k_m, q3_k_m, q2_k\n"
    "         6.6 to 3 bits: blocks of 256; the most sensitive tensors get more bits, as usual for files of "
    "these names;\n"
    "         rows that 256 does not divide get blocks of 32, with a remark\n"
    "  q5_1, q5_0, q4_1, q4_0, iq4_nl\n"
    "         6 to 4.5 bits: blocks of 32; the output head is q6_k. iq4_nl is the best of 4.5 bits\n"
    "         In these two groups --calibration or --imatrix weights errors by the model's inputs\n"
    "  int8   8 bits and a scale a row, multiplied in integers: the fastest, and the same bits on every\n"
    "         machine; runs in deepseek only\n"
    "  mixed  f16, bf16 or int8 by tensor, chosen by measuring on --text: the smallest file within\n"
    "         --max-nll-loss, or the best within --max-bytes (convert and requantize only; while it runs it\n"
    "         needs disk space beside OUT for one or two files of 16 bits a weight)\n"
    "Norms, biases and rope_freqs stay f32 in every case.\n";
const char *const int8_help =
    "int8 quantizes activations too, a row at a time with one scale. Large models have channels with\n"
    "outliers, which make that scale too coarse for all others: this costs 0.8 to 5 points of perplexity in\n"
    "the figures of arXiv 2208.07339. `quantize calibrate` measures the channels on a text; --calibration "
    "then\n"
    "moves the outliers into the weights (SmoothQuant), for each input as far as that improves the "
    "products.\n"
    "The file records this in its keys, and needs nothing else to run.\n";
const char *const writing_help =
    "The output is written to a temporary file beside it, synced and renamed. After a failure, a full disk,\n"
    "Ctrl-C or SIGTERM there is no incomplete file, and a file that existed before is unchanged. The "
    "progress\n"
    "bar shows on a terminal only.\n";
const char *const split_help =
    "Parts are OUT-00001-of-00003.gguf and so on (OUT without .gguf), as llama.cpp names them. The first "
    "has\n"
    "all metadata, and a model is loaded by the path of its first part. The parts appear together, when all\n"
    "are complete. Every command accepts a model in parts, by its first.\n";
const char *const exit_help = "Exit status: 0 done; 1 failed, and a line on standard error names file, field "
                              "and value; 2 wrong usage.\n";

CLI::App *add_convert(CLI::App &app, flags &f) {
    CLI::App *const c =
        app.add_subcommand("convert", "Turn a Hugging Face checkpoint directory into one GGUF file");
    c->add_option("DIR", f.in, "Checkpoint directory")->required()->type_name("");
    c->add_option("OUT", f.out, "GGUF file to write")->required()->type_name("");
    add_writing(c, f, false, true);
    c->add_option("--name", f.name, "general.name in the file; default: the directory's name")
        ->type_name("TEXT");
    c->add_flag("--vocab-only", f.vocab_only,
                "Write metadata and vocabulary, no tensors; DIR needs no weights then, nor config.json");
    std::string classes;
    for (const ds::arch *const a : ds::architectures()) {
        classes += classes.empty() ? "" : ", ";
        for (const char *p = a->checkpoint_class; *p; ++p) classes += *p == ' ' ? ", " : std::string(1, *p);
    }
    c->footer("Reads from DIR:\n"
              "  config.json                  architecture and sizes (" +
              classes +
              ")\n"
              "  tokenizer.json               vocabulary and merges; the pre-tokenizer is recognised by its "
              "patterns\n"
              "  tokenizer_config.json        special tokens, chat template (optional; also "
              "chat_template.jinja, chat_template.json)\n"
              "  generation_config.json       end tokens (optional)\n"
              "  model.safetensors            weights in F32, F16, BF16 or FP8 (E4M3 with a scale a block), "
              "or shards named by\n"
              "                               model.safetensors.index.json\n"
              "A tensor that is missing, has another shape, or is not part of the architecture is an error\n"
              "that names it, and so is a weight that is not finite. Tied embeddings are stored once.\n"
              "Memory stays below twice the largest tensor plus 100 MB. The file also runs in llama.cpp, if\n"
              "its type does. With --calibration, --imatrix or --type mixed a file without loss is written\n"
              "beside OUT first, and removed at the end.\n\n" +
              types_help + "\n" + int8_help + "\n" + writing_help + split_help +
              "\nExample:\n  quantize convert DeepSeek-R1-Distill-Qwen-1.5B r1-1.5b.gguf --type q8_0\n\n" +
              exit_help);
    return c;
}

CLI::App *add_synth(CLI::App &app, flags &f) {
    CLI::App *const c = app.add_subcommand("synth", "Write a GGUF file of a named shape with random weights");
    c->add_option("OUT", f.out, "GGUF file to write")->required()->type_name("");
    c->add_option("-s,--shape", f.shape, "Shape; see below")
        ->required()
        ->transform(CLI::IsMember(ds::synth_shapes(), CLI::ignore_case).description(""))
        ->type_name("NAME");
    c->add_option("--layers", f.layers, "Layers, instead of the shape's")
        ->check(CLI::Range(1, 1000).description(""))
        ->type_name("N");
    c->add_option("--vocabulary", f.vocabulary, "Tokens of the vocabulary, instead of the shape's")
        ->check(CLI::Range(static_cast<int>(ds::fewest_synthetic_tokens), 1 << 20).description(""))
        ->type_name("N");
    c->add_option("--seed", f.seed, "The same seed, shape and type give the same file")
        ->check(whole_number)
        ->type_name("N")
        ->capture_default_str();
    add_writing(c, f, false, false);
    std::string shapes = "Shapes:\n";
    for (const std::string &s : ds::synth_shapes())
        shapes +=
            "  " + s + std::string(12 - std::min<size_t>(s.size(), 11), ' ') + ds::synth_shape_text(s) + "\n";
    c->footer("For benchmarks and tests: such a file runs at the speed of the real model, and its answers\n"
              "are random. The weights' deviation, 1 / sqrt(columns), keeps activations in a usual range;\n"
              "within a file they repeat pieces of a tile of a million numbers. The vocabulary is\n"
              "synthetic, and any text tokenizes.\n\n" +
              shapes + "\n" + types_help + "\n" + writing_help + split_help +
              "\nExample:\n  quantize synth --shape r1-1.5b --type q8_0 random.gguf\n\n" + exit_help);
    return c;
}

CLI::App *add_requantize(CLI::App &app, flags &f) {
    CLI::App *const c =
        app.add_subcommand("requantize", "Write a GGUF file's tensors in another number format");
    c->add_option("IN", f.in, "GGUF file in any format that runs")->required()->type_name("");
    c->add_option("OUT", f.out, "GGUF file to write; may be IN")->required()->type_name("");
    add_writing(c, f, true, true);
    c->footer(std::string("The metadata stays, except what it says of number formats. Tensors that the\n"
                          "architecture keeps in f32 are copied. A larger format than IN's is allowed,\n"
                          "with a remark: the file grows and regains no precision.\n\n") +
              types_help + "\n" + int8_help + "\n" + writing_help + split_help +
              "\nExamples:\n  quantize requantize r1-bf16.gguf r1-q8_0.gguf --type q8_0\n"
              "  quantize requantize r1-bf16.gguf r1-q4_k_m.gguf --type q4_k_m --imatrix r1.imatrix.gguf\n"
              "  quantize requantize r1-bf16.gguf r1-int8.gguf --type int8 --calibration r1.stats\n"
              "  quantize requantize r1-bf16.gguf r1-mixed.gguf --type mixed --text talks.txt --max-nll-loss "
              "0.002\n\n" +
              exit_help);
    return c;
}

CLI::App *add_split(CLI::App &app, flags &f) {
    CLI::App *const c = app.add_subcommand("split", "Write a GGUF file as several");
    c->add_option("IN", f.in, "GGUF file, or the first of several")->required()->type_name("");
    c->add_option("OUT", f.out, "The prefix of the parts' names")->required()->type_name("");
    add_splitting(c, f);
    c->add_flag("-q,--quiet", f.quiet, "No progress bar and no remarks");
    c->footer(std::string(split_help) +
              "Tensors are copied unchanged, of any architecture and number format.\n" + writing_help +
              "\nExample:\n  quantize split r1-q8_0.gguf parts/r1-q8_0 --split-max 40G\n\n" + exit_help);
    return c;
}

CLI::App *add_merge(CLI::App &app, flags &f) {
    CLI::App *const c = app.add_subcommand("merge", "Write a model in several GGUF files as one");
    c->add_option("FIRST", f.in, "The first part, …-00001-of-00003.gguf")->required()->type_name("");
    c->add_option("OUT", f.out, "GGUF file to write")->required()->type_name("");
    c->add_flag("-q,--quiet", f.quiet, "No progress bar and no remarks");
    c->footer(
        std::string("For parts made by `quantize split`, the result is the original file, byte for byte.\n") +
        writing_help + "\nExample:\n  quantize merge parts/r1-q8_0-00001-of-00018.gguf r1-q8_0.gguf\n\n" +
        exit_help);
    return c;
}

CLI::App *add_adapt(CLI::App &app, flags &f) {
    CLI::App *const c = app.add_subcommand("adapt", "Write a model with a LoRA adapter added to its weights");
    c->add_option("MODEL", f.in, "GGUF file in any format that runs")->required()->type_name("");
    c->add_option("ADAPTER", f.adapter, "GGUF file of an adapter of this model")->required()->type_name("");
    c->add_option("OUT", f.out, "GGUF file to write")->required()->type_name("");
    c->add_option("--scale", f.scale, "A factor of the adapter's own scale")
        ->check(CLI::Range(-1e6f, 1e6f).description(""))
        ->type_name("X")
        ->capture_default_str();
    add_writing(c, f, false, false);
    c->footer(
        "Each adapted matrix W becomes W + scale * alpha / rank * b a, in double, rounded once. Without\n"
        "--type the matrices that change stay in their formats, and all others are copied.\n" +
        std::string(writing_help) + split_help +
        "\nExample:\n  quantize adapt r1-bf16.gguf style.gguf r1-style.gguf --type q8_0\n\n" + exit_help);
    return c;
}

CLI::App *add_calibrate(CLI::App &app, flags &f) {
    CLI::App *const c =
        app.add_subcommand("calibrate", "Measure the inputs of a model's matrix products, for --calibration");
    c->add_option("MODEL", f.in, "GGUF file, best in a float format: f32, f16, bf16")
        ->required()
        ->type_name("");
    c->add_option("TEXT", f.texts, "Texts like those that the model will see; its own answers are suitable")
        ->required()
        ->type_name("");
    c->add_option("-o,--output", f.out, "File of statistics to write")->required()->type_name("STATS");
    c->add_option("-c,--context", f.calibrate.window,
                  "Tokens of a window, 2 or more; default: 512, or the model's context if that is shorter")
        ->check(CLI::Range(int64_t(2), int64_t(1) << 31).description(""))
        ->type_name("N");
    c->add_option("-n,--tokens", f.calibrate.tokens,
                  "The most tokens to read, in windows spread over the texts")
        ->check(CLI::Range(uint64_t(2), uint64_t(1) << 32).description(""))
        ->type_name("N")
        ->capture_default_str();
    add_running(c, f);
    c->footer("Runs the model over the texts and writes, for the input of each matrix, every channel's\n"
              "largest magnitude and mean square, and some whole rows to try formats on. The statistics fit\n"
              "this model in any float format, and are refused for another model. A text may be any bytes:\n"
              "invalid UTF-8 is read as it is, with a remark, and control tokens may be written as their\n"
              "text. A text longer than the context is read in windows, each without what came before it.\n"
              "Some tens of thousands of tokens are plenty.\n\n"
              "Example:\n  quantize calibrate r1-bf16.gguf answers.txt talks.txt -o r1.stats\n  quantize "
              "requantize r1-bf16.gguf r1-int8.gguf --type int8 --calibration r1.stats\n\n" +
              std::string(exit_help));
    return c;
}

CLI::App *add_inspect(CLI::App &app, flags &f) {
    CLI::App *const c = app.add_subcommand("inspect", "Show a GGUF file's keys, tensors, types and sizes");
    c->add_option("FILE", f.in, "GGUF file")->required()->type_name("");
    c->add_flag("--json", f.json, "One JSON object: file, version, metadata, tensors, totals");
    c->add_flag("--no-tensors", f.no_tensors, "Leave out the list of tensors");
    c->add_option("--elements", f.elements, "Elements shown of an array")
        ->check(whole_number)
        ->type_name("N")
        ->capture_default_str();
    c->footer(std::string("Shapes are written outermost first: [rows, columns]. Formats that this build\n"
                          "cannot run are listed as well; bits a weight include scales and offsets. The\n"
                          "JSON's metadata is a list of {key, type, array, count, value}, value as text;\n"
                          "its tensors are {name, type, shape, bytes, offset}, and for a model in several\n"
                          "files also part, an index in the list parts.\n\n"
                          "Example:\n  quantize inspect models/tiny-r1.gguf --no-tensors\n\n") +
              exit_help);
    return c;
}

// The files of a model, given the first.
std::vector<std::string> files_of(const std::string &path) {
    const ds::gguf_file f = ds::gguf_file::open(path);
    std::vector<std::string> out;
    for (size_t i = 0; i < f.part_count(); ++i) out.push_back(f.part_name(i));
    return out;
}

// The inputs that OUT may not replace. Requantizing a file in place is fine, but not one of several parts.
std::vector<std::string> inputs_of(const flags &f, const std::string &command) {
    std::vector<std::string> out = f.texts;
    out.insert(out.end(), f.mixed.texts.begin(), f.mixed.texts.end());
    for (const std::string &statistics : {f.calibration, f.imatrix, f.adapter})
        if (!statistics.empty()) out.push_back(statistics);
    if (command == "convert") {
        const std::vector<std::string> checkpoint = ds::checkpoint_inputs(f.in);
        out.insert(out.end(), checkpoint.begin(), checkpoint.end());
    } else if (command != "synth") {
        const std::vector<std::string> model = files_of(f.in);
        if (command != "requantize" || model.size() > 1) out.insert(out.end(), model.begin(), model.end());
    }
    return out;
}

// Runs an operation that writes, with the progress bar and remarks that the flags ask for.
void with_job(const flags &f, const CLI::App &command, bool in_parts,
              const std::function<void(const ds::job &)> &run) {
    ds::progress_bar bar(!f.quiet && isatty(STDERR_FILENO));
    ds::job j;
    j.threads = f.threads;
    j.inputs = inputs_of(f, command.get_name());
    if (!in_parts) ds::refuse_inputs(f.out, j.inputs);  // now, not after hours of work
    if (in_parts) j.split = f.split;
    j.progress = [&](uint64_t done, uint64_t total) {
        bar.update(done, total);
        return !stop_requested;
    };
    if (!f.quiet)
        j.note = [](const std::string &text) { fprintf(stderr, "quantize: note: %s\n", text.c_str()); };
    run(j);
}

void requantize(const flags &f, const std::string &in, const ds::job &j) {
    ds::mixed_options mixed = f.mixed;
    mixed.calibration = f.calibration;
    if (f.type == mixed_text) ds::requantize_mixed(in, f.out, mixed, j);
    else if (!f.imatrix.empty()) ds::requantize_by_imatrix(in, f.out, type_of(f), f.imatrix, j);
    else if (!f.calibration.empty() && ds::is_weighted(type_of(f)))
        ds::requantize_weighted(in, f.out, type_of(f), f.calibration, j);
    else if (!f.calibration.empty()) ds::requantize_smoothed(in, f.out, type_of(f), f.calibration, j);
    else ds::requantize(in, f.out, type_of(f), j);
}

// Statistics and measurements apply to a GGUF file, so the checkpoint is first converted to one without loss.
void convert(const flags &f, const ds::job &j) {
    const bool in_two_steps = f.type == mixed_text || !f.calibration.empty() || !f.imatrix.empty();
    if (!in_two_steps || f.vocab_only) return ds::convert(f.in, f.out, {type_of(f), f.vocab_only, f.name}, j);
    const ds::scratch_file whole(f.out);
    ds::job one_file = j;
    one_file.split.reset();
    ds::convert(f.in, whole.path(), {ds::lossless_type(f.in), false, f.name}, one_file);
    requantize(f, whole.path(), j);
}

void inspect(const flags &f) {
    // nlohmann-json allocates in destructors, where a failure cannot be reported. Nothing is written here
    // that could be left incomplete.
    std::set_new_handler([] {
        const std::string_view text = "quantize: out of memory\n";
        if (write(STDERR_FILENO, text.data(), text.size()) < 0) _exit(1);  // nowhere left to report it
        _exit(1);
    });
    const ds::gguf_file file = ds::gguf_file::open(f.in);
    const ds::inspect_options o{f.elements, !f.no_tensors};
    const std::string text = f.json ? ds::inspect_json(file, o) : ds::inspect_text(file, o);
    if (fwrite(text.data(), 1, text.size(), stdout) != text.size() || fflush(stdout) != 0)
        throw ds::error(ds::status::io, "standard output: cannot be written");
}

// False if output was lost, on a full disk for example.
bool output_arrived() { return std::cout.flush().good() && fflush(stdout) == 0 && !ferror(stdout); }

// CLI11 reports only that a command is missing. Before the command, --help is the only option.
void check_command(const CLI::App &app, int argc, char **argv) {
    const std::string word = argc < 2 ? "" : argv[1];
    if (word == "-h" || word == "--help") return;
    std::string known;
    for (const CLI::App *const c : app.get_subcommands([](const CLI::App *) { return true; })) {
        if (c->get_name() == word) return;
        known += (known.empty() ? "" : ", ") + c->get_name();
    }
    if (word.empty()) throw CLI::ValidationError("needs a command; commands: " + known);
    if (word[0] == '-') throw CLI::ValidationError(word, "comes after the command; commands: " + known);
    throw CLI::ValidationError(word, "no such command; commands: " + known);
}

}  // namespace

static int run(int argc, char **argv) {
    flags f;
    CLI::App app("Makes, changes and shows GGUF files for deepseek. `quantize COMMAND --help` "
                 "describes a command.",
                 "quantize");
    app.require_subcommand(1);
    const CLI::App *const to_convert = add_convert(app, f), *const to_synth = add_synth(app, f),
                          *const to_requantize = add_requantize(app, f),
                          *const to_calibrate = add_calibrate(app, f), *const to_split = add_split(app, f),
                          *const to_merge = add_merge(app, f), *const to_adapt = add_adapt(app, f);
    add_inspect(app, f);
    app.footer(exit_help);
    try {
        check_command(app, argc, argv);
        app.parse(argc, argv);
        for (const CLI::App *const c : {to_convert, to_requantize})
            if (c->parsed()) check_together(f, *c);
        if (to_split->parsed() && !wants_parts(*to_split))
            throw CLI::ValidationError("split", std::string("needs ") + split_bytes + " or " + split_tensors +
                                                    ", or both");
    } catch (const CLI::ParseError &e) {
        if (app.exit(e) != 0) return 2;
        if (output_arrived()) return 0;
        fputs("quantize: standard output: cannot be written\n", stderr);
        return 1;
    }
    install_signals();
    try {
        if (to_convert->parsed())
            with_job(f, *to_convert, wants_parts(*to_convert), [&](const ds::job &j) { convert(f, j); });
        else if (to_synth->parsed())
            with_job(f, *to_synth, wants_parts(*to_synth), [&](const ds::job &j) {
                ds::synthesize(f.out, {f.shape, type_of(f), f.seed, f.layers, f.vocabulary}, j);
            });
        else if (to_requantize->parsed())
            with_job(f, *to_requantize, wants_parts(*to_requantize),
                     [&](const ds::job &j) { requantize(f, f.in, j); });
        else if (to_adapt->parsed())
            with_job(f, *to_adapt, wants_parts(*to_adapt), [&](const ds::job &j) {
                ds::apply_adapter(f.in, f.adapter, f.scale,
                                  given(*to_adapt, "--type") ? std::optional(type_of(f)) : std::nullopt,
                                  f.out, j);
            });
        else if (to_split->parsed() || to_merge->parsed())
            with_job(f, to_split->parsed() ? *to_split : *to_merge, to_split->parsed(),
                     [&](const ds::job &j) { ds::copy_gguf(f.in, f.out, j); });
        else if (to_calibrate->parsed())
            with_job(f, *to_calibrate, false,
                     [&](const ds::job &j) { save(ds::calibrate(f.in, f.texts, f.calibrate, j), f.out); });
        else inspect(f);
    } catch (const std::bad_alloc &) {
        throw;
    } catch (const std::exception &e) {
        fprintf(stderr, "quantize: %s\n", e.what());
        return 1;
    }
    return 0;
}

int main(int argc, char **argv) {
    try {
        return run(argc, argv);
    } catch (const std::bad_alloc &) {  // also while the flags are described
        fputs("quantize: out of memory\n", stderr);
        return 1;
    }
}
