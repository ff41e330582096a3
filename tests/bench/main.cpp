// bench: the speed of a GGUF file on this machine, beside the machine's limits. This file has the flags, the
// table and the JSON; it measures nothing.
#include "bandwidth.h"
#include "device.h"
#include "peak.h"
#include "prefix.h"
#include "quiet.h"
#include "speed.h"
#include "text.h"

#include "../../ggml-cpu/cpu.h"
#include "../../tensor/gguf.h"
#include "../../tensor/os.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>

namespace {

struct options {
    std::string model;
    bench::speed_options speed;
    bool json = false, no_text = false, no_speed = false, no_limits = false;
    unsigned prefix = 0, suffix = 40;
    unsigned device = 0;
    bench::device_options on_device;
};

std::string processor_name() {
    std::ifstream in("/proc/cpuinfo");
    for (std::string line; std::getline(in, line);)
        if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos)
            return line.substr(line.find(": ") + 2);
    return "unknown";
}

std::map<unsigned, double> bandwidths(const std::vector<unsigned> &threads) {
    std::map<unsigned, double> out;
    for (const unsigned t : threads) {
        bench::reader r(t);
        for (int pass = 0; pass < 18; ++pass) r.pass();
        out[t] = r.best();
    }
    return out;
}

// The peak of integer products on registers, by instruction set and threads; measured on first use.
class integer_peaks {
public:
    explicit integer_peaks(bench::quiet_probe &probe) : probe_(probe) {}
    bench::peak of(const bench::speed &s) {
        const auto [at, made] = known_.try_emplace({s.isa, s.threads});
        if (made && s.integers) at->second = bench::integer_peak(s.isa, s.threads, probe_);
        return at->second;
    }

private:
    bench::quiet_probe &probe_;
    std::map<std::pair<std::string, unsigned>, bench::peak> known_;
};

// The limit of a test: bytes read a second for a decode, integer operations a second for a prompt.
struct limits {
    bool known;
    integer_peaks peaks;
    bench::peak of(const bench::speed &s) {
        if (!known) return {};
        return s.decode ? bench::peak{s.read_per_second, true} : peaks.of(s);
    }
};
double reached(const bench::speed &s) { return s.decode ? s.bytes_per_second : s.token_ops * s.best(); }

// ---- The table

void print_machine(const std::map<unsigned, double> &bandwidth) {
    std::printf("machine     %s, %u processors; instruction sets", processor_name().c_str(),
                ds::os::processor_count());
    for (const char *isa : ds::cpu_isas()) std::printf(" %s", isa);
    std::printf("\n");
    for (const auto &[threads, rate] : bandwidth)
        std::printf("reads       %.1f GB/s with %u thread%s (a sum over %zu MiB, the best of 18)\n",
                    rate / 1e9, threads, threads == 1 ? "" : "s", bench::reader::bytes() >> 20);
}

void print_text(const bench::vocabulary_speed &v) {
    std::printf("vocabulary  %zu tokens, loaded in %.2f ms\n\n", v.tokens, 1e3 * v.load_seconds);
    std::printf("| 1 MiB of text      |   tokens |      ms |   MB/s "
                "|\n|--------------------|---------:|--------:|-------:|\n");
    const auto lines = [](const char *suffix, const auto &list) {
        for (const auto &l : list)
            std::printf("| %-18s | %8zu | %7.1f | %6.1f |\n", (l.name + suffix).c_str(), l.tokens,
                        1e3 * l.seconds, static_cast<double>(l.bytes) / 1e6 / l.seconds);
    };
    lines("", v.encode);
    lines(", back", v.decode);
}

void print_head() {
    std::printf(
        "\n| test                | threads | isa         |     quiet | tokens/s, median |     best |   "
        "Gop/s |   GB/s |  limit |  share |\n"
        "|---------------------|--------:|-------------|----------:|-----------------:|---------:|----"
        "----:|-------:|-------:|-------:|\n");
}

std::string test_name(const bench::speed &s) {
    std::string out = (s.decode ? "decode " : "prompt ") + std::to_string(s.tokens);
    if (s.depth > 1) out += " @ " + std::to_string(s.depth);
    if (s.requests > 1) out += " x " + std::to_string(s.requests);
    return out;
}

