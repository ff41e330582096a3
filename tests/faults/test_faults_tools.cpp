// Fault injection into the tools (sweep.h): whatever fails, the output is either the old file or the complete
// new one, and no other file is left.
#include "../support/files.h"
#include "sweep.h"

#include "../../quantize/calibrate.h"
#include "../../quantize/requantize.h"

#include <map>

using namespace ds;
using namespace ds::test;

namespace {

// The status that a tool's work ends with.
ds_status status_of(const std::function<void()> &f) {
    try {
        f();
        return DS_OK;
    } catch (const error &e) {
        return static_cast<ds_status>(e.code);
    } catch (const std::bad_alloc &) {
        return DS_ERR_MEMORY;
    } catch (...) {
        return DS_ERR_INTERNAL;
    }
}

std::map<std::string, std::string> files_of(const temp_dir &dir) {
    std::map<std::string, std::string> out;
    for (const auto &entry : fs::directory_iterator(dir.path))
        out[entry.path().filename().string()] = file_bytes(entry.path().string());
    return out;
}

// `work` writes into `dir`, which contains the files `before`.
void sweep_writer(const std::string &what, const temp_dir &dir, const std::function<void()> &work) {
    const auto before = files_of(dir);
    std::map<std::string, std::string> whole;
    sweep(what, {[&] { return status_of(work); },
                 [&](ds_status status) {
                     const auto now = files_of(dir);
                     if (whole.empty()) whole = now;
                     if (status == DS_OK) CHECK(now == whole);
                     else CHECK((now == before || (status == DS_ERR_IO && now == whole)));
                     for (const auto &[name, bytes] : now)
                         if (!before.count(name)) fs::remove(dir / name);
                         else if (before.at(name) != bytes) write_bytes(dir / name, before.at(name));
                 },
                 DS_OK, true, golden::sanitized ? 10 : 30});
}

}  // namespace

TEST_CASE("faults: requantizing and calibrating") {
    const temp_dir dir, from;
    convert(data_path("micro/llama3"), from / "float.gguf",
            {.type = format::f16, .vocab_only = false, .name = ""}, {});
    std::ofstream(from / "text") << "What is 3 + 4? What is 37 + 85?";
    save(calibrate(from / "float.gguf", {from / "text"}, {.window = 16, .tokens = 32}, {}), from / "stats");
    write_bytes(dir / "out", "an old file");
    job j;
    j.threads = 2;
    for (const format type : {format::q4_0, format::i8})
        sweep_writer(std::string("requantize to ") + info(type).text, dir,
                     [&] { requantize(from / "float.gguf", dir / "out", type, j); });
    sweep_writer("requantize with calibration", dir, [&] {
        requantize_weighted(from / "float.gguf", dir / "out", format::i8, from / "stats", j);
    });
    sweep_writer("calibrate", dir, [&] {
        save(calibrate(from / "float.gguf", {from / "text"}, {.window = 16, .tokens = 32}, j), dir / "out");
    });
}

TEST_CASE("faults: conversion") {
    const temp_dir dir;
    write_bytes(dir / "out.gguf", "an old file");
    for (const char *name : {"micro/qwen2", "micro/deepseek-r1-fp8"})
        for (const format type : {format::q8_0, format::i8}) {
            // each once
            if (golden::sanitized && !every_n() &&
                (type == format::i8) == (name == std::string("micro/qwen2")))
                continue;
            job j;
            j.threads = 3;
            sweep_writer(std::string("convert ") + name + " to " + info(type).text, dir, [&] {
                convert(data_path(name), dir / "out.gguf", {.type = type, .vocab_only = false, .name = ""},
                        j);
            });
        }
}