void print_row(const bench::speed &s, const bench::peak &limit) {
    const std::string quiet = std::to_string(s.quiet) + "/" + std::to_string(s.repetitions);
    std::printf("| %-19s | %7u | %-11s | %9s | %16.2f | %8.2f | %7.1f |", test_name(s).c_str(), s.threads,
                s.isa.c_str(), quiet.c_str(), s.median(), s.best(), s.token_ops * s.best() / 1e9);
    if (s.bytes_per_second > 0) std::printf(" %6.1f |", s.bytes_per_second / 1e9);
    else std::printf("        |");
    if (limit.rate > 0)
        std::printf(" %6.1f%c| %4.0f %% |\n", limit.rate / 1e9, limit.quiet ? ' ' : '?',
                    100 * reached(s) / limit.rate);
    else std::printf("        |        |\n");
    std::fflush(stdout);
}

void print_memory(const bench::memory &m) {
    const auto mebibytes = [](uint64_t n) { return static_cast<double>(n) / (1 << 20); };
    std::printf("\nmemory      planned %.0f MiB, weights %.0f MiB of them; resident at most %.0f MiB\n",
                mebibytes(m.planned), mebibytes(m.weights), mebibytes(m.resident));
}

void print_prefix(const bench::prefix_speed &p) {
    std::printf("\nprefix      %u tokens and %u of its own: first token after %.1f ms; with the prefix "
                "cached after %.1f ms, %.2f times a step over %u rows there (%.1f ms)\n",
                p.prefix, p.suffix, 1e3 * p.cold, 1e3 * p.warm, p.warm / p.step, p.suffix, 1e3 * p.step);
    std::printf("steps       of %u answers after it: %.2f ms, of which %.1f us outside the model\n",
                p.requests, 1e3 * p.decode, 1e6 * p.beside);
}

// ---- JSON

using nlohmann::ordered_json;

ordered_json json_of(const bench::vocabulary_speed &v) {
    ordered_json out = {{"tokens", v.tokens}, {"load_seconds", v.load_seconds}};
    const auto lines = [&](const char *name, const auto &list) {
        for (const auto &l : list)
            out[name].push_back(
                {{"text", l.name}, {"bytes", l.bytes}, {"tokens", l.tokens}, {"seconds", l.seconds}});
    };
    lines("encode", v.encode);
    lines("decode", v.decode);
    return out;
}

ordered_json json_of(const bench::speed &s, const bench::peak &limit) {
    ordered_json out = {{"test", s.decode ? "decode" : "prompt"},
                        {"tokens", s.tokens},
                        {"depth", s.depth},
                        {"requests", s.requests},
                        {"threads", s.threads},
                        {"isa", s.isa},
                        {"tokens_per_second", s.median()},
                        {"tokens_per_second_best", s.best()},
                        {"repetitions", s.repetitions},
                        {"quiet_repetitions", s.quiet},
                        {"ops_per_second", s.token_ops * s.best()}};
    if (s.bytes_per_second > 0) out["bytes_per_second"] = s.bytes_per_second;
    if (s.decode) out["all_tokens_per_second_best"] = s.all_best;
    if (limit.rate > 0) {
        out["limit"] = limit.rate, out["share"] = reached(s) / limit.rate;
        if (!s.decode) out["limit_quiet"] = limit.quiet;
    }
    return out;
}

ordered_json json_of(const bench::prefix_speed &p) {
    return {{"prefix", p.prefix},
            {"suffix", p.suffix},
            {"requests", p.requests},
            {"cold_seconds", p.cold},
            {"warm_seconds", p.warm},
            {"step_seconds", p.step},
            {"decode_step_seconds", p.decode},
            {"outside_model_seconds", p.beside}};
}

// ---- Flags

void add_flags(CLI::App &app, options &o) {
    const unsigned processors = ds::os::processor_count();
    o.speed.prompts = {32, 512};
    o.speed.answers = {64};
    o.speed.depths = {1};
    o.speed.requests = {1};
    o.speed.threads = processors > 1 ? std::vector<unsigned>{1, processors} : std::vector<unsigned>{1};
    const auto list = [&](const char *name, std::vector<unsigned> &to, const char *help, unsigned max) {
        app.add_option(name, to, help)
            ->delimiter(',')
            ->allow_extra_args(false)
            ->type_name("N,N,…")
            ->check(CLI::Range(1u, max).description(""))
            ->capture_default_str();
    };
    app.add_option("MODEL", o.model,
                   "GGUF file; of one without weights only the vocabulary is measured. Not with --device")
        ->type_name("");
    list("-p,--prompt", o.speed.prompts, "Prompt lengths", 1u << 20);
    list("-n,--new", o.speed.answers, "Answer lengths", 1u << 20);
    list("-d,--depth", o.speed.depths, "Positions before the answer", 1u << 20);
    list("-b,--requests", o.speed.requests, "Requests that decode at once", 4096);
    list("-t,--threads", o.speed.threads, "Threads", 1024);
    app.add_option("-r,--repetitions", o.speed.repetitions,
                   "Of each test, at least; it also runs for half a second at least")
        ->type_name("N")
        ->check(CLI::Range(1u, 1000u).description(""))
        ->capture_default_str();
    app.add_option("--up-to", o.speed.up_to,
                   "Times as many repetitions, while fewer than asked are quiet (see below)")
        ->type_name("N")
        ->check(CLI::Range(1u, 1000u).description(""))
        ->capture_default_str();
    const std::map<std::string, ds_kv_type> kv = {
        {"f16", DS_KV_F16}, {"f32", DS_KV_F32}, {"int8", DS_KV_INT8}};
    app.add_option(
           "--kv", o.speed.kv,
           "Number format of keys and values: f16, f32, int8 (of models of int8 only, and their default)")
        ->transform(CLI::CheckedTransformer(kv, CLI::ignore_case).description(""))
        ->type_name("TYPE");
    const std::map<std::string, ds_mla_form> mla = {{"auto", DS_MLA_AUTO}, {"absorbed", DS_MLA_ABSORBED}};
    app.add_option("--mla", o.speed.mla, "How latents are attended to: auto, absorbed")
        ->transform(CLI::CheckedTransformer(mla, CLI::ignore_case).description(""))
        ->type_name("FORM");
    app.add_option("--isa", o.speed.isa,
                   "Instruction set: scalar, avx2, avx512, avx512_vnni, avx512_bf16 (no AMX), amx, neon; "
                   "default: the best")
        ->type_name("NAME");
    app.add_option("--step-tokens", o.speed.step_tokens, "Rows of a step; default: the engine's")
        ->type_name("N");
    app.add_option("--prefix", o.prefix, "Measure instead what a shared prefix of so many tokens saves")
        ->type_name("N")
        ->check(CLI::Range(64u, 1u << 20).description(""));
    app.add_option("--suffix", o.suffix, "Tokens of each request's own after it")
        ->type_name("N")
        ->check(CLI::Range(1u, 512u).description(""))
        ->capture_default_str();
    app.add_flag("--no-text", o.no_text, "Leave out the vocabulary and the tokenizer");
    app.add_flag("--no-speed", o.no_speed, "Leave out prompts and answers");
    app.add_flag("--no-limits", o.no_limits,
                 "Leave out what this machine's memory and integer products give at most");
    app.add_option("--device", o.device,
                   "Measure instead a CUDA device, from 1 on: published shapes with random weights of int8; "
                   "prints JSON, and a table to stderr")
        ->type_name("N")
        ->check(CLI::Range(1u, 1024u).description(""));
    std::string parts;
    for (const std::string &name : bench::device_parts()) parts += (parts.empty() ? "" : ", ") + name;
    app.add_option("--part", o.on_device.part, "Of a device, one part alone: " + parts)
        ->type_name("NAME")
        ->check(CLI::IsMember(bench::device_parts()).description(""));
    app.add_flag("--quick", o.on_device.quick, "Of a device's shapes, less");
    app.add_flag("--json", o.json, "JSON instead of tables");
    app.footer(
        "Prompts and answers are random tokens. A prompt's rate is its tokens over the time to its first new "
        "token; the decode's rate begins after that.\n"
        "Gop/s count two operations for each weight that a token is multiplied with, at the best rate; GB/s "
        "are the weights and the part of the cache\n"
        "that a step of the decode reads, of routed experts those that any of its tokens is expected to "
        "meet. The limit of a decode is what as many\n"
        "threads read from memory in a plain sum (a cache that holds the model gives more). Memory's speed "
        "may change from second to second: both are\n"
        "medians of a decode with such a sum after every step. The limit of a prompt, of formats that are "
        "multiplied in integers, is what the\n"
        "instruction set's integer product reaches on registers alone, in Gop/s, measured in the same run.\n"
        "A repetition is quiet if a loop of additions just before and just after it runs within 10 % of its "
        "best speed in this run: then no neighbour\n"
        "takes part of the processor. Median and best are of the quiet ones, or of all if none is; so is the "
        "limit of a prompt, with a ? if none is.\n"
        "Texts that the vocabulary cannot spell are left out.\n\n"
        "Examples:\n  bench models/tiny-r1.gguf\n  bench r1-1.5b.gguf -p 128,512 -n 64 -d 1,2048 -t 1,2 "
        "--no-text\n");
}

int run(options &o) {
    if (o.prefix) {
        const bench::prefix_speed p = bench::measure_prefix(o.model, o.speed, o.prefix, o.suffix);
        if (o.json) std::printf("%s\n", json_of(p).dump(2).c_str());
        else print_prefix(p);
        return 0;
    }
    const bool weights = !ds::gguf_file::open(o.model).tensors().empty() && !o.no_speed;
    std::map<unsigned, double> bandwidth;
    if (weights && !o.no_limits) bandwidth = bandwidths(o.speed.threads);
    o.speed.reads = !o.no_limits;
    ordered_json out = {
        {"model", o.model}, {"processor", processor_name()}, {"processors", ds::os::processor_count()}};
    for (const auto &[threads, rate] : bandwidth)
        out["read_bandwidth"].push_back({{"threads", threads}, {"bytes_per_second", rate}});
    if (!o.json) print_machine(bandwidth);
    if (!o.no_text) {
        const bench::vocabulary_speed v = bench::measure_vocabulary(o.model);
        if (o.json) out["vocabulary"] = json_of(v);
        else print_text(v);
    }
    if (weights) {
        if (!o.json) print_head();
        bench::quiet_probe probe;
        limits limit{!o.no_limits, integer_peaks(probe)};
        const bench::memory m = bench::measure(o.model, o.speed, probe, [&](const bench::speed &s) {
            if (o.json) out["speed"].push_back(json_of(s, limit.of(s)));
            else print_row(s, limit.of(s));
        });
        if (o.json)
            out["memory"] = {{"planned", m.planned}, {"weights", m.weights}, {"peak_resident", m.resident}};
        else print_memory(m);
    }
    if (o.json) std::printf("%s\n", out.dump(2).c_str());
    return 0;
}

// Fails on a full disk, for example.
void check_output() {
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
        throw std::runtime_error("standard output: could not be written");
}

}  // namespace

int main(int argc, char **argv) {
    options o;
    CLI::App app(
        "Measures the speed of a GGUF file on this machine: vocabulary, tokenizer, prompts, answers.");
    add_flags(app, o);
    try {
        app.parse(argc, argv);
        if (o.model.empty() == (o.device == 0)) throw CLI::ValidationError("needs MODEL or --device");
        o.on_device.device = static_cast<int>(o.device) - 1;
        const int status = o.device ? bench::measure_device(o.on_device) : run(o);
        if (!status) check_output();
        return status;
    } catch (const CLI::ParseError &e) {
        if (app.exit(e)) return 2;
        if (std::cout.flush()) return 0;
        std::fputs("bench: standard output: could not be written\n", stderr);
        return 1;
    } catch (const std::exception &e) {
        std::fprintf(stderr, "bench: %s\n", e.what());
        return 1;
    }
}
